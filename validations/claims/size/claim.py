"""Whether a larger backbone is nearer to its tangent: the same delta on the same texts, tuned alike on both."""

import numpy as np

from ...verdict import Criterion
from ..practice.experiment import EXPERIMENT
from ..practice.plants import fixed_features, learnt_features
from ..practice.runs import LEARNS, at_choice, nats, place, points
from ..shared.claim import Cell, Claim, Comparison, Row, mean, side_by_side
from ..shared.network import SYSTEMS

LARGER = "-minilm"  # ends the name of a delta on the larger backbone; without it, the name of the same on the smaller one


def _rows(cell: Cell) -> list[Row]:
    """Return a row where the same delta was tuned on the larger backbone too."""
    if cell.delta + LARGER not in cell.beside:
        return []
    larger = cell.beside[cell.delta + LARGER]
    return [
        place(cell)
        | {"r2_small": _explained(cell), "r2_large": _explained(larger), "more": _explained(larger) - _explained(cell)}
        | {"more_optimum": _clipped(larger.measured.values["r2"]["optimum"]) - _clipped(cell.measured.values["r2"]["optimum"])}
        | {"points_small": points(cell, cell.measured.values), "points_large": points(larger, larger.measured.values)}
        | {"gain_small": nats(cell, cell.measured.values), "gain_large": nats(larger, larger.measured.values)}
        | {"eta_large": larger.predicted.values["eta"]}
        | {"less_to_learn": nats(cell, cell.measured.values) - nats(larger, larger.measured.values)}
    ]


def _explained(cell: Cell) -> float:
    return _clipped(at_choice(cell)["r2_shift"])


def _clipped(share: float) -> float:
    return float(np.clip(share, -1.0, 1.0))


def _pairs(small, large) -> list[Cell]:
    """Return the cells of every system with one plant as the smaller and another as the larger backbone."""
    made = []
    for system in range(SYSTEMS):
        for delta, make in (("lora", small), ("lora" + LARGER, large)):
            setting = make(system, 0)
            predicted = EXPERIMENT.predict(setting)
            made.append(Cell(f"system {system}", delta, 0, predicted, EXPERIMENT.measure(setting, predicted)))
    return side_by_side(made)


def larger_is_fixed() -> list[Cell]:
    """Return pairs of which the larger has fixed features and the smaller must find them."""
    return _pairs(learnt_features, fixed_features)


def smaller_is_fixed() -> list[Cell]:
    """Return pairs the other way round."""
    return _pairs(fixed_features, learnt_features)


PRACTICE_SIZE = Claim(
    id="practice-size",
    nature="prediction",
    view="optimization",
    title="A larger backbone is nearer to its tangent",
    statement="Of the held-out shift by tuning as in practice, AdamW on the tangent model explains more on a backbone of 22 million "
    "parameters than on one of 1.8 million, for the same delta, texts, steps and choice of rate.",
    equation=r'Delta = R^2_"large" - R^2_"small"',
    equation_alt="Delta is R squared of the tangent path at the step that dev text chose on the larger backbone less that on the smaller",
    derived="the response of the frozen models to the delta's numbers, and the head's, on training, dev and held-out text; the labels of "
    "training and dev text",
    sources=("jacot2018", "malladi2023"),
    experiment=EXPERIMENT,
    rows=_rows,
    statistic=Comparison("share explained on the larger backbone less that on the smaller", mean("more")),
    criteria=(Criterion("more", "difference of the shares explained", mean("more"), (0.1, np.inf), (0.0, np.inf)),),
    rivals=(
        Comparison("the same of the linearised optimum", mean("more_optimum")),
        Comparison("nats gained on the smaller backbone less those on the larger", mean("less_to_learn")),
    ),
    assumptions=(LEARNS,),
    rule="Supported when the tangent path explains a tenth more of the shift on the larger backbone; refuted when it explains less there.",
    reason="A tenth is the least at which one would trust the larger model's forecast more. Shares below -1 count as -1, so that one run "
    "does not decide.",
    change="A larger model that has more features to find, or that is tuned further.",
    good=larger_is_fixed,
    bad=smaller_is_fixed,
    good_is="pairs of layers of which the larger has fixed features",
    bad_is="pairs of layers of which the smaller has",
    deltas=("lora", "adapter", "prefix", "bitfit"),
)
