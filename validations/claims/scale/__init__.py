"""The scale facts of delta tuning: gap to full tuning, convergence, d90 and linearity by size of the backbone and its pretraining."""
