"""The claims of LoRA without regret, beside what the tangent model says before training."""
