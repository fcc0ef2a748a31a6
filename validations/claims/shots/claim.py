"""Whether deltas do better than full tuning where texts are few, and whether the advantage goes as they become more."""

import numpy as np

from ...verdict import Criterion
from ..facts.claim import MOSTLY_LEARNS
from ..shared.claim import Cell, Claim, Comparison, Row, mean
from .experiment import EXPERIMENT
from .plants import DELTAS, FEWEST, FULL, TEXTS, amount, called, misled, spared

POINTS = 100.0


def _leads(cell: Cell, texts: int) -> dict[str, float]:
    """Return the points by which every delta leads full tuning on as many texts."""
    reached = {name: POINTS * cell.beside[called(name, texts)].measured.values["accuracy"] for name in (FULL, *DELTAS)}
    return {name: reached[name] - reached[FULL] for name in DELTAS}


def _rows(cell: Cell) -> list[Row]:
    if not {called(name, texts) for name in (FULL, *DELTAS) for texts in TEXTS} <= set(cell.beside):
        return []
    few, some, many = (_leads(cell, texts) for texts in TEXTS)
    return [
        cell.at(None)
        | {"lead_few": float(np.mean([*few.values()])), "lead_some": float(np.mean([*some.values()]))}
        | {"lead_many": float(np.mean([*many.values()])), "fades": float(np.mean([*few.values()]) - np.mean([*many.values()]))}
        | {"lora_few": few["lora"], "adapter_few": few["adapter"], "bitfit_few": few["bitfit"]}
    ]


def _sizes(cell: Cell) -> list[Row]:
    """Return what every delta reached on as many texts, and what its frozen head had from as many."""
    return [
        {"task": cell.task, "seed": cell.seed, "option": name.partition("-")[0], "texts": amount(name)}
        | {"accuracy": POINTS * one.measured.values["accuracy"], "frozen": POINTS * one.predicted.values["start"]["accuracy"]}
        for name, one in cell.beside.items()
    ]


FACTS_FEW_SHOT = Claim(
    id="facts-few-shot",
    nature="prediction",
    view="optimization",
    title="With few texts deltas do better than full tuning",
    statement="With 16 texts to train on, LoRA, adapter and BitFit reach a higher held-out accuracy than full tuning, and with 256 the "
    "advantage is less.",
    equation=r"Delta_n = 1/T sum_t 1/3 sum_o (a_(o t n) - a_(0 t n)), quad Delta_16 > Delta_256",
    equation_alt="a is the held-out accuracy in points of delta o on task t from n texts, with index 0 that of full tuning; the head is "
    "fitted on n other texts, and the step chosen on n more",
    derived="what is commonly believed of few numbers and few texts; the published averages over 16 texts of a class were not read",
    sources=("ding2023",),
    experiment=EXPERIMENT,
    rows=_rows,
    parts={"sizes": _sizes},
    deltas=(FEWEST,),
    statistic=Comparison("points by which the three deltas lead full tuning with 16 texts, mean", mean("lead_few")),
    criteria=(
        Criterion(
            "lead",
            "points by which deltas lead full tuning with 16 texts",
            mean("lead_few"),
            (1.0, np.inf),
            (0.0, np.inf),
            "points",
        ),
        Criterion("fades", "the same less that with 256 texts", mean("fades"), (1.0, np.inf), (0.0, np.inf), "points"),
    ),
    rivals=tuple(Comparison(f"points by which one delta leads with 16 texts: {name}", mean(f"{name}_few")) for name in DELTAS),
    nulls=(Comparison("no lead", lambda columns: 0.0),),
    also=(
        Comparison("points by which the deltas lead with 64 texts", mean("lead_some")),
        Comparison("points by which the deltas lead with 256 texts", mean("lead_many")),
    ),
    assumptions=(MOSTLY_LEARNS,),
    rule="Supported when with 16 texts the deltas lead full tuning by more than a point, and by a point more than with 256; refuted when "
    "they do not lead with 16, or lead by no less with 256.",
    reason="A point over some dozen tasks is told from none, and is the least for which one would choose a delta for its accuracy.",
    change="Rates of full tuning that are chosen for few texts, or stopping on more of them.",
    good=misled,
    bad=spared,
    good_is="linear layers of which full tuning's also sees numbers that carry nothing",
    bad_is="layers of which the deltas' also see numbers that carry nothing",
)
