"""The record that estimators return: a value, its uncertainty, its sample size and its status."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from scipy import stats


@dataclass(frozen=True)
class Estimate:
    """One estimated number.

    stderr is the standard error of value and interval a confidence interval at level `confidence`; n is the
    sample size behind stderr (probes, points). products counts matrix-vector products, dropped the points
    left out as duplicates, parts the estimates that add up to or detail this one. status is "ok" or says what
    is wrong; method says how the number was found, where there was a choice.
    """

    quantity: str
    value: float
    stderr: float
    interval: tuple[float, float]
    n: int
    confidence: float = 0.95
    products: int = 0
    dropped: int = 0
    parts: Mapping[str, Estimate] = field(default_factory=dict)
    status: str = "ok"
    method: str = ""


def student(
    quantity: str, value: float, stderr: float, n: int, *, confidence: float = 0.95, degrees: int | None = None, **more
) -> Estimate:
    """Return an estimate with Student's interval on `degrees` degrees of freedom (default n - 1)."""
    degrees = n - 1 if degrees is None else degrees
    if degrees < 1:
        stderr = half = math.inf
    else:
        half = float(stats.t.ppf((1 + confidence) / 2, degrees)) * stderr
    return Estimate(quantity, value, stderr, (value - half, value + half), n, confidence, **more)
