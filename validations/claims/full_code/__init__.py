"""Full tuning that shares one code with deltas: inside it, between codes, and whether codes move the outputs alike."""
