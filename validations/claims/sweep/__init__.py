"""Sweeps of random subspaces as the literature runs them, from a head at zero."""
