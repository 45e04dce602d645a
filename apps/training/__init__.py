"""One training loop for everything here that is trained."""
