"""Planted problems of known dimension, and what the measured one comes to."""
