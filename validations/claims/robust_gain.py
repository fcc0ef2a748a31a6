"""C-robust: does adversarial training bring an adapter's gain towards that of the disturbance game?"""

from functools import partial

import numpy as np

from ..controls.disturbance import disturbance_setting
from ..verdict import Criterion
from .claim import CONVERGED, Cell, Claim, Comparison, lead, mean
from .noise_response import FOLLOWS
from .plants import own


def _rows(cell: Cell) -> list[dict]:
    p, m = cell.predicted.record, cell.measured.record["gain"]
    distance = m["trained"] - p["game"]
    return [
        cell.place
        | {
            "trained": m["trained"],
            "robust": m["robust"],
            "game": p["game"],
            "open": p["open"],
            "closed": (m["trained"] - m["robust"]) / distance,
            "closed_random": (m["trained"] - m["random"]) / distance,
            "closed_removed": (m["trained"] - p["open"]) / distance,
            "price": m["loss_robust"] - m["loss"],
        }
    ]


CLAIM = Claim(
    id="robust-gain",
    nature="prediction",
    view="control",
    title="Adversarial training moves an adapter towards the game's gain",
    statement="Training an adapter further against the worst disturbances at its ports, at the same price of control, closes more than "
    "a quarter of the distance between the gain of its loop and the least gain that the disturbance game allows.",
    equation='frac(gamma_"trained" - gamma_"robust", gamma_"trained" - gamma^*) > 1/4, quad gamma^* = min_K max_w frac(norm((M^(1/2) d y, r^(1/2) d u)), norm(w))',
    equation_alt="the gain of the trained adapter less that of the robust one, over the gain of the trained adapter less the "
    "game's, exceeds one quarter; the game's gain is the least over feedback laws of the largest ratio of outputs and "
    "controls to disturbances",
    derived="the game Riccati recursion on the frozen response in output coordinates, with the softmax curvature at the frozen logits, "
    "the running cost and a law of each example's own that sees every disturbance: a bound below what any adapter can reach",
    sources=("ding2023", "houlsby2019"),
    kind="disturbance",
    rows=_rows,
    statistic=Comparison("share of the distance to the game's gain that adversarial training closes", mean("closed")),
    criteria=(
        Criterion("closed", "share of the distance closed", mean("closed"), (0.25, np.inf), (0.1, np.inf)),
        Criterion(
            "lead", "share above that of removing the adapter", lead("closed", "closed_removed"), (0.0, np.inf), (-0.1, np.inf)
        ),
    ),
    rivals=(Comparison("the adapter removed", mean("closed_removed")),),
    nulls=(
        Comparison("the same training under random disturbances", mean("closed_random")),
        Comparison("held-out loss after less before, nats", mean("price")),
    ),
    assumptions=(CONVERGED, FOLLOWS),
    rule="Supported when adversarial training closes more than a quarter of the distance, and more than removing the adapter does; refuted "
    "when it closes less than a tenth, or a tenth less than removing the adapter.",
    reason="The game's law knows each example and sees every disturbance, which makes the distance long and the share hard to "
    "reach. The training is short, starts from the trained adapter, and uses disturbances as large as the linear regime allows, "
    "ten logits by prediction: smaller ones can be met by larger margins, which leave the gain as it is. A trained adapter may "
    "amplify disturbances, and then any weaker one has a smaller gain, so that none at all is the rival to beat.",
    change="A longer adversarial training, or a game whose law is shared by all examples as an adapter is.",
    good=partial(own, "disturbance", disturbance_setting),
    bad=partial(own, "disturbance", partial(disturbance_setting, blind=True)),
    good_is="linear adapters on gated linear plants",
    bad_is="an open-loop bias in the adapter's place, which cannot change the gain",
)
