"""Tuning as in practice along its tangent: where the run goes, how long the tangent holds, at which rate and in how many steps."""
