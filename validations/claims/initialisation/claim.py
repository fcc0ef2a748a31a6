"""Whether the law that an ensemble shares is a better start for a LoRA than its rivals, and what it is worth untrained."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from ...statistics import Columns, Statistic
from ...verdict import Criterion, Least
from ..shared.claim import Assumption, Cell, Claim, Comparison, Row, lead, mean, octaves
from ..shared.plants import own, swapped
from .experiment import EXPERIMENT, RIVALS, STARTS
from .plants import taught

POINTS, LEARNT = 100.0, 5.0
NEVER = 2.0  # times the steps of a run, which a start that never gets there counts as
WORDS = {
    "law": "law of the ensemble",
    "kaiming": "PEFT's default",
    "lora_ga": "LoRA-GA",
    "eva": "EVA",
    "pissa": "PiSSA",
}
# what every start has a column of: steps to the goal, their log2 with the start's own passes and without, and the fall at the end
COLUMNS = {
    "law": ("steps_law", "octaves_law", "free_law", "gain_law"),
    "kaiming": ("steps_kaiming", "octaves_kaiming", "free_kaiming", "gain_kaiming"),
    "lora_ga": ("steps_lora_ga", "octaves_lora_ga", "free_lora_ga", "gain_lora_ga"),
    "eva": ("steps_eva", "octaves_eva", "free_eva", "gain_eva"),
    "pissa": ("steps_pissa", "octaves_pissa", "free_pissa", "gain_pissa"),
}


def chosen(start: Mapping[str, Any]) -> Sequence[Mapping]:
    """Return the looks of the run whose rate dev text chose."""
    return next(run["looks"] for run in start["runs"] if run["rate"] == start["rate"])


def reached(looks: Sequence[Mapping], goal: float, steps: int) -> float:
    """Return the step, between looks in its logarithm, at which the held-out loss first is at a goal; at least 1."""
    before = None
    for look in looks:
        if look["loss"] <= goal:
            if before is None or before["step"] < 1:
                return float(max(look["step"], 1))
            part = (before["loss"] - goal) / (before["loss"] - look["loss"])
            return float(np.exp((1 - part) * np.log(before["step"]) + part * np.log(look["step"])))
        before = look
    return NEVER * steps


def _rows(cell: Cell) -> list[Row]:
    """Return how many steps each start takes to the held-out loss at which the default ends, and what it ends at."""
    starts, frozen = cell.measured.values["starts"], cell.measured.values["frozen"]
    goal, steps = starts["kaiming"]["loss"], cell.measured.values["steps"]
    row = cell.at(None) | {"goal": goal}
    for name, columns in COLUMNS.items():
        start = starts[name]
        taken = reached(chosen(start), goal, steps)
        numbers = (taken, octaves(taken + start["before"]), octaves(taken), frozen["loss"] - start["loss"])
        row |= dict(zip(columns, numbers, strict=True))
    row["points_law"], row["points_kaiming"] = (
        POINTS * (starts[name]["accuracy"] - frozen["accuracy"]) for name in ("law", "kaiming")
    )
    return [row]


def _path(cell: Cell) -> list[Row]:
    """Return the held-out loss at every look at the chosen run of every start."""
    return [
        cell.at(None) | {"start": name, "step": look["step"], "loss": look["loss"], "goal": starts["kaiming"]["loss"]}
        for starts in (cell.measured.values["starts"],)
        for name, start in starts.items()
        for look in chosen(start)
    ]


def _over_default(rival: str) -> Statistic:
    """Return the statistic "what the law's start gains more than a rival's, over what the default gains"."""
    return lambda c: float(np.mean(c["gain_law"] - c[f"gain_{rival}"]) / abs(np.mean(c["gain_kaiming"])))


def _learns(cell: Cell) -> bool:
    gained = max(start["accuracy"] for start in cell.measured.values["starts"].values())
    return POINTS * (gained - cell.measured.values["frozen"]["accuracy"]) >= LEARNT


def _gained(cells: Sequence[Cell]) -> str:
    gains = [c.measured.values["starts"]["kaiming"]["accuracy"] - c.measured.values["frozen"]["accuracy"] for c in cells]
    return f"median gain from the default start {POINTS * np.median(gains):.1f} points"


LEARNS = Assumption(
    "there is something to learn",
    f"from some start the LoRA ends at least {LEARNT:.0f} points of held-out accuracy above the frozen network",
    _learns,
    _gained,
)
INSIDE = Assumption(
    "rates suffice",
    "the rates that dev text chose for the default start and for the law's are neither the lowest nor the highest tried",
    lambda cell: not any(cell.measured.values["starts"][name]["at_edge"] for name in ("kaiming", "law")),
    lambda cells: f"median rate {np.median([c.measured.values['starts']['kaiming']['rate'] for c in cells]):.2g}",
    needed=0.5,
)

LORA_START = Claim(
    id="lora-start",
    nature="prediction",
    view="control",
    title="A LoRA that starts at the law its ensemble shares needs fewer steps",
    statement="A LoRA whose factors are set to the gain that is best for all training examples at once, on the linear response and "
    "before training, reaches the held-out loss at which PEFT's default start ends in fewer steps of AdamW than from any other "
    "start, the passes that a start itself costs counted as steps, and ends no higher.",
    equation=r'B_t A_t = K_t |_"rank", quad K = limits(arg min)_K 1/N sum_i ell_i (y_(0,i) + sum_t chevron.l G_(i t tau) '
    r"K_t h_(i t tau) chevron.r_tau) + r/2 sum_t upright(tr) K_t (Sigma_t + s_t I) K_t^top",
    equation_alt="the product of a target's factors is the gain K t cut to the LoRA's rank, where all K together minimise the mean loss "
    "of the linear response to K t times what the target reads, summed over targets and tokens, plus half r times the trace of K t "
    "times the second moment of what is read plus its mean square s t, times K t transposed",
    derived="the frozen network's response to a signal at every token of what LoRA's targets put out, what they read there, the labels "
    "of training text, and the penalty r of the lowest dev loss among three",
    sources=("hu2022", "wang2024", "paischer2024", "meng2024"),
    experiment=EXPERIMENT,
    rows=_rows,
    parts={"path": _path},
    statistic=Comparison(
        "octaves of steps that the law's start saves over the best other one",
        lead("octaves_law", *(f"octaves_{name}" for name in RIVALS), less=True),
    ),
    criteria=(
        Criterion(
            "steps",
            "octaves of steps saved over the best other start",
            lead("octaves_law", *(f"octaves_{name}" for name in RIVALS), less=True),
            (0.5, np.inf),
            (0.0, np.inf),
        ),
        Criterion(
            "end",
            "fall of the held-out loss more than from the best other start, over the default's",
            Least(tuple(map(_over_default, RIVALS))),
            (-0.05, np.inf),
            (-0.2, np.inf),
        ),
    ),
    rivals=tuple(Comparison(f"octaves of steps: {WORDS[name]}", mean(f"octaves_{name}")) for name in STARTS)
    + tuple(Comparison(f"fall of the held-out loss in nats: {WORDS[name]}", mean(f"gain_{name}")) for name in STARTS),
    also=tuple(
        Comparison(f"octaves saved over {WORDS[name]}, starts free of charge", lead("free_law", f"free_{name}", less=True))
        for name in RIVALS
    )
    + (Comparison("points of held-out accuracy: law of the ensemble", mean("points_law")),)
    + (Comparison("points of held-out accuracy: PEFT's default", mean("points_kaiming")),),
    assumptions=(LEARNS, INSIDE),
    rule="Supported when the law's start takes half an octave fewer steps than each of four others, its own passes counted, and its "
    "fall of the held-out loss is short of none of theirs by more than a twentieth of the default's; refuted when it takes more "
    "steps than one of them, or its fall is short by a fifth. Every start has its own rate and step, chosen on dev text.",
    reason="Half an octave is three steps in ten, the least for which one would change how a LoRA starts; a start that ends higher is no "
    "gain at all. The law moves the network to the optimum of its linear response, so it should be ahead as far as that holds.",
    change="Training that leaves the linear response early, so that what is learnt is not what the law knew.",
    good=partial(own, EXPERIMENT, taught),
    bad=partial(swapped, EXPERIMENT, taught),
    good_is="linear maps whose labels come from themselves with a change of low rank",
    bad_is="the law of another network's maps",
)


def _installed(cell: Cell) -> list[Row]:
    told, met = cell.predicted.values, cell.measured.values
    frozen, law, first, trained = met["frozen"], met["untrained"]["law"], met["untrained"]["first"], met["starts"]["kaiming"]
    return [
        cell.at(None)
        | {"gain": frozen["loss"] - law["loss"], "gain_first": frozen["loss"] - first["loss"]}
        | {"gain_trained": frozen["loss"] - trained["loss"], "gain_linear": told["start"] - told["linear"]}
        | {"points": POINTS * (law["accuracy"] - frozen["accuracy"])}
        | {"points_trained": POINTS * (trained["accuracy"] - frozen["accuracy"])}
    ]


def _share(column: str) -> Statistic:
    """Return the statistic "mean gain over the mean gain of the trained LoRA"; NaN where that gains nothing."""
    return lambda c: float(np.mean(c[column]) / np.mean(c["gain_trained"])) if np.mean(c["gain_trained"]) > 0 else float("nan")


def _margin(columns: Columns) -> float:
    return _share("gain")(columns) - _share("gain_first")(columns)


LAW_INSTALLED = Claim(
    id="law-installed",
    nature="prediction",
    view="control",
    title="A LoRA can be written down without training",
    statement="The gain that an ensemble shares, written into a LoRA's factors and never trained, reaches on held-out text most of what "
    "AdamW gains from PEFT's default start.",
    equation=r"rho = frac(sum_"
    r'"cells" L(0) - L(B A), sum_"cells" L(0) - L("trained"))',
    equation_alt="rho is the fall of the held-out loss with the law installed over the fall by training, both summed over the cells",
    derived=LORA_START.derived,
    sources=("hu2022", "ding2023"),
    experiment=EXPERIMENT,
    rows=_installed,
    statistic=Comparison("share of the trained LoRA's fall of the held-out loss", _share("gain")),
    criteria=(
        Criterion("share", "share of the trained fall", _share("gain"), (0.5, np.inf), (0.25, np.inf)),
        Criterion("margin", "share above the first-order law's", _margin, (0.05, np.inf), (0.0, np.inf)),
    ),
    rivals=(
        Comparison("first-order law at the scale of the lowest dev loss, share of the trained fall", _share("gain_first")),
        Comparison("points of held-out accuracy: trained", mean("points_trained")),
        Comparison("points of held-out accuracy: law installed", mean("points")),
    ),
    assumptions=(LEARNS,),
    rule="Supported when the installed law reaches half of the trained LoRA's fall of the held-out loss and exceeds the first-order law "
    "by a twentieth of it; refuted below a quarter, or when it does not exceed that.",
    reason="Half of the gain without a training step would make writing a LoRA down worth trying first; the first-order law costs one "
    "backward pass, so the optimum must add something to it.",
    change="Training that learns features, whose gain the linear response at the start cannot hold.",
    good=partial(own, EXPERIMENT, taught),
    bad=partial(swapped, EXPERIMENT, taught),
    good_is="linear maps whose labels come from themselves with a change of low rank",
    bad_is="the law of another network's maps",
)
