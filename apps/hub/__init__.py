"""What was learned, on the hub: a model card, and the files that belong together."""
