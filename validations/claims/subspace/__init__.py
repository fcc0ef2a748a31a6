"""One code for several deltas: decoders found on other tasks, a code trained through one, read by another."""
