"""A run on its way from a config to results: what is built, where it stands, what it leaves, and back from disk."""
