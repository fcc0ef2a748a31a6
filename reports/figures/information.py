"""What information is worth: least objectives by what signals read, predicted beside trained, and how far off predictions are."""

import pandas as pd
from matplotlib.figure import Figure

from .. import panels, style
from ..claim_figure import ClaimFigure
from ..style import GREY, INK, Labels

PATTERNS = {"shared": "one vector", "gate": "gates", "state": "gates and states"}
STEPS = {"gate": "gates", "state": "states"}
ERRORS = {"error": "linear response", "first": "first order", "permuted": "permuted labels"}


def information_value(rows: pd.DataFrame, labels: Labels) -> Figure:
    """Return the ladder of least objectives, predicted against measured worths, and octaves off by prediction."""
    with style.theme():
        figure = style.canvas(3.0)
        left, middle, right = figure.subplots(1, 3, width_ratios=(0.9, 1.0, 1.25))
        for _, row in rows[rows["level"] == rows["level"].max()].iterrows():
            for kind, look in (("measured", INK), ("predicted", GREY)):
                rungs = [row[f"{kind}_{pattern}"] for pattern in PATTERNS]
                left.plot(range(3), rungs, color=look, lw=0.9, ls="-" if kind == "measured" else panels.DOTTED, marker=".", ms=3)
        left.set_xticks(range(3), [style.wrap(said, 9) for said in PATTERNS.values()], fontsize=7)
        left.set(ylabel="least objective (nats)", title="(a) ladder, largest price")
        looks = {step: style.mark(step, STEPS) for step in STEPS}
        for step, look in looks.items():
            middle.scatter(
                rows[f"worth_{step}_predicted"], rows[f"worth_{step}"], s=12, marker=look.marker, color=look.color, lw=0
            )
        worths = [f"worth_{step}{kind}" for step in STEPS for kind in ("", "_predicted")]
        panels.identity(middle, rows[worths].to_numpy(dtype=float), log=True, factor=2)
        middle.set(xlabel="predicted worth (nats)", ylabel="measured worth (nats)", title="(b) by step")
        series = {f"{name}_{step}": f"{said}: {words}" for step, words in STEPS.items() for name, said in ERRORS.items()}
        panels.rivals(right, rows, series, labels, width=18)
        right.axvline(1, color=GREY, lw=0.8, zorder=0)
        right.set(xlabel="octaves off", title="(c) against rivals")
        lines = [panels.line_handle("trained"), panels.line_handle("predicted", dotted=True)]
        style.legend(figure, [*lines, *(panels.mark_handle(looks[s], STEPS[s]) for s in STEPS), *panels.handles(rows, labels)])
    return figure


FIGURES = (
    ClaimFigure(
        "information-value",
        information_value,
        needs={
            "rows": (
                "task",
                "seed",
                "level",
                *(f"{kind}_{pattern}" for kind in ("measured", "predicted") for pattern in PATTERNS),
                *(f"worth_{step}{kind}" for step in STEPS for kind in ("", "_predicted")),
                *(f"{name}_{step}" for name in ERRORS for step in STEPS),
            )
        },
        caption=(
            "What it is worth that signals at the heads read gates, and states too. (a) Least training objectives at the largest "
            "price, of the linear response and as trained; a line is a cell. (b) Falls of the objective from one pattern to the "
            "next, predicted before training and measured, at every price; the band is one octave. (c) How far off they are, "
            "beside the same worths to first order in the loss and for permuted labels. {n}."
        ),
        alt=(
            "Left: ladders of least objectives, predicted and trained. Middle: measured against predicted worths. Right: octaves "
            "between predictions and measurements, with rivals."
        ),
    ),
)
