"""A live model as pure functions of its trainable numbers, which every probe takes."""
