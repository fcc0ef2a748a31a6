"""C-synthesis: a controller written down from the frozen model against one that is trained."""

from functools import partial

import numpy as np

from ...statistics import Columns
from ...verdict import Criterion
from ..shared.claim import CONVERGED, LINEAR, Assumption, Cell, Claim, Comparison
from ..shared.plants import own, swapped
from .experiment import EXPERIMENT
from .plants import synthesis_setting

GAINS = {
    "gain": "synthesised*",
    "gain_trained": "adapter",
    "gain_unscaled": "synthesised",
    "gain_regression": "regression*",
    "gain_random": "random*",
    "gain_constant": "shared*",
    "gain_gradient": "gradient*",
    "gain_bias": "bias*",
    "gain_bias_trained": "bias",
}


def _losses(cell: Cell) -> dict[str, float]:
    return {row["law"]: row["loss"] for row in cell.measured.values["laws"]}


def _rows(cell: Cell) -> list[dict]:
    loss = _losses(cell)
    gains = {column: loss["frozen"] - loss[law] for column, law in GAINS.items()}
    words = {"gain_prefix": loss["words"] - loss["prefix lq*"], "gain_prefix_trained": loss["words"] - loss["prefix"]}
    rival = max(gains["gain_random"], gains["gain_constant"])
    return [cell.place | gains | words | {"gain_rival": rival}]


def _laws(cell: Cell) -> list[dict]:
    """Return what every controller reaches on held-out text: loss, accuracy, signal energy."""
    return [
        cell.place | {name: row[name] for name in ("law", "loss", "accuracy", "energy")} for row in cell.measured.values["laws"]
    ]


def share(column: str, of: str = "gain_trained"):
    """Return the statistic "mean gain of a controller over the mean gain of the trained delta"; NaN where that gains nothing."""
    return lambda c: _over(np.mean(c[column]), np.mean(c[of]))


def _over(gain: float, trained: float) -> float:
    return float(gain / trained) if trained > 0 else float("nan")


def _margin(c: Columns) -> float:
    return _over(np.mean(c["gain"] - c["gain_rival"]), np.mean(c["gain_trained"]))


def _helps(cell: Cell) -> bool:
    loss = _losses(cell)
    return loss["adapter"] < loss["frozen"]


def _evidence(cells) -> str:
    gains = [_losses(cell)["frozen"] - _losses(cell)["adapter"] for cell in cells]
    return f"median held-out gain of the trained adapter {np.median(gains):.3f} nats"


HELPS = Assumption(
    "training helps",
    "the trained adapter has a lower loss on held-out text than the frozen model: there is a gain to share",
    _helps,
    _evidence,
    needed=0.75,
)

SYNTHESISED_ADAPTER = Claim(
    id="synthesised-adapter",
    nature="prediction",
    view="control",
    title="An adapter can be written down without training",
    statement="The optimal state feedback of the linearised network, solved in closed form and put into the real network as an "
    "adapter of the same bottleneck, reaches most of what the trained adapter gains on held-out text at equal signal energy.",
    equation="u_t = k_t + K_t phi_t (h_t), quad (k, K) = limits(arg min)_(k, K) 1/N sum_i ell_i (y_(0,i) + G_i (k, K)) + r/2 (norm(k)^2 + norm(K)_F^2)",
    equation_alt="the signal is k t plus K t times phi t of the state, where k and K minimise the mean loss of the linearised "
    "outputs plus half r times their squared norms",
    derived="the response of the logits to the law's own numbers, token by token, and the training labels; phi is whitened along "
    "as many principal directions of the port's states as the adapter's bottleneck has units",
    sources=("ding2023", "houlsby2019", "li2018msa"),
    experiment=EXPERIMENT,
    rows=_rows,
    parts={"laws": _laws},
    statistic=Comparison("share of the trained adapter's gain at equal energy", share("gain")),
    criteria=(
        Criterion("share", "share of the trained gain", share("gain"), (0.5, np.inf), (0.25, np.inf)),
        Criterion("margin", "share above the better rival's", _margin, (0.05, np.inf), (0.0, np.inf)),
    ),
    rivals=(
        Comparison("random feedback about the synthesised constant, best of eight", share("gain_random")),
        Comparison("best constant control", share("gain_constant")),
        Comparison("one gradient step in the law's numbers", share("gain_gradient")),
        Comparison("per-example optima regressed on the states", share("gain_regression")),
        Comparison("the synthesised law at its own energy", share("gain_unscaled")),
    ),
    nulls=(
        Comparison("synthesised bias, share of the trained bias's gain", share("gain_bias", "gain_bias_trained")),
        Comparison("synthesised prefix, share of the trained prefix's gain", share("gain_prefix", "gain_prefix_trained")),
    ),
    assumptions=(CONVERGED, LINEAR, HELPS),
    rule="Supported when the synthesised adapter reaches more than half of the trained adapter's gain and exceeds the better of "
    "random feedback and the best constant, chosen anew in every cell, by 0.05 of that gain; refuted below a quarter, or when it "
    "does not exceed them. Gains are means over cells, all controllers at the trained adapter's signal energy.",
    reason="Half of the gain without a single training step would make synthesis worth trying first; a constant control is the "
    "cheapest law, so feedback must add something to it.",
    change="More training text, so that the trained adapter gains more on held-out text, or running costs beyond the linear regime.",
    good=partial(own, EXPERIMENT, synthesis_setting),
    bad=partial(swapped, EXPERIMENT, synthesis_setting),
    good_is="gated linear plants with linear adapters, on which the linearised feedback problem is nearly exact",
    bad_is="the law of another plant",
)
