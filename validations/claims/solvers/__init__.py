"""Solvers of optimal control on the real network: what they reach, and for how many passes through it."""
