"""Networks that turn pictures into features, boxes or ratings, by name."""
