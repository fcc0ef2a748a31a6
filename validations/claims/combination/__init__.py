"""Deltas together: several at once, and one after another, against the best of them alone."""
