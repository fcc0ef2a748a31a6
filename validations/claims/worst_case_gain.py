"""C-worst: how far the worst disturbance moves the outputs, and which way it points."""

from functools import partial

import numpy as np

from ..controls.disturbance import disturbance_setting
from ..verdict import Criterion
from .claim import CONVERGED, REGIME, Cell, Claim, Comparison, mean, mean_excess
from .noise_response import FOLLOWS
from .plants import own, swapped


def _rows(cell: Cell) -> list[dict]:
    """Return one row per radius."""
    names = [n for n in cell.measured.record["attacks"][0] if n not in ("eta", "tightness_adapter")]
    return [
        cell.place | {"eta": a["eta"], "inside": a["eta"] <= REGIME} | {n: a[n] for n in names}
        for a in cell.measured.record["attacks"]
    ]


CLAIM = Claim(
    id="worst-case-gain",
    nature="consistency",
    view="control",
    title="The open-loop gain bounds the worst disturbance, tightly",
    statement="However a bounded disturbance is chosen at the attention ports, it moves the class contrasts of a trained prefix by at most "
    "the gain of the frozen network times its size; attacks come close to the bound and point along the gain's own direction.",
    equation="max_(norm(w) <= epsilon) norm(C d h_T) <= gamma epsilon + O(epsilon^2), quad gamma_i = sigma_max (C [Phi_i (T, 1), dots.h, Phi_i (T, T)])",
    equation_alt="the largest change of the class contrasts under disturbances of norm at most epsilon is at most gamma times "
    "epsilon up to second order, gamma the largest singular value of the map from all disturbances to the contrasts",
    derived="the singular values and vectors of the frozen network's response to disturbances at its ports, example by example",
    sources=("ding2023", "li2021"),
    kind="disturbance",
    rows=_rows,
    statistic=Comparison("shift found by ascent over the bound, median over examples", mean("tightness_gamma")),
    criteria=(
        Criterion("tightness", "shift found over the bound", mean("tightness_gamma"), (0.6, 1.05), (0.6, 1.05)),
        Criterion("examples", "share of examples within [0.6, 1.05]", mean("within_gamma"), (0.8, np.inf), (0.5, np.inf)),
        Criterion(
            "direction",
            "cosine of attack and predicted direction above random ones",
            mean_excess("cosine", "cosine_random"),
            (0.1, np.inf),
            (0.0, np.inf),
        ),
    ),
    rivals=(
        Comparison("bound by the Frobenius norm", mean("tightness_frobenius")),
        Comparison("bound port by port", mean("tightness_ports_apart")),
        Comparison("bound by the product of layer norms", mean("tightness_layered")),
        Comparison("gain of the mean response", mean("tightness_gamma_mean")),
        Comparison("share within, gain of the mean response", mean("within_gamma_mean")),
        Comparison("cosine with the one direction worst for all", mean("cosine_shared")),
    ),
    nulls=(
        Comparison("share within, gain of another example", mean("within_gamma_permuted")),
        Comparison("cosine of random leading directions, 97.5 % quantile", mean("cosine_random")),
    ),
    assumptions=(CONVERGED, FOLLOWS),
    rule="Supported when the mean of the median ratio lies within [0.6, 1.05], more than four of five examples lie there, and the "
    "cosine exceeds that of random leading directions by 0.1; refuted when the ratio lies outside, fewer than half of the "
    "examples lie within, or the directions do no better than random ones.",
    reason="A bound that is never violated but loose says nothing, so both ends are tested, for disturbances of up to ten logits "
    "within the linear regime. The prefix was trained and the bound is the frozen network's: a prefix that raises its gain "
    "violates it. The ascent starts at random and is not told the direction.",
    change="A prefix that works as feedback through its gate, or disturbances beyond the linear regime.",
    good=partial(own, "disturbance", disturbance_setting),
    bad=partial(swapped, "disturbance", disturbance_setting),
    good_is="gated linear plants, on which the response does not depend on the prefix",
    bad_is="the gain of another plant",
)
