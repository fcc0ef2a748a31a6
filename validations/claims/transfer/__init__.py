"""One control within the subspace of other tasks' controls."""
