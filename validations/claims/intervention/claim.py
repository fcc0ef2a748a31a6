"""Whether adapters that train through noise become, and change, as sensitive as the shared gain says, and where their gain sits."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np

from ...verdict import Criterion
from ..shared.among import Among
from ..shared.claim import CONVERGED, Cell, Claim, Comparison, Row, error, lead, mean, octaves
from .experiment import EXPERIMENT, GROUPS
from .plants import deaf_to_noise, parameters_price, through_noise

NEAR = 0.5  # octaves between predicted and trained change
AHEAD = 0.1  # octaves, over the rules that know no law
LABELS = 0.1  # octaves by which a law of labels dealt out may be nearer
WITHIN = 1.0  # octaves between predicted and trained sensitivity, as `shared-gain` asks without noise
HALF = 0.1  # of the gain's square, in the half of least variance
DISTANCE = 0.2  # between profiles
FURTHER = 0.02  # from the profiles of the cheaper rules


def _changes(record: Mapping) -> list[float]:
    """Return the octaves from the sensitivity without noise to that at each level."""
    return [octaves(level["sensitivity"] / record["sensitivity"]) for level in record["levels"]]


def _reached(record: Mapping) -> list[float]:
    """Return the octaves from the frozen network's sensitivity to that at each level."""
    return [octaves(level["sensitivity"]) for level in record["levels"]]


def _usual(cell: Among, measured: Callable[[Mapping], list[float]]) -> list[float]:
    """Return the other tasks' mean of what is measured at each level; 0 where there are none."""
    elsewhere = [measured(group[cell.delta].measured.values) for group in cell.others if cell.delta in group]
    return np.mean(elsewhere, axis=0).tolist() if elsewhere else [0.0] * len(cell.measured.values["levels"])


def _level_rows(cell: Among) -> list[Row]:
    predicted, measured = cell.predicted.values, cell.measured.values
    rows = []
    for told, law, found, usual in zip(
        predicted["levels"], _reached(predicted), _reached(measured), _usual(cell, _reached), strict=True
    ):
        place = cell.place | {"level": told["level"], "predicted": law, "measured": found}
        rows.append(
            place
            | {
                "error": abs(law - found),
                "error_none": abs(found),
                "error_quiet": abs(octaves(predicted["sensitivity"]) - found),
                "error_others": abs(usual - found),
                "error_price": abs(octaves(told["price_alone"]) - found),
                "error_dealt": float(np.mean([abs(octaves(one) - found) for one in told["dealt"]])),
            }
        )
    return rows


def _noise_rows(cell: Among) -> list[Row]:
    predicted, measured = cell.predicted.values, cell.measured.values
    rows = []
    for told, law, found, usual in zip(
        predicted["levels"], _changes(predicted), _changes(measured), _usual(cell, _changes), strict=True
    ):
        dealt = [octaves(one / start) for one, start in zip(told["dealt"], predicted["dealt"], strict=True)]
        rows.append(
            cell.place
            | {
                "level": told["level"],
                "predicted": law,
                "measured": found,
                "error": abs(law - found),
                "error_none": abs(found),
                "error_shrinkage": abs(octaves(1.0 / (1.0 + told["level"] ** 2)) - found),
                "error_others": abs(usual - found),
                "error_price": abs(octaves(told["price_alone"] / predicted["sensitivity"]) - found),
                "error_dealt": float(np.mean(np.abs(np.subtract(dealt, found)))),
                "sensitivity": measured["sensitivity"],
                "sensitivity_predicted": predicted["sensitivity"],
            }
        )
    return rows


def _share_rows(cell: Cell) -> list[Row]:
    told, found = cell.predicted.values["profiles"], cell.measured.values["profile"]
    predicted, measured = (float(np.sum(profile[: GROUPS // 2])) for profile in (told["law"], found))
    return [
        cell.place
        | {
            "predicted": predicted,
            "measured": measured,
            "error": abs(predicted - measured),
            "distance": _distance(told["law"], found),
            "distance_first": _distance(told["first"], found),
            "distance_inverse": _distance(told["inverse"], found),
            "distance_uniform": _distance(np.full(GROUPS, 1.0 / GROUPS), found),
            "distance_dealt": _distance(told["dealt"], found),
        }
    ]


def _distance(one: Sequence[float], other: Sequence[float]) -> float:
    """Return half the summed difference of two profiles, the share that would have to move."""
    return float(np.abs(np.subtract(one, other)).sum() / 2)


def _profile_rows(cell: Cell) -> list[Row]:
    """Return the predicted and the trained share of every group of directions, group 1 that of least variance."""
    told, found = cell.predicted.values["profiles"], cell.measured.values["profile"]
    place = {"task": cell.task, "delta": cell.delta, "seed": cell.seed}
    return [
        place | {"group": group + 1, "predicted": told["law"][group], "trained": found[group], "inverse": told["inverse"][group]}
        for group in range(GROUPS)
    ]


NOISE_INTERVENTION = Claim(
    id="noise-intervention",
    nature="prediction",
    view="control",
    title="Noise on what an adapter reads lowers its sensitivity as the shared gain says",
    statement="An adapter that is trained while noise lies on the states that it reads makes the logits less sensitive to disturbances "
    "than one trained without, by as many octaves as the shared gain of the same noisy states says before training.",
    equation=r"K_t = -frac(1, r) upright(E) chevron.l G_(i t tau)^top lambda_i (phi_(i t tau) + n)^top chevron.r_tau "
    r"(Sigma_t + sigma_t^2 I)^(-1), quad Delta = log_2 frac(S_sigma, S_0)",
    equation_alt="noise of standard deviation sigma adds sigma squared to every direction of the second moment that prices the gain, and "
    "the costates are met under what the law passes on of it; Delta is the base-two logarithm of the sensitivity with that law "
    "installed over the sensitivity with the law without noise",
    derived="the frozen network's response to a signal at every token of the attention ports, its states there, the labels and the price "
    "of signal energy; draws of noise of the prediction's own, at 0.1, 0.2 and 0.4 times the root mean variance of a direction in which "
    "examples differ",
    sources=("ding2023", "houlsby2019"),
    experiment=EXPERIMENT,
    rows=_noise_rows,
    statistic=Comparison("octaves between predicted and trained change of the sensitivity", mean("error")),
    criteria=(
        Criterion("error", "octaves between predicted and trained change", error("error"), (-np.inf, NEAR), (-np.inf, NEAR)),
        Criterion(
            "ahead",
            "octaves nearer than rules without the law",
            lead("error", "error_none", "error_shrinkage", "error_others", less=True),
            (AHEAD, np.inf),
            (0.0, np.inf),
        ),
        Criterion(
            "labels",
            "octaves nearer than laws of dealt labels",
            lead("error", "error_dealt", less=True),
            (-LABELS, np.inf),
            (-LABELS, np.inf),
        ),
    ),
    rivals=(
        Comparison("octaves if noise changed nothing", mean("error_none")),
        Comparison("octaves of the rule 1 / (1 + level squared)", mean("error_shrinkage")),
        Comparison("octaves of the other tasks' mean change", mean("error_others")),
        Comparison("octaves of the price alone, with costates met without noise", mean("error_price")),
    ),
    nulls=(Comparison("octaves of the laws of dealt labels", mean("error_dealt")),),
    also=(
        Comparison("trained change of the sensitivity, octaves", mean("measured")),
        Comparison("predicted change of the sensitivity, octaves", mean("predicted")),
    ),
    assumptions=(CONVERGED,),
    rule="Supported when predicted and trained change lie within half an octave of each other on average, a tenth of an octave nearer than "
    "no change, the rule 1 / (1 + level squared) and the other tasks' mean, and laws of dealt labels are not nearer by as much; refuted "
    "when the error is above half an octave, one of those rules is nearer, or laws of dealt labels are by a tenth.",
    reason="Noise makes every direction dear, above all those of little variance in which the gain is nearly free. What it costs follows from "
    "states and responses, so that labels may matter little; laws of other labels are therefore only required not to do better.",
    change="Noise so large that adapters stop reading, where any rule that says so is right; noise on the residual stream as well, which "
    "adapters would learn to cancel.",
    good=partial(through_noise, EXPERIMENT),
    bad=partial(deaf_to_noise, EXPERIMENT),
    good_is="linear networks whose adapters are trained through noise",
    bad_is="the same networks, with adapters that the noise never reaches in training",
)

NOISY_SENSITIVITY = Claim(
    id="noisy-sensitivity",
    nature="prediction",
    view="control",
    title="An adapter that trains through noise becomes as sensitive as the shared gain says",
    statement="Closing the loop of an adapter that was trained while noise lay on the states that it reads makes the logits as sensitive to "
    "disturbances as the shared gain of the same noisy states says before training, level of noise by level.",
    equation=NOISE_INTERVENTION.equation.replace(
        r"Delta = log_2 frac(S_sigma, S_0)",
        r"S_sigma = frac(|partial y \/ partial s|_(K), "
        r"|partial y \/ partial s|_0)",
    ),
    equation_alt="noise of standard deviation sigma adds sigma squared to every direction of the second moment that prices the gain; the "
    "sensitivity is the response of the logits to a disturbance of a port with that law installed over that of the frozen network",
    derived=NOISE_INTERVENTION.derived,
    sources=NOISE_INTERVENTION.sources,
    experiment=EXPERIMENT,
    rows=_level_rows,
    statistic=Comparison("octaves between predicted and trained sensitivity under noise", mean("error")),
    criteria=(
        Criterion(
            "error", "octaves between predicted and trained sensitivity", error("error"), (-np.inf, WITHIN), (-np.inf, WITHIN)
        ),
        Criterion(
            "ahead",
            "octaves nearer than rules that know no noise or no task",
            lead("error", "error_none", "error_quiet", "error_others", less=True),
            (AHEAD, np.inf),
            (0.0, np.inf),
        ),
        Criterion(
            "labels",
            "octaves nearer than laws of dealt labels",
            lead("error", "error_dealt", less=True),
            (-LABELS, np.inf),
            (-LABELS, np.inf),
        ),
    ),
    rivals=(
        Comparison("octaves of the frozen network's sensitivity", mean("error_none")),
        Comparison("octaves of the law without noise", mean("error_quiet")),
        Comparison("octaves of the other tasks' mean at this level", mean("error_others")),
        Comparison("octaves of the price alone, with costates met without noise", mean("error_price")),
    ),
    nulls=(Comparison("octaves of the laws of dealt labels", mean("error_dealt")),),
    also=(
        Comparison("trained sensitivity over the frozen network's, octaves", mean("measured")),
        Comparison("predicted sensitivity over the frozen network's, octaves", mean("predicted")),
    ),
    assumptions=(CONVERGED,),
    rule="Supported when predicted and trained sensitivity lie within an octave of each other on average, a tenth of an octave nearer than "
    "the frozen network's, the law's without noise and the other tasks' mean, and laws of dealt labels are not nearer by as much; refuted "
    "when the error is above an octave, one of those rules is nearer, or laws of dealt labels are by a tenth.",
    reason="Without noise an adapter that trains on spends almost nothing in directions of little variance and grows there without end, where "
    "no linear response holds. Noise makes these directions dear, so that what the law says of them should hold.",
    change="So few draws of noise that training learns the draws; noise so small that faint directions stay free.",
    good=NOISE_INTERVENTION.good,
    bad=NOISE_INTERVENTION.bad,
    good_is=NOISE_INTERVENTION.good_is,
    bad_is=NOISE_INTERVENTION.bad_is,
)

AMPLIFICATION = Claim(
    id="amplification",
    nature="prediction",
    view="control",
    title="A trained adapter's gain sits in the directions of least variance that the shared gain names",
    statement="The share of a trained adapter's squared gain in each eighth of the state directions, ordered by variance, is that of the "
    "shared gain, known before training.",
    equation=r"s_g = frac(sum_(j in g) abs(K_t v_j)^2, sum_j abs(K_t v_j)^2), quad Sigma_t v_j = omega_j v_j, quad "
    r'"price of" K_t v_j: quad r omega_j abs(K_t v_j)^2 \/ 2',
    equation_alt="the share of a group of directions is the sum over the group of the squared length of the gain in a direction over that of all "
    "directions; directions are eigenvectors of the states' second moment, and a direction of little variance costs little",
    derived="the shared gain of the frozen network's responses, states and labels, cut to the adapter's rank in the price of signal "
    "energy, nothing fitted; shares are averaged over the attention ports",
    sources=("ding2023", "houlsby2019"),
    experiment=EXPERIMENT,
    rows=_share_rows,
    parts={"profile": _profile_rows},
    statistic=Comparison("distance between the predicted and the trained profile", mean("distance")),
    criteria=(
        Criterion("half", "error of the share in the half of least variance", error("error"), (-np.inf, HALF), (-np.inf, HALF)),
        Criterion("distance", "distance between profiles", error("distance"), (-np.inf, DISTANCE), (-np.inf, DISTANCE)),
        Criterion(
            "ahead",
            "distance below that of cheaper profiles",
            lead("distance", "distance_first", "distance_inverse", "distance_uniform", "distance_dealt", less=True),
            (FURTHER, np.inf),
            (0.0, np.inf),
        ),
    ),
    rivals=(
        Comparison("distance of equal shares", mean("distance_uniform")),
        Comparison("distance of shares in proportion to the inverse variance", mean("distance_inverse")),
        Comparison("distance of the first-order law's, whitened", mean("distance_first")),
    ),
    nulls=(Comparison("distance of the mean profile of laws of dealt labels", mean("distance_dealt")),),
    also=(
        Comparison("trained share in the half of least variance", mean("measured")),
        Comparison("predicted share in the half of least variance", mean("predicted")),
    ),
    assumptions=(CONVERGED,),
    rule="Supported when the share in the half of least variance is off by less than 0.1, the profile by less than 0.2, and nearer by 0.02 "
    "than equal shares, shares in proportion to the inverse variance, the first-order law's and those of dealt labels; refuted when "
    "one of the first two is beyond its bar or one of the rules is nearer.",
    reason="A direction's price is its variance, so that gain in faint directions is nearly free; how much of it the labels ask for is what the "
    "law adds to the inverse variance. A distance of 0.2 leaves a fifth of the gain in other eighths.",
    change="Parameters priced by their own norm, as weight decay does, under which faint directions are as dear as any; token states that vary "
    "in directions in which no two examples differ.",
    good=partial(through_noise, EXPERIMENT),
    bad=partial(parameters_price, EXPERIMENT),
    good_is="linear networks whose adapters are trained under the price of their signals",
    bad_is="the same adapters trained under the price of their parameters",
)
