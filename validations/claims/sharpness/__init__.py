"""Sharpness of tuned deltas against their generalisation gap."""
