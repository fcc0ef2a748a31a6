"""What it is worth to a delta that its signal may depend on gates and on states."""
