"""How often the lab's verdicts are wrong, on planted worlds with a known answer."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from . import style, words
from .style import FAINT, INK, Mark

LOOKS = {0.0: Mark("#0072B2", "o", "-"), 1.0: Mark("#D55E00", "s", (0, (5, 1.5))), 2.0: Mark("#009E73", "D", (0, (1, 1)))}
GROUND = (0.93, 0.975)  # a coverage near the nominal one
_CAPTION = (
    "Error rates of verdicts on planted worlds, by number of tasks. (a) Share of nominal {confidence} intervals that hold "
    "the truth; the ground reaches from {low} to {high}. (b) Share of single verdicts that are wrong on one side, before "
    "Holm's method, where the truth lies on a bar (hollow: errors, which are skewed); the lines are the nominal {nominal} "
    "and the limit {limit}. (c) Share of true claims that are supported after Holm's method, where the effect lies three "
    "standard deviations above the bar. Colours are the standard deviation between tasks over that between seeds of a task."
)
ALT = "Three panels over the number of tasks: coverage of intervals, share of wrong verdicts, and power, which rises with tasks."


def caption(calibration: Mapping) -> str:
    """Return the figure's caption with the levels that its lines stand at."""
    levels = {"nominal": calibration["nominal"], "limit": calibration["limit"], "low": GROUND[0], "high": GROUND[1]}
    return _CAPTION.format(confidence=words.CONFIDENCE, **levels)


def errors(calibration: Mapping) -> Figure:
    """Return coverage, wrong one-sided verdicts and power against the number of tasks."""
    rows = pd.DataFrame(calibration["rows"])
    rows["wrong"] = rows[["wrong_supported", "wrong_refuted"]].max(axis=1)
    skewed, clear = rows["effect"].str.contains("skewed"), rows["effect"] == "clear"
    counts = sorted(rows["tasks"].unique())
    place = rows["tasks"].map({n: k for k, n in enumerate(counts)})
    with style.theme():
        figure = style.canvas(2.3)
        left, middle, right = figure.subplots(1, 3)
        left.axhspan(*GROUND, color=FAINT, alpha=0.35, lw=0)
        left.axhline(0.95, color=INK, lw=0.7)
        middle.axhline(calibration["nominal"], color=INK, lw=0.7)
        middle.axhline(calibration["limit"], color=INK, lw=0.7, ls=(0, (4, 2)))
        for shift, (spread, look) in enumerate(LOOKS.items()):
            for own, face in ((~skewed, look.color), (skewed, "none")):
                kept = own & (rows["spread"] == spread)
                x = place[kept] + 0.22 * (shift - 1)
                marks = {"s": 12, "marker": look.marker, "facecolors": face, "edgecolors": look.color, "lw": 0.7, "alpha": 0.85}
                if face != "none":
                    left.scatter(x, rows.loc[kept, "coverage"], **marks)
                wrong = kept & rows["effect"].str.contains("bar")
                middle.scatter(place[wrong] + 0.22 * (shift - 1), rows.loc[wrong, "wrong"], **marks)
            power = rows[clear & (rows["spread"] == spread)].sort_values("tasks")
            right.plot(
                np.arange(len(power)), power["suite_right"], color=look.color, ls=look.dash, marker=look.marker, ms=4, mew=0,
                label=f"{spread:g}",
            )  # fmt: skip
        left.set(ylim=(0.9, 1.0), ylabel="coverage", title="(a) intervals")
        middle.set(ylim=(0, 0.05), ylabel="share wrong", title="(b) wrong verdicts")
        right.set(ylim=(0, 1.04), ylabel="share supported", title="(c) power")
        for axes in (left, middle, right):
            axes.set_xticks(range(len(counts)), [str(n) for n in counts])
            axes.set_xlabel("tasks")
        handles, _ = right.get_legend_handles_labels()
        for handle in handles:
            handle.set_label(f"between tasks {handle.get_label()} times within")
        style.legend(figure, handles)
    return figure
