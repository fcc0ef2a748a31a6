"""Threshold dimensions with shuffled labels, and of fresh and shuffled networks."""
