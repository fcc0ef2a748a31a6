"""Where a LoRA starts: the steps that each start takes, the way down, and what a law is worth untrained."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from .. import panels, style
from ..claim_figure import ClaimFigure
from ..style import GREY, Labels

STARTS = {"law": "law of the ensemble", "kaiming": "PEFT's default", "lora_ga": "LoRA-GA", "eva": "EVA", "pissa": "PiSSA"}
UNTRAINED = {
    "gain_trained": "trained from the default",
    "gain": "law installed, untrained",
    "gain_first": "first-order law, untrained",
}


def lora_start(rows: pd.DataFrame, path: pd.DataFrame, labels: Labels) -> Figure:
    """Return the steps from every start to the default's end, the held-out loss along the runs, and the falls at their ends."""
    with style.theme():
        figure = style.canvas(2.9)
        left, middle, right = figure.subplots(1, 3, width_ratios=(1.15, 1.1, 0.95))
        panels.rivals(left, rows, {f"octaves_{name}": said for name, said in STARTS.items()}, labels)
        left.set(xlabel="log₂ of steps to the default's end", title="(a) steps, start included")
        above = path.assign(above=path["loss"] - path["goal"])
        for name, said in STARTS.items():
            mean = above[above["start"] == name].groupby("step")["above"].mean()
            look = style.mark(name, STARTS)
            kept = mean[mean.index > 0]
            middle.plot(kept.index, kept, color=look.color, marker=look.marker, ms=3, lw=1.1, label=said)
        style.log_axis(middle, "x")
        middle.axhline(0, color=GREY, lw=0.8, zorder=0)
        middle.set(xlabel="steps of AdamW", ylabel="held-out loss above the goal (nats)", title="(b) the way down, mean")
        panels.rivals(right, rows, {f"gain_{name}": said for name, said in STARTS.items()}, labels)
        right.set(xlabel="fall of the loss (nats)", title="(c) at the end")
        handles, words = middle.get_legend_handles_labels()
        style.legend(figure, [*handles, *panels.handles(rows, labels)])
    return figure


def law_installed(rows: pd.DataFrame, labels: Labels) -> Figure:
    """Return what the law takes off the held-out loss untrained, beside training and the first-order law, and task by task."""
    with style.theme():
        figure = style.canvas(2.6)
        left, right = figure.subplots(1, 2, width_ratios=(1.3, 1))
        panels.rivals(left, rows, UNTRAINED, labels, width=18)
        left.axvline(0, color=GREY, lw=0.8, zorder=0)
        left.set(xlabel="fall of the loss (nats)", title="(a) without training")
        panels.points(right, rows, "gain", "gain_trained", labels)
        panels.identity(right, np.append(rows[["gain", "gain_trained"]].to_numpy(dtype=float), 0.0), log=False)
        right.set(xlabel="law installed (nats)", ylabel="trained (nats)", title="(b) task by task")
        style.legend(figure, panels.handles(rows, labels))
    return figure


FIGURES = (
    ClaimFigure(
        "lora-start",
        lora_start,
        needs={
            "rows": ("task", "seed", *(f"{what}_{name}" for what in ("octaves", "gain") for name in STARTS)),
            "path": ("task", "seed", "start", "step", "loss", "goal"),
        },
        caption=(
            "A LoRA from five starts, each with its own rate chosen on dev text. (a) Steps of AdamW until the held-out loss is "
            "where PEFT's default start ends, with the passes that a start costs counted as steps; one that never gets there "
            "counts as twice the run. (b) The held-out loss above that goal along the chosen runs, mean over cells. (c) Fall of "
            "the held-out loss at the rate and step of the lowest dev loss, in the order of (a). Points are cells, bars medians. "
            "{n}."
        ),
        alt=(
            "Left: steps to the default's end from every start. Middle: mean held-out loss above the goal against steps. Right: "
            "fall of the held-out loss at the end from every start."
        ),
    ),
    ClaimFigure(
        "law-installed",
        law_installed,
        needs={"rows": ("task", "seed", "gain", "gain_first", "gain_trained")},
        caption=(
            "The gain that an ensemble shares, written into a LoRA and never trained. (a) Loss that it takes off the frozen "
            "network's on held-out text, beside the first-order law at its best scale on dev text and the LoRA that is trained "
            "from PEFT's default; bars are medians. (b) Trained against untrained, with the line of equality. {n}."
        ),
        alt="Left: fall of the held-out loss by training and by two installed laws. Right: trained against installed, by cell.",
    ),
)
