"""Linearising anew: what it reaches, and whether it says beforehand what the tangent misses."""
