"""Self-healing control of the whole residual state: what it takes off an attack, and whether that helps."""
