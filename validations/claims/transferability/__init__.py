"""How far a delta tuned on one task serves another untrained: transfer within groups of tasks and between them."""
