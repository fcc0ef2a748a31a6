"""What a sweep of rates says of the rate itself: the least dev loss of each, and where between them the best one lies."""

from collections.abc import Mapping, Sequence

import numpy as np


def least_dev_losses(runs: Sequence[Mapping]) -> tuple[np.ndarray, np.ndarray]:
    """Return (rates, least dev loss after training of each), by rate; a run that ceased to be finite keeps the loss at its start.

    runs: those of a cell's measurement.
    """
    told = sorted(runs, key=lambda run: run["rate"])
    reached = [[look["dev_loss"] for look in (run["looks"][1:] if run["finite"] else run["looks"][:1])] for run in told]
    return np.array([run["rate"] for run in told]), np.array([min(losses) for losses in reached])


def best_rate(runs: Sequence[Mapping]) -> float:
    """Return the rate at the minimum of the parabola through the rate of the least dev loss and its two neighbours.

    The parabola is that of the loss over the logarithm of the rate. A rate at either end of those tried is returned as it is.
    """
    return lowest(*least_dev_losses(runs))


def lowest(rates: np.ndarray, losses: np.ndarray) -> float:
    """Return the rate, between those tried from the lowest on, at the minimum of that parabola through some losses."""
    k = int(np.argmin(losses))
    if k in (0, len(rates) - 1):
        return float(rates[k])
    below, here, above = np.log2(rates[k - 1 : k + 2])
    falls = (losses[k - 1] - losses[k]) / (here - below)
    rises = (losses[k + 1] - losses[k]) / (above - here)
    if falls + rises <= 0:
        return float(rates[k])
    return float(2.0 ** ((here + below) / 2 + falls * (above - below) / (2 * (falls + rises))))
