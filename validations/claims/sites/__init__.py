"""One control at one port at a time: which ports are worth tuning."""
