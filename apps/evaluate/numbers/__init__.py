"""Scores of arrays of features, and how sure they are."""
