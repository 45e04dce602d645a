"""Training of the parts that guidance asks, and of what it is taught."""
