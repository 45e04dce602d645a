"""Results as tables, plots and pictures."""
