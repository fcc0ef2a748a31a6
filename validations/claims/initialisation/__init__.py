"""Where a LoRA starts: at the law that its ensemble shares, or where its rivals start it."""
