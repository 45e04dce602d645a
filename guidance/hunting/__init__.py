"""What a search for heads is made of: images of a set, their log, progress, processes."""
