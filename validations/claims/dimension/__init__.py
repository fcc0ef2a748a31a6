"""Training in random subspaces of a delta: the dimension that reaches a share of the gain, and the curve to it."""
