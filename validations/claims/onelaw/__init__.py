"""Whether a trained adapter is the feedback law that its ensemble shares."""
