"""Intrinsic dimension: of a tuning problem by subspaces, of a minimum by its basin, of representations by neighbours."""
