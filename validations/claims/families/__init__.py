"""One delta in subspaces drawn, found and scaled by layer."""
