"""The loss's curvature in a delta before and after training."""
