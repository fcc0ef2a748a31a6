"""One law for every delta: gains predicted against trained, cosines against rivals and nulls, sizes and held-out logits."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure, SubFigure

from .. import panels, style
from ..claim_figure import ClaimFigure
from ..style import GREY, Labels

SERIES = {
    "cosine": "law of the ensemble",
    "cosine_first": "first-order law",
    "cosine_raw": "first gradient",
    "cosine_permuted": "permuted labels (97.5 %)",
    "cosine_turned": "turned (97.5 %)",
}
SHIFTS = {
    "shift": "law installed",
    "shift_first": "first-order law",
    "shift_permuted": "permuted labels (97.5 %)",
    "shift_turned": "turned (97.5 %)",
}


def one_law(rows: pd.DataFrame, gains: pd.DataFrame, labels: Labels) -> Figure:
    """Return trained against predicted gains delta by delta, cosines of every law, sizes, and cosines of held-out logits."""
    names = panels.deltas(gains, labels)
    columns = panels.columns_for(len(names) or 1)
    lines = -(-max(len(names), 1) // columns)
    with style.theme():
        figure = style.canvas(1.75 * lines + 3.3)
        top, bottom = figure.subfigures(2, 1, height_ratios=(1.75 * lines + 0.3, 3.0))
        _gains(top, gains, names, lines, columns, labels)
        left, middle, right = bottom.subplots(1, 3, width_ratios=(1.1, 1.1, 1.0))
        panels.rivals(left, rows, SERIES, labels, width=17)
        left.set(xlabel="cosine with what was trained", title="(b) direction")
        panels.rivals(middle, rows, SHIFTS, labels, width=17)
        middle.set(xlabel="cosine of the logits' shift", title="(c) held-out text")
        panels.points(right, rows, "predicted", "measured", labels)
        panels.identity(right, rows[["predicted", "measured"]].to_numpy(dtype=float), log=True, factor=2**0.25)
        right.set(xlabel="size of the law", ylabel="trained size", title="(d) size")
        for axes in (left, middle):
            axes.axvline(0, color=GREY, lw=0.8, zorder=0)
        style.legend(figure, panels.handles(rows, labels))
    return figure


def _gains(figure: SubFigure, gains: pd.DataFrame, names: list[str], lines: int, columns: int, labels: Labels) -> None:
    """Draw a panel of trained against predicted gains for every delta, or one for all where the study names none."""
    panel = figure.subplots(lines, columns, squeeze=False).ravel()
    for axes in panel[max(len(names), 1) :]:
        axes.set_visible(False)
    for axes, name in zip(panel, names or [None], strict=False):
        own = gains if name is None else gains[gains["delta"] == name]
        panels.points(axes, own, "predicted", "trained", labels, size=7)
        panels.identity(axes, own[["predicted", "trained"]].to_numpy(dtype=float), log=False)
        slope = np.polyfit(own["predicted"], own["trained"], 1)[0] if own["predicted"].nunique() > 1 else float("nan")
        axes.annotate(f"slope {slope:.2f}", (0.05, 0.9), xycoords="axes fraction", fontsize=7.5, va="center")
        axes.set_title("all deltas" if name is None else style.wrap(labels.delta(name), 26), fontsize=8, linespacing=0.95)
    figure.supxlabel("predicted gain, over the law's size", fontsize=8.5)
    figure.supylabel("trained gain", fontsize=8.5)
    figure.suptitle("(a) gains along the law's own directions", fontsize=9)


FIGURES = (
    ClaimFigure(
        "one-law",
        one_law,
        needs={
            "rows": ("task", "seed", *SERIES, *SHIFTS, "predicted", "measured"),
            "gains": ("task", "seed", "predicted", "trained"),
        },
        caption=(
            "One law for every delta. (a) Gains in the strongest directions that the law has at each of a delta's places, "
            "predicted before training and read off what was trained along the same directions, over the size of the whole law; "
            "of IA3 the factors that the law changes most. Lines are equality. (b) Cosine of all that was trained with the law, "
            "with its rivals and with nulls, in the norm of the price. (c) Cosine of the shift of held-out logits by training "
            "with that by the installed law. (d) Sizes in the same norm; the band is a quarter of an octave. Bars are medians. "
            "{n}. Nothing was fitted."
        ),
        alt=(
            "Top: trained against predicted gains with the line of equality, a panel for each delta. Below: cosines of the law, "
            "its rivals and nulls with what was trained; the same for held-out logits; trained against predicted size."
        ),
    ),
)
