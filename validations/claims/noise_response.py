"""C-noise: what noise at the ports costs in open and in closed loop."""

from functools import partial

import numpy as np

from ..controls.disturbance import disturbance_setting
from ..statistics import Columns
from ..verdict import Criterion
from .claim import CONVERGED, REGIME, Assumption, Cell, Claim, Comparison, error, mean
from .plants import own, swapped

FOLLOWS = Assumption(
    "linear regime",
    f"the frozen network answers the largest disturbance as its linear model says: median eta at most {REGIME}",
    lambda cell: cell.predicted.record["eta"] <= REGIME,
    lambda cells: f"median eta {np.median([c.predicted.record['eta'] for c in cells]):.2f}",
    needed=0.0,
)


def _rows(cell: Cell) -> list[dict]:
    """Return one row per noise level; every price is a loss per unit of the noise's variance."""
    p, prefix, adapter = cell.predicted.record, cell.measured.record["prefix"], cell.measured.record["adapter"]
    rows = []
    for level, eta, open_, closed, *etas in zip(
        p["scales"], p["eta_scales"], prefix["observed"], adapter["observed"], prefix["eta"], adapter["eta"], strict=True
    ):
        predicted, measured = adapter["closed"] - prefix["open"], closed - open_
        rows.append(
            cell.at(eta)
            | {
                "level": level,
                "prefix": open_ / prefix["open"],
                "adapter": closed / adapter["closed"],
                "prefix_off": _fold(open_ / prefix["open"]),
                "adapter_off": _fold(closed / adapter["closed"]),
                "sign": float(np.sign(predicted) == np.sign(measured)),
                "predicted": predicted,
                "measured": measured,
                "eta_trained": max(etas),
                "blind_off": _fold(closed / adapter["open"]),
                "one_port_off": _fold(closed / adapter["one_port"]),
                "adapter_blind": closed / adapter["open"],
                "prefix_one_port": open_ / prefix["one_port"],
                "adapter_one_port": closed / adapter["one_port"],
                "prefix_before": open_ / p["price_prefix"],
                "adapter_before": closed / p["price_adapter"],
                "prefix_permuted": open_ / prefix["open_permuted"],
            }
        )
    return rows


def _fold(ratio: float) -> float:
    """Return the factor max(ratio, 1 / ratio) between observed and predicted, at most 100 (where the price is not positive)."""
    return 100.0 if ratio <= 0 else min(max(ratio, 1.0 / ratio), 100.0)


def _over_blind(columns: Columns) -> float:
    """Return the mean log ratio of the adapter's factor to the one by which the open loop's price is off."""
    return float(np.mean(np.log(columns["adapter_off"] / columns["blind_off"])))


CLAIM = Claim(
    id="noise-response",
    nature="consistency",
    view="control",
    title="Noise costs what the observability Gramian says",
    statement="White noise on the sublayer outputs at the attention ports raises the held-out loss of a prefix by the trace of the "
    "frozen network's output Gramian and that of an adapter by the trace of the closed loop's, so that the prediction says which "
    "of the two suffers more.",
    equation='EE[Delta J] = frac(s^2, 2) sum_t tr(S_(t+1)), quad S_(t+1) = EE_i [G_(i t)^top M_i G_(i t)], quad G_(i t) = C Phi_i (T, t + 1), quad Phi^"closed" : A_t + B_t frac(partial pi_t, partial h)',
    equation_alt="the expected change of the loss is half the variance of the noise times the sum over ports of the trace of the "
    "output Gramian weighted with the softmax curvature; for an adapter the transition is that of the closed loop",
    derived="the frozen network's response to disturbances (prefix), the response with the trained adapter's feedback (adapter), "
    "and the softmax curvature at the trained logits; no noisy pass and no label",
    sources=("ding2023", "li2021", "houlsby2019"),
    kind="disturbance",
    rows=_rows,
    statistic=Comparison("observed over predicted price of noise, adapter", mean("adapter")),
    criteria=(
        Criterion("prefix", "factor by which the price is off, prefix", error("prefix_off"), (-np.inf, 1.25), (-np.inf, 1.25)),
        Criterion("adapter", "factor by which the price is off, adapter", error("adapter_off"), (-np.inf, 1.25), (-np.inf, 1.25)),
        Criterion(
            "lead",
            "log of the factor off over the open loop's, adapter",
            _over_blind,
            (-np.inf, 0.0),
            (-np.inf, float(np.log(1.1))),
        ),
    ),
    rivals=(
        Comparison("share with the predicted sign of adapter less prefix", mean("sign")),
        Comparison("adapter: the open loop's Gramian", mean("adapter_blind")),
        Comparison("adapter: measured at the first port, times the number of ports", mean("adapter_one_port")),
        Comparison("prefix: measured at the first port, times the number of ports", mean("prefix_one_port")),
        Comparison("adapter: the LQ law, before training", mean("adapter_before")),
        Comparison("prefix: the LQ control, before training", mean("prefix_before")),
    ),
    nulls=(
        Comparison("observed over predicted price of noise, prefix", mean("prefix")),
        Comparison("prefix: curvature of another example", mean("prefix_permuted")),
    ),
    assumptions=(CONVERGED, FOLLOWS),
    rule="Supported when the observed price lies within a factor of 1.25 of the predicted one on average, for the prefix and for "
    "the adapter, and the closed loop's price is closer than the open loop's in the mean log of the factors; refuted when a factor is "
    "larger or the open loop's price is closer by a factor of 1.1.",
    reason="The first-order effect of noise averages out, so the second order must be right by itself; the linear model has no "
    "curvature of its own, and a network whose normalisations shrink under noise would miss the band. Noise levels come from "
    "the frozen network, and so does the regime: what a tuned network does at a level does not drop it.",
    change="A network with strong curvature of its own at the ports, or noise beyond the linear regime.",
    good=partial(own, "disturbance", disturbance_setting),
    bad=partial(swapped, "disturbance", disturbance_setting),
    good_is="gated linear plants with a prefix that is a bias and a linear adapter",
    bad_is="the Gramian of another plant",
)
