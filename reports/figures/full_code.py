"""Full tuning in the deltas' code: what it keeps there, what lies between its codes and theirs, and how alike codes act."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from .. import panels, style
from ..claim_figure import ClaimFigure
from ..style import FAINT, GREY, Labels, Mark
from .subspace import kept_share, lines_at

READERS = {
    "within": "random projection, most numbers",
    "within_few": "random projection, fewest numbers",
    "searched_own": "found decoder, fewest numbers",
    "searched": "the same, found on other tasks",
    "lost": "labels dealt out",
    "frozen": "frozen network",
}
BY_DIMENSION = {
    "full": (Mark("#0072B2", "o", "-"), "full tuning, random projection"),
    "found": (Mark("#D55E00", "s", ""), "full tuning, found decoder"),
    "own": (Mark("#009E73", "^", (0, (5, 1.5))), "deltas, decoders of the task"),
    "learned": (Mark("#CC79A7", "v", (0, (1, 1))), "deltas, decoders of other tasks"),
}
WAYS = {"into": "full tuning: ", "out": "deltas: "}  # who reads the other's code
NULLS = {
    "": "other's code",
    "_rotated": "code rotated",
    "_dealt": "code dealt out",
    "_apart": "found without full",
    "_own": "task's decoders",
}
ENDS = {
    ("into", "between"): (Mark("#0072B2", "o", "-"), "full tuning, to a delta's code"),
    ("into", "dealt"): (Mark("#3D97CC", "D", (0, (1, 1))), "full tuning, to it dealt out"),
    ("out", "between"): (Mark("#D55E00", "s", "-"), "deltas, to full tuning's code"),
    ("out", "dealt"): (Mark("#C47F00", "v", (0, (1, 1))), "deltas, to it dealt out"),
}
JACOBIANS = {
    "cosine": "decoders of other tasks",
    "own": "decoders of the task, found together",
    "alone": "found one delta at a time",
    "dealt": "labels dealt out",
    "rotated": "one code rotated",
    "random": "random decoders",
    "full_random": "full tuning, random projection",
    "full_searched": "full tuning, found decoder",
}
FITTED = {
    "fitted_learned": "decoders of other tasks",
    "fitted_alone": "found one delta at a time",
    "fitted_random": "random decoders",
    "cka": "CKA of codes of other tasks",
    "cka_dealt": "the same, tasks dealt out",
}


def _line(axes: Axes, x: pd.Index, y: pd.Series, look: Mark) -> None:
    axes.plot(x, y, color=look.color, lw=1.1, ls=look.dash or "none", **panels.along(look))


def _handle(look: Mark, words: str) -> Line2D:
    return Line2D([], [], color=look.color, lw=1.1, ls=look.dash or "none", label=words, **panels.along(look))


def full_in_subspace(rows: pd.DataFrame, runs: pd.DataFrame, labels: Labels, bars: dict) -> Figure:
    """Return what full tuning keeps within a code, beside nulls, and what it and the deltas keep against the code's numbers."""
    with style.theme():
        figure = style.canvas(3.2)
        left, right = figure.subplots(1, 2, width_ratios=(1.1, 1))
        shares = rows.assign(**{name: kept_share(rows, name) for name in READERS})
        panels.rivals(left, shares, READERS, labels, width=20)
        lines_at(left, bars["level"][0])
        left.set(xlabel="corrected relative performance", title="(a) full tuning")
        full = runs["delta"] == "full"
        shown = {
            "full": runs[full & (runs["arm"] == "own")],
            "found": runs[full & (runs["arm"] == "searched own")],
            "own": runs[~full & (runs["arm"] == "own")],
            "learned": runs[~full & (runs["arm"] == "learned")],
        }
        for name, own in shown.items():
            means = own.groupby("dimension")[["accuracy", "full", "majority"]].mean().astype(float)
            _line(right, means.index, kept_share(means, "accuracy"), BY_DIMENSION[name][0])
        style.log_axis(right, "x")
        right.axhline(1.0, color=GREY, lw=0.8, zorder=0)
        right.axhline(0.0, color=FAINT, lw=0.8, zorder=0)
        right.set(xlabel="numbers of the code", ylabel="corrected relative performance", title="(b) mean over tasks")
        style.legend(figure, [_handle(*look) for look in BY_DIMENSION.values()])
    return figure


def full_connected(rows: pd.DataFrame, segments: pd.DataFrame, labels: Labels, bars: dict) -> Figure:
    """Return what either reader makes of the other's code, beside nulls, and what is kept along the segments between them."""
    with style.theme():
        figure = style.canvas(3.6)
        left, right = figure.subplots(1, 2, width_ratios=(1.1, 1))
        words, shares = {}, rows.copy()
        for way, reads in WAYS.items():
            full = rows.assign(full=rows["full" if way == "into" else "tuned"])
            for null, what in NULLS.items():
                words[f"{way}{null}"] = reads + what
                shares[f"{way}{null}"] = kept_share(full, f"{way}{null}")
        panels.rivals(left, shares, words, labels, width=26)
        lines_at(left, bars["level"][0])
        left.set(xlabel="corrected relative performance", title="(a) codes untrained")
        own = segments[segments["arm"] == "learned"]
        way = own["delta"].eq("full").map({True: "into", False: "out"})
        for (which, end), (look, _) in ENDS.items():
            part = own[(way == which) & (own["end"] == end)].groupby("at")["kept"].median().astype(float)
            _line(right, part.index, part, look)
        right.axhline(1.0, color=GREY, lw=0.8, zorder=0)
        right.axhline(0.0, color=FAINT, lw=0.8, zorder=0)
        right.set(
            xlabel="from the reader's own code to the other's", ylabel="share of the fall of the loss", title="(b) between codes"
        )
        style.legend(figure, [_handle(*look) for look in ENDS.values()])
    return figure


def code_alignment(rows: pd.DataFrame, labels: Labels, bars: dict) -> Figure:
    """Return the cosine of two deltas' Jacobians in the code, beside nulls, and what is alike up to a rotation."""
    with style.theme():
        figure = style.canvas(2.9)
        left, right = figure.subplots(1, 2, width_ratios=(1.15, 1))
        panels.rivals(left, rows, JACOBIANS, labels, width=22)
        lines_at(left, bars["level"][0])
        left.set(xlabel="cosine of the Jacobians", title="(a) as the code stands")
        panels.rivals(right, rows, FITTED, labels, width=20)
        right.set(xlabel="cosine after the best rotation, or CKA", title="(b) up to a rotation", xlim=(-0.03, 1.05))
    return figure


COUNTED = "Points are cells, bars medians. {n}."
FIGURES = (
    ClaimFigure(
        "full-in-subspace",
        full_in_subspace,
        needs={
            "rows": ("task", "seed", "full", "majority", *READERS),
            "runs": ("task", "seed", "arm", "dimension", "delta", "accuracy", "full", "majority"),
        },
        bars=("level",),
        caption=(
            "Full tuning through the deltas' code. (a) Held-out accuracy of full tuning by a code, over that in "
            "its own space, both above the largest class; the dashed line is the bar of {level}. (b) The same "
            "against the numbers of the code, mean over tasks, for full tuning through a random projection and a "
            "found decoder, and for the deltas over their own training. " + COUNTED
        ),
        alt=(
            "Left: what full tuning keeps within a code, by how it reads it. Right: the same against the numbers "
            "of the code, beside deltas."
        ),
    ),
    ClaimFigure(
        "full-connected",
        full_connected,
        needs={
            "rows": ("task", "seed", "full", "tuned", "majority", *(f"{way}{null}" for way in WAYS for null in NULLS)),
            "segments": ("task", "seed", "arm", "delta", "end", "at", "kept"),
        },
        bars=("level",),
        caption=(
            "Codes of full tuning and of deltas, each read by the other. (a) Held-out accuracy with the other's "
            "code, untrained, through decoders of other tasks, over the reader's own training, both above the "
            "largest class; the dashed line is the bar of {level}. (b) What is kept of the fall of the reader's "
            "loss on the way from its own code to the other's, and to the other's with its numbers in another "
            "order and with signs of chance; medians over tasks and pairs. " + COUNTED
        ),
        alt=(
            "Left: what a reader makes of another's code, beside nulls. Right: the kept fall of the loss along "
            "segments between codes."
        ),
    ),
    ClaimFigure(
        "code-alignment",
        code_alignment,
        needs={"rows": ("task", "seed", *JACOBIANS, *FITTED)},
        bars=("level",),
        caption=(
            "How alike a code moves the outputs of two deltas. (a) Cosine of the Jacobians of their logits in the"
            " code, each at its own code, mean over pairs; the dashed line is the bar of {level}. (b) The cosine "
            "after the best rotation of one code, and the linear CKA of the codes that other tasks have. " + COUNTED
        ),
        alt=(
            "Left: cosine of Jacobians by kind of decoder. Right: the cosine after the best rotation, and the CKA"
            " of codes over tasks."
        ),
    ),
)
