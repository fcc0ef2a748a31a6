"""The ends of a low-rank update's Hessian."""
