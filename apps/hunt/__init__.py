"""The search for attention heads that serve an objective, as a program."""
