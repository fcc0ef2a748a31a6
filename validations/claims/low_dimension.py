"""Does tuning need few directions, and do the several notions of its dimension order tasks alike?"""

from functools import partial

import numpy as np

from ..controls.sweep import latent_setting, narrow_setting, wide_setting
from ..experiments.within import at_ends
from ..statistics import RankOverTasks
from ..verdict import Criterion
from .claim import Assumption, Cell, Claim, Comparison, Row, mean
from .plants import own, swapped
from .sweep_curve import swept

TENFOLD = float(np.log2(10))
SMALLEST_GAP = 1e-4  # nats: smaller gaps, and negative ones, count as this


def _gained(cell: Cell) -> bool:
    return cell.measured.record["fit"]["accuracy"]["status"] != "no gain"


def _low_rows(cell: Cell) -> list[Row]:
    """Return how many octaves the accuracy's threshold dimension lies below D, and below the head's numbers; and the gap's power.

    A prediction whose solutions are no better than the majority class is put at D, and so is a measurement without any gain.
    """
    before, after, (dimensions, size) = cell.predicted.record, cell.measured.record, swept(cell)
    fit = after["fit"]["accuracy"]
    value, low, high = at_ends(fit, dimensions[0], size)
    predicted = before["accuracy"] or float(size)
    ends = {"reached": fit["value"] is not None, "closed": fit["high"] is not None}
    numbers = {"measured": value, "low": low, "high": high, "predicted": predicted, "parameters": size, "head": before["head"]}
    octaves = {"octaves": size / value, "below_head": before["head"] / value, "expected": size / predicted}
    octaves = {name: float(np.log2(ratio)) for name, ratio in octaves.items()}
    chosen = [row for row in after["rows"] if row["chosen_share"] and not row["full"]]
    gaps = [np.mean([r["test_loss"] - r["train_loss"] for r in chosen if r["dimension"] == d]) for d in dimensions]
    power = float(np.polyfit(np.log(dimensions), np.log(np.maximum(gaps, SMALLEST_GAP)), 1)[0])
    others = {"error": abs(octaves["octaves"] - octaves["expected"]), "gap_power": power}
    return [cell.place | numbers | ends | octaves | others | {"accuracy": fit["baseline"], "majority": after["majority"]}]


GAINED = Assumption(
    "tuning gains",
    "full tuning is more accurate than the majority class, in every cell: none is left out for what it did",
    _gained,
    lambda cells: (
        f"median accuracy {np.median([c.measured.record['fit']['accuracy']['baseline'] for c in cells]):.2f}, "
        f"majority {np.median([c.measured.record['majority'] for c in cells]):.2f}"
    ),
    needed=1.0,
)
LOW = Claim(
    id="low-dimension",
    nature="prediction",
    view="optimization",
    title="Tuning needs few of its directions",
    statement="Held-out accuracy reaches 90 % of full tuning's gain in a random subspace of at most a tenth of the tuned numbers, for every "
    "delta and for all weights.",
    equation="d_90 = min {d : a(d) >= a_0 + 0.9 (a(D) - a_0)} <= D \\/ 10",
    equation_alt="d ninety, the least d whose accuracy is chance plus nine tenths of the full gain over chance, is at most D over ten",
    derived="nothing: the claim is the literature's, and the dimension is measured; linear theory's expectation stands beside it",
    sources=("li2018", "aghajanyan2021"),
    kind="sweep",
    rows=_low_rows,
    statistic=Comparison("octaves below the tuned numbers", mean("octaves")),
    criteria=(Criterion("octaves", "octaves of D over the dimension", mean("octaves"), (TENFOLD, np.inf), (2.0, np.inf)),),
    rivals=(
        Comparison("octaves below the head's own numbers", mean("below_head")),
        Comparison("octaves that linear theory of the head expects", mean("expected")),
        Comparison("measured over linear theory's dimension, octaves either way", mean("error")),
        Comparison("power of d in the generalisation gap (a half in the published bound)", mean("gap_power")),
    ),
    assumptions=(GAINED,),
    rule="Supported when the dimension lies ten times below the number of tuned numbers on average; refuted below four times.",
    reason="A tenth is the least that the literature calls low; a random subspace of half the numbers would hold no surprise.",
    change="Larger D: linear theory expects the dimension to depend on the head and the features, hardly on how many numbers stand beside "
    "them, so that the ratio measures D. Compare the dimension with the head's own numbers.",
    good=partial(own, "sweep", wide_setting),
    bad=partial(own, "sweep", narrow_setting),
    good_is="a head among sixteen times as many numbers that hardly matter",
    bad_is="a head alone, whose directions are all needed",
)


def _alike_rows(cell: Cell) -> list[Row]:
    before, after = cell.predicted.record, cell.measured.record
    coefficient = after["coefficient"]["value"]
    if not _gained(cell) or coefficient is None:
        return []
    dimensions, size = swept(cell)
    values = {name: at_ends(after["fit"][name], dimensions[0], size)[0] for name in ("accuracy", "share")}
    features = {"features": after["features"]["value"]} if after["features"] else {}
    known = {"effective": before["effective_dimension"], "participation": before["participation"], "parameters": size}
    return [cell.place | {"coefficient": coefficient, "status": after["coefficient"]["status"]} | values | known | features]


ALIKE = Claim(
    id="dimensions-alike",
    across=True,
    nature="prediction",
    view="optimization",
    title="The notions of dimension order tasks alike",
    statement="Within a delta, the tasks with the larger threshold dimension of held-out accuracy are those with the larger effective dimension of "
    "the frozen model's curvature and the larger local learning coefficient after training.",
    equation='rho (d_90, sum_i lambda_i / (lambda_i + r)) > 0, quad rho (d_90, lambda_"LLC") > 0',
    equation_alt="the rank correlations of d ninety with the effective dimension and with the local learning coefficient are positive",
    derived="the frozen features' spectrum gives the effective dimension; the learning coefficient is measured after training",
    sources=("larsen2022", "lau2023"),
    kind="sweep",
    rows=_alike_rows,
    statistic=Comparison("rank correlation of threshold and effective dimension", RankOverTasks("accuracy", "effective")),
    criteria=(
        Criterion(
            "effective",
            "rank correlation with the effective dimension",
            RankOverTasks("accuracy", "effective"),
            (0.3, 1.01),
            (0.0, 1.01),
        ),
        Criterion(
            "coefficient",
            "rank correlation with the learning coefficient",
            RankOverTasks("accuracy", "coefficient"),
            (0.3, 1.01),
            (0.0, 1.01),
        ),
    ),
    rivals=(
        Comparison("number of tuned numbers", RankOverTasks("accuracy", "parameters")),
        Comparison("participation ratio of the frozen kernel", RankOverTasks("accuracy", "participation")),
        Comparison("TwoNN dimension of the trained features", RankOverTasks("accuracy", "features")),
        Comparison("threshold dimension of the gain in the penalised objective", RankOverTasks("accuracy", "share")),
        Comparison("effective dimension and learning coefficient", RankOverTasks("effective", "coefficient")),
    ),
    assumptions=(
        Assumption(
            "chains agree",
            "the chains of the learning coefficient agree and are in equilibrium",
            lambda cell: cell.measured.record["coefficient"]["status"] == "ok",
            lambda cells: (
                f"{sum(c.measured.record['coefficient']['value'] is not None for c in cells)} of {len(cells)} have a value"
            ),
            needed=0.5,
        ),
    ),
    rule="Supported when both rank correlations over tasks exceed 0.3; refuted when one of them is negative.",
    reason="Notions that measure the same thing should at least order the same tasks alike; with few tasks a correlation of 0.3 is what can be "
    "told from none.",
    change="Tasks whose heads have as many classes: the head's numbers alone order tasks of different numbers of classes.",
    good=partial(own, "sweep", latent_setting, seeds=2),
    bad=partial(swapped, "sweep", latent_setting),
    good_is="plants whose states have 2 to 24 directions",
    bad_is="the curvature of another plant",
)
