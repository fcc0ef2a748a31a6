"""A small and a larger backbone: which is nearer to its tangent."""
