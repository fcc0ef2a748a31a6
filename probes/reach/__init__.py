"""What parameters, signals and prompts reach: responses, Gramians, energies, cones and linear maps."""
