"""What a step of training takes with every delta: memory, CPU time, and room on disk, counted from shapes and measured."""
