"""Claims of the methods, measured on the shipped models against known truth."""
