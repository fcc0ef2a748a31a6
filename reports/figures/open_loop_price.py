"""The price of open loop: what a delta pays for not seeing the state."""

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from .. import panels, style
from ..claim_figure import ClaimFigure
from ..style import GREY, INK, Labels


def open_loop_price(rows: pd.DataFrame, labels: Labels) -> Figure:
    """Return the measured against the predicted price of open loop, and both task by task."""
    kinds = {"measured": style.DELTAS["prefix"], "measured_bias": style.DELTAS["port-bias"]}
    words = {"measured": "prefix minus adapter", "measured_bias": "bias minus adapter"}
    kinds = {column: look for column, look in kinds.items() if column in rows}
    with style.theme():
        tasks = labels.in_order("task", rows["task"])
        figure = style.canvas(max(2.9, 0.9 + 0.26 * len(tasks)))
        left, right = figure.subplots(1, 2, width_ratios=(1, 1.12))
        for column, look in kinds.items():
            panels.dots(left, rows["predicted"], rows[column], look, panels.inside(rows), size=14)
        panels.identity(left, rows[["predicted", *kinds]].to_numpy(dtype=float), log=False)
        left.set(xlabel="predicted price (nats)", ylabel="measured price (nats)", title="(a) predicted and measured")
        left.set_anchor("N")
        order = rows.groupby("task")["predicted"].mean().reindex(tasks).sort_values(kind="stable").index
        for place, task in enumerate(order):
            cells = rows[rows["task"] == task]
            panels.median(right, cells["predicted"].mean(), place)
            for lane, (column, look) in enumerate(kinds.items()):
                lift = (lane - 0.5 * (len(kinds) - 1)) * 0.3
                panels.dots(right, cells[column], place + lift, look, panels.inside(cells))
        panels.by_name(right, [labels.task(t) for t in order])
        right.axvline(0, color=GREY, lw=0.8, zorder=0)
        right.set(xlabel="price (nats)", title="(b) task by task")
        handles = [panels.mark_handle(look, words[c]) for c, look in kinds.items()]
        handles.append(Line2D([], [], color=INK, lw=1.5, label="predicted (b)"))
        style.legend(figure, handles + panels.handles(panels.pooled(rows), labels))
    return figure


FIGURES = (
    ClaimFigure(
        "open-loop-price",
        open_loop_price,
        needs={"rows": ("task", "predicted", "measured")},
        caption=(
            "The price of open loop. (a) Measured against predicted excess of the objective over the adapter's; the line is "
            "equality, every point one task and seed. (b) The same by task, in order of the predicted price; bars are the "
            "mean prediction over seeds. {n}. Nothing was fitted."
        ),
        alt=("Left: measured against predicted price with the line of equality. Right: predicted and measured price by task."),
    ),
)
