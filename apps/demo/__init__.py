"""The web demo: compare guidance, soften heads, train a concept, evaluate, in a browser."""
