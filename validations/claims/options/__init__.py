"""A data base of what deltas gain at each of their rates, and what tells it before training."""
