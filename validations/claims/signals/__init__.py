"""Where a delta's training should lie, foretold from the signals that move a frozen network's outputs."""
