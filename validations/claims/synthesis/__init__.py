"""Controllers computed from the frozen model and never trained."""
