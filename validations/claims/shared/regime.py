"""The constants of the linear regime, each defined here and nowhere else."""

ETA_LIMIT = 0.3  # a cell whose predicted control departs by more from linearity is not tested
MARGIN = 1.5  # of a penalty over the size of the most negative curvature: below that the start is a saddle
