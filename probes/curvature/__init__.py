"""Curvature of a loss or of the outputs in the parameters: operators, their spectra, densities and traces, block by block."""
