"""C-profile: where along depth the control energy goes."""

from functools import partial

import numpy as np

from ..controls import bias_setting
from ..verdict import Criterion
from .claim import CONVERGED, LINEAR, Cell, Claim, Comparison, mean
from .plants import own, swapped

RIVALS = ("js_gradient", "js_uniform", "js_initial")


def _rows(cell: Cell) -> list[dict]:
    m = cell.measured.record
    ratio = float(np.log(max(m["js"], 1e-9) / max(min(m[r] for r in RIVALS), 1e-9)))
    return [cell.place | {name: m[name] for name in ("js", *RIVALS, "js_permuted")} | {"log_ratio": ratio}]


def _profile(cell: Cell) -> list[dict]:
    """Return each port's share of the energy: trained, predicted, gradient."""
    labels = cell.predicted.record["bins"]
    ports = [f"{int(label.split('.')[0]) + 1} {label.split('.')[1]}" for label in labels]
    series = {
        "trained": cell.measured.record["profile"],
        "predicted": cell.predicted.record["profile"],
        "gradient": cell.predicted.record["profile_gradient"],
    }
    return [
        cell.place
        | {"port": port}
        | {n: float(sum(v for v, p in zip(s, ports, strict=True) if p == port)) for n, s in series.items()}
        for port in dict.fromkeys(ports)
    ]


CLAIM = Claim(
    id="energy-profile",
    nature="consistency",
    view="control",
    title="The LQ optimum says which layers spend the control energy",
    statement="The share of control energy at each port (for a prefix, at each head and for keys and values apart) is that of "
    "the linear-quadratic optimum.",
    equation="e_t = frac(norm(u_t)^2_R, sum_s norm(u_s)^2_R), quad hat(u)_t = - R^(-1) B_t^top Phi(T, t + 1)^top C^top hat(nu)",
    equation_alt="the energy share of layer t is its squared control norm over the sum; the predicted control is the "
    "back-propagated dual variable",
    derived="the linear-quadratic optimum of the frozen model",
    sources=("ding2023", "li2018msa"),
    kind="tuned",
    deltas=("port-bias", "prefix"),
    rows=_rows,
    parts={"profile": _profile},
    statistic=Comparison("Jensen-Shannon divergence of trained and predicted shares, nats", mean("js")),
    criteria=(
        Criterion(
            "log ratio",
            "log of divergence over the best rival's",
            mean("log_ratio"),
            (-np.inf, float(np.log(0.7))),
            (-np.inf, 0.0),
        ),
    ),
    rivals=(
        Comparison("gradient", mean("js_gradient")),
        Comparison("uniform over ports", mean("js_uniform")),
        Comparison("share of the initial parameters", mean("js_initial")),
    ),
    nulls=(Comparison("prediction with the blocks in a random order, 2.5 % quantile", mean("js_permuted")),),
    assumptions=(CONVERGED, LINEAR),
    rule="Supported when the divergence is at most 0.7 of the smallest of the rivals', chosen anew in every cell; refuted when "
    "it is no smaller than that.",
    reason="The gradient profile is cheap and often close, so the prediction must be clearly closer; choosing the best rival in "
    "each cell favours the rivals.",
    change="A profile that follows the gradient, as it does when the penalty is large.",
    good=partial(own, "tuned", partial(bias_setting, contrast=2.0, readout=0.01)),
    bad=partial(swapped, "tuned", partial(bias_setting, contrast=2.0, readout=0.01)),
    good_is="gated linear plants, on which the linearisation is exact",
    bad_is="the prediction made for another plant",
)
