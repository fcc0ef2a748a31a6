"""What `costate probe` measures: a module for each kind of instrument, and the tables that they print."""
