"""The facts beside what was foretold of them: steps, orders, gaps to full tuning, and what feedback adds."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .. import panels, style
from ..claim_figure import ClaimFigure
from ..style import GREY, Labels


def _against(axes: Axes, rows: pd.DataFrame, labels: Labels, *, log: bool) -> list[str]:
    """Draw what was measured of every delta and task against what was foretold, and return the deltas' names."""
    looks = {name: labels.look(name) for name in labels.in_order("delta", rows["option"])}
    for name, look in looks.items():
        own = rows[rows["option"] == name]
        panels.dots(axes, own["foretold"], own["measured"], look, panels.inside(own), size=10, alpha=panels.faded(len(rows)))
    panels.identity(axes, rows[["foretold", "measured"]].to_numpy(dtype=float), log=log)
    return list(looks)


def explained_convergence(rows: pd.DataFrame, arrivals: pd.DataFrame, labels: Labels) -> Figure:
    """Return the step of every delta against the one foretold, and what ranks deltas by it."""
    rows, labels = panels.pooled(rows), labels.showing(arrivals["option"])
    series = {
        "order": "path on the tangent model",
        "order_usual": "mean step on the other tasks",
        "order_published": "published stages",
        "order_numbers": "number of parameters",
        "order_gradient": "first gradient",
        "order_curvature": "largest curvature",
    }
    with style.theme():
        figure = style.canvas(3.3)
        left, right = figure.subplots(1, 2, width_ratios=(1, 1.1))
        names = _against(left, arrivals, labels, log=True)
        left.set(xlabel="step foretold", ylabel="step measured", title="(a) step to 95 %")
        panels.rivals(right, rows, series, labels, width=20)
        right.axvline(0, color=GREY, lw=0.8, zorder=0)
        right.set(xlabel="rank correlation within a task", title="(b) what orders them")
        style.legend(figure, style.delta_handles(names, labels))
    return figure


def explained_order(rows: pd.DataFrame, labels: Labels) -> Figure:
    """Return the rank correlation of accuracy with everything that could order deltas."""
    series = {
        "order": "tangent optimum",
        "order_path": "path on the tangent model",
        "order_network": "network at the optimum",
        "order_dimension": "effective dimension",
        "order_alignment": "alignment with the labels",
        "order_usual": "mean accuracy on the other tasks",
        "order_published": "published averages",
        "order_numbers": "number of parameters",
    }
    with style.theme():
        figure = style.canvas(3.2)
        axes = figure.subplots()
        panels.rivals(axes, panels.pooled(rows), series, labels, width=34)
        axes.axvline(0, color=GREY, lw=0.8, zorder=0)
        axes.set(xlabel="rank correlation with held-out accuracy within a task")
    return figure


def explained_gap(rows: pd.DataFrame, gaps: pd.DataFrame, labels: Labels) -> Figure:
    """Return every delta's gap to full tuning against the one foretold, and by how much forecasts and rivals are off."""
    rows, labels = panels.pooled(rows), labels.showing(gaps["option"])
    series = {
        "off": "tangent optimum",
        "off_path": "path on the tangent model",
        "off_network": "network at the optimum",
        "off_usual": "mean gap on the other tasks",
        "off_none": "no gap",
    }
    with style.theme():
        figure = style.canvas(3.3)
        left, right = figure.subplots(1, 2, width_ratios=(1, 1.1))
        names = _against(left, gaps, labels, log=False)
        left.set(xlabel="points behind, foretold", ylabel="points behind, measured", title="(a) behind full tuning")
        panels.rivals(right, rows, series, labels, width=20)
        right.set(xlabel="points off, mean over deltas", title="(b) by forecast")
        style.legend(figure, style.delta_handles(names, labels))
    return figure


def explained_feedback(rows: pd.DataFrame, labels: Labels) -> Figure:
    """Return the adapter's lead over the prefix against the worth of states, and how far off lines and means are."""
    rows = panels.pooled(rows)
    with style.theme():
        figure = style.canvas(3.0)
        left, right = figure.subplots(1, 2)
        panels.dots(left, rows["worth"], rows["ahead"], panels.PLAIN, panels.inside(rows), size=14)
        left.axhline(0, color=GREY, lw=0.8, zorder=0)
        left.set(xlabel="worth of states (nats)", ylabel="adapter below prefix (nats)", title="(a) every task")
        series = {"off": "line through the other tasks", "off_usual": "mean on the other tasks"}
        panels.rivals(right, rows, series, labels, width=18)
        right.set(xlabel="nats off", title="(b) the lead foretold")
    return figure


FIGURES = (
    ClaimFigure(
        "explained-convergence",
        explained_convergence,
        needs={
            "rows": ("task", "order", "order_usual", "order_published", "order_numbers", "order_gradient", "order_curvature"),
            "arrivals": ("option", "foretold", "measured"),
        },
        caption=(
            "Who arrives first, foretold. (a) The step by which a run made 95 % of its own final fall of the held-out loss, "
            "against that of AdamW's path on the tangent model; every point is a task and a delta, the line is equality. (b) "
            "Rank correlation of the measured step over deltas with the step foretold and with what needs no theory; every "
            "point is a task, bars are medians. {n}."
        ),
        alt="Left: measured against foretold step to 95 % by delta. Right: rank correlations of forecasts and rivals.",
    ),
    ClaimFigure(
        "explained-order",
        explained_order,
        needs={
            "rows": (
                "task",
                "order",
                "order_path",
                "order_network",
                "order_dimension",
                "order_alignment",
                "order_usual",
                "order_published",
                "order_numbers",
            )
        },
        caption=(
            "Who does best, foretold. Rank correlation of held-out accuracy over deltas with what was known before: forecasts"
            " of the dev loss, numbers of the kernel, and what needs no theory; every point is a task, bars are medians. {n}."
        ),
        alt="Rank correlations of held-out accuracy with forecasts and rivals, one row for each.",
    ),
    ClaimFigure(
        "explained-gap",
        explained_gap,
        needs={
            "rows": ("task", "off", "off_path", "off_network", "off_usual", "off_none"),
            "gaps": ("option", "foretold", "measured"),
        },
        caption=(
            "How far deltas stay behind full tuning, foretold. (a) Points of accuracy behind full tuning: measured on held-"
            "out text, against those of the tangent optima on dev text; every point is a task and a delta, the line is "
            "equality. (b) By how many points forecasts and rivals are off, mean over deltas; every point is a task, bars are"
            " medians. {n}."
        ),
        alt="Left: measured against foretold gap to full tuning by delta. Right: points by which forecasts and rivals are off.",
    ),
    ClaimFigure(
        "explained-feedback",
        explained_feedback,
        needs={"rows": ("task", "worth", "ahead", "off", "off_usual")},
        caption=(
            "What feedback adds. (a) Held-out loss by which an adapter ends below a prefix, against what it is worth to read "
            "states on the linear response; every point is a task. (b) By how many nats a line through the other tasks, and "
            "their mean, are off; bars are medians. {n}."
        ),
        alt="Left: the adapter's lead over the prefix against the worth of states. Right: how far lines and means are off.",
    ),
)
