"""One delta tuned as people tune: what the linearised optimum says of the direction of the learning and of its size."""
