"""The shared gain solved again in the loop that it has closed, beside the trained adapter and beside other solvers."""
