"""Tables of generated tasks by area, each written as rows of sentence templates."""
