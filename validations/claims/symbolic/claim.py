"""C-prefix: what a prefix cannot be taught, and full tuning and LoRA can."""

from functools import partial

import numpy as np

from ...verdict import Criterion
from ..shared.claim import Assumption, Cell, Claim, Comparison, mean
from ..shared.plants import own
from .experiment import EXPERIMENT
from .plants import constant_answer, other_token

UNKNOWN = 0.02
NO_LORA = "sorting"  # the paper compares a prefix with LoRA on counting, not on sorting


def _rows(cell: Cell) -> list[dict]:
    m, p = cell.measured.values, cell.predicted.values
    return [
        cell.place
        | {role: m[role]["accuracy"] for role in ("full", "prefix", "lora")}
        | {"frozen": m["frozen"], "prefix_first": m["prefix"]["tried"][0]["accuracy"]}
        | {f"{role}_linear": p[role]["accuracy"] for role in ("prefix", "lora")}
    ]


def _rates(cell: Cell) -> list[dict]:
    """Return every arm's result at every step size."""
    return [
        cell.place | {"arm": arm, "rate": t["rate"], "accuracy": t["accuracy"], "steps": cell.measured.values[arm]["steps"]}
        for arm in ("full", "prefix", "lora")
        for t in cell.measured.values[arm]["tried"]
    ]


def _by_group(cell: Cell) -> list[dict]:
    """Return every arm's share of solved sequences by how many different digits they hold."""
    return [
        cell.place | {"arm": arm, "digits": int(group), "accuracy": share}
        for arm in ("full", "prefix", "lora")
        for group, share in cell.measured.values[arm]["by_group"].items()
    ]


def _lora(columns) -> float:
    asked = columns["task"].astype(str) != NO_LORA
    return float(columns["lora"][asked].mean()) if asked.any() else float("nan")


PREFIX_LIMITS = Claim(
    id="prefix-limits",
    nature="prediction",
    view="optimization",
    title="A prefix cannot be taught what needs another attention pattern",
    statement="On a task that the pretrained decoder does not know, full tuning succeeds and a prefix, given more iterations and "
    "the best of several step sizes, does not; where the task is counting, a rank-1 change of the mlp with as many numbers as the "
    "prefix does.",
    equation="A'_(i j) = A_(i j) (1 - A'_(i 0)), quad t'_i = (1 - A'_(i 0)) t_i + A'_(i 0) W_v p",
    equation_alt="under a prefix every attention weight on the text shrinks by one common factor, and the output moves towards the "
    "prefix's values",
    derived="the exact identity of one prefixed head; the linearised optimum of both deltas on the frozen decoder",
    sources=("petrov2024", "he2022"),
    experiment=EXPERIMENT,
    rows=_rows,
    parts={"rates": _rates, "digits": _by_group},
    statistic=Comparison("share of new-task sequences that the prefix solves", mean("prefix")),
    criteria=(
        Criterion("prefix", "share solved with a prefix", mean("prefix"), (-np.inf, 0.02), (-np.inf, 0.02)),
        Criterion("full", "share solved after full tuning", mean("full"), (0.8, np.inf), (0.8, np.inf)),
        Criterion("LoRA", "share of counting sequences solved with LoRA", _lora, (0.85, np.inf), (0.85, np.inf)),
    ),
    rivals=(
        Comparison("prefix at the smallest step size tried", mean("prefix_first")),
        Comparison("LoRA of equal size, every task", mean("lora")),
        Comparison("linearised optimum of the prefix", mean("prefix_linear")),
        Comparison("linearised optimum of LoRA", mean("lora_linear")),
    ),
    nulls=(Comparison("the frozen decoder", mean("frozen")),),
    assumptions=(
        Assumption(
            "the task is new",
            f"the frozen decoder solves fewer than {UNKNOWN:.0%} of its sequences",
            lambda cell: cell.measured.values["frozen"] < UNKNOWN,
            lambda cells: f"largest share {max(c.measured.values['frozen'] for c in cells):.3f}",
            needed=1.0,
        ),
    ),
    rule="Supported when the prefix solves fewer than 2 % of held-out sequences, full tuning more than 80 % and, on counting, LoRA "
    "more than 85 %; refuted when one of them is surely on the other side.",
    reason="The published shares are 0 % and 0.3 to 0.6 % for the prefix, 85 % for full tuning and 92 % for LoRA; the bars leave "
    "room for a smaller decoder but none for a prefix that learns the task in part.",
    change="A prefix that learns a share of the sequences once its step size is chosen for it, or a LoRA that needs more "
    "iterations or a higher rank.",
    good=partial(own, EXPERIMENT, other_token),
    bad=partial(own, EXPERIMENT, constant_answer),
    good_is="one head that is asked for the token it hardly attends to, which no prefix can make it read",
    bad_is="the same head asked for one constant answer, which a prefix can bias it to",
)
