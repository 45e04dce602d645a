"""What a search for heads is made of: images of a set, scores by rounds, their log, processes."""
