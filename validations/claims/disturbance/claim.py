"""What noise at the ports costs, what the worst disturbance gains, and what training against it saves."""

from dataclasses import replace
from functools import partial

import numpy as np

from ...statistics import Columns
from ...verdict import Criterion
from ..shared.claim import CONVERGED, LINEAR, Cell, Claim, Comparison, error, lead, mean, mean_excess
from ..shared.plants import own, swapped
from ..shared.regime import ETA_LIMIT
from .experiment import EXPERIMENT
from .plants import disturbance_setting

FOLLOWS = replace(
    LINEAR,
    statement=f"the frozen network answers the largest disturbance as its linear model says: median eta at most {ETA_LIMIT}",
)
_COMMON = {
    "view": "control",
    "experiment": EXPERIMENT,
    "assumptions": (CONVERGED, FOLLOWS),
    "good": partial(own, EXPERIMENT, disturbance_setting),
}


def _noise_response_rows(cell: Cell) -> list[dict]:
    """Return one row per noise level; every price is a loss per unit of the noise's variance."""
    p, prefix, adapter = cell.predicted.values, cell.measured.values["prefix"], cell.measured.values["adapter"]
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


NOISE_RESPONSE = Claim(
    id="noise-response",
    nature="consistency",
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
    rows=_noise_response_rows,
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
    rule="Supported when the observed price lies within a factor of 1.25 of the predicted one on average, for the prefix and for "
    "the adapter, and the closed loop's price is closer than the open loop's in the mean log of the factors; refuted when a factor is "
    "larger or the open loop's price is closer by a factor of 1.1.",
    reason="The first-order effect of noise averages out, so the second order must be right by itself; the linear model has no "
    "curvature of its own, and a network whose normalisations shrink under noise would miss the band. Noise levels come from "
    "the frozen network, and so does the regime: what a tuned network does at a level does not drop it.",
    change="A network with strong curvature of its own at the ports, or noise beyond the linear regime.",
    bad=partial(swapped, EXPERIMENT, disturbance_setting),
    good_is="gated linear plants with a prefix that is a bias and a linear adapter",
    bad_is="the Gramian of another plant",
    **_COMMON,
)


def _worst_case_gain_rows(cell: Cell) -> list[dict]:
    """Return one row per radius."""
    names = [n for n in cell.measured.values["attacks"][0] if n not in ("eta", "tightness_adapter")]
    return [
        cell.place | {"eta": a["eta"], "inside": a["eta"] <= ETA_LIMIT} | {n: a[n] for n in names}
        for a in cell.measured.values["attacks"]
    ]


WORST_CASE_GAIN = Claim(
    id="worst-case-gain",
    nature="consistency",
    title="The open-loop gain bounds the worst disturbance, tightly",
    statement="However a bounded disturbance is chosen at the attention ports, it moves the class contrasts of a trained prefix by at most "
    "the gain of the frozen network times its size; attacks come close to the bound and point along the gain's own direction.",
    equation="max_(norm(w) <= epsilon) norm(C d h_T) <= gamma epsilon + O(epsilon^2), quad gamma_i = sigma_max (C [Phi_i (T, 1), dots.h, Phi_i (T, T)])",
    equation_alt="the largest change of the class contrasts under disturbances of norm at most epsilon is at most gamma times "
    "epsilon up to second order, gamma the largest singular value of the map from all disturbances to the contrasts",
    derived="the singular values and vectors of the frozen network's response to disturbances at its ports, example by example",
    sources=("ding2023", "li2021"),
    rows=_worst_case_gain_rows,
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
    rule="Supported when the mean of the median ratio lies within [0.6, 1.05], more than four of five examples lie there, and the "
    "cosine exceeds that of random leading directions by 0.1; refuted when the ratio lies outside, fewer than half of the "
    "examples lie within, or the directions do no better than random ones.",
    reason="A bound that is never violated but loose says nothing, so both ends are tested, for disturbances of up to ten logits "
    "within the linear regime. The prefix was trained and the bound is the frozen network's: a prefix that raises its gain "
    "violates it. The ascent starts at random and is not told the direction.",
    change="A prefix that works as feedback through its gate, or disturbances beyond the linear regime.",
    bad=partial(swapped, EXPERIMENT, disturbance_setting),
    good_is="gated linear plants, on which the response does not depend on the prefix",
    bad_is="the gain of another plant",
    **_COMMON,
)


def _robust_gain_rows(cell: Cell) -> list[dict]:
    p, m = cell.predicted.values, cell.measured.values["gain"]
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


ROBUST_GAIN = Claim(
    id="robust-gain",
    nature="prediction",
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
    rows=_robust_gain_rows,
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
    rule="Supported when adversarial training closes more than a quarter of the distance, and more than removing the adapter does; refuted "
    "when it closes less than a tenth, or a tenth less than removing the adapter.",
    reason="The game's law knows each example and sees every disturbance, which makes the distance long and the share hard to "
    "reach. The training is short, starts from the trained adapter, and uses disturbances as large as the linear regime allows, "
    "ten logits by prediction: smaller ones can be met by larger margins, which leave the gain as it is. A trained adapter may "
    "amplify disturbances, and then any weaker one has a smaller gain, so that none at all is the rival to beat.",
    change="A longer adversarial training, or a game whose law is shared by all examples as an adapter is.",
    bad=partial(own, EXPERIMENT, partial(disturbance_setting, blind=True)),
    good_is="linear adapters on gated linear plants",
    bad_is="an open-loop bias in the adapter's place, which cannot change the gain",
    **_COMMON,
)
