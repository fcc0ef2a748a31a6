"""Training under a hard budget of control energy."""
