"""What tuning with each delta comes to over many tasks: the order, the gap to full tuning, and the steps that it takes."""
