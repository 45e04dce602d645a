"""Programs built on the guidance and personalize packages."""
