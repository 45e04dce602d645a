"""Scores of sets of pictures, and how sure they are."""
