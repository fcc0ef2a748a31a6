"""Deltas on tasks that they were not tuned on: what every pair gains, and the lead of groups among dealings of them."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from .. import panels, style
from ..claim_figure import ClaimFigure
from ..style import GREY, INK, Labels

ACROSS = 3  # matrices side by side
LARGEST = 50.0  # points at which colours end
HIGHEST = 4.8  # inches that all lines of matrices may take


def facts_transfer(rows: pd.DataFrame, deals: pd.DataFrame, labels: Labels) -> Figure:
    """Return the gain of every pair of tasks by delta, and the lead of transfer within groups beside that under dealt groups."""
    names = panels.deltas(rows, labels) or [""]
    lines = -(-len(names) // ACROSS)
    tasks = rows.drop_duplicates("task").sort_values(["group", "task"], kind="stable")
    with style.theme():
        side = min(max(1.9, 0.105 * len(tasks)), HIGHEST / lines)
        figure = style.canvas(lines * (side + 0.35) + 0.75 + 0.22 * len(names))
        top, bottom = figure.subfigures(2, 1, height_ratios=(lines * (side + 0.35), 0.75 + 0.22 * len(names)))
        grid = top.subplots(lines, ACROSS, squeeze=False)
        for place, axes in enumerate(grid.flat):
            if place >= len(names):
                axes.set_visible(False)
                continue
            own = rows[rows["delta"] == names[place]] if "delta" in rows else rows
            image = _matrix(axes, own, tasks, labels, side=side, named=place % ACROSS == 0)
            axes.set_title(f"({chr(97 + place)}) {labels.delta(names[place])}" if names[place] else "(a) pairs")
        bar = top.colorbar(image, ax=grid, shrink=0.8, pad=0.01, aspect=30)
        bar.set_label("points gained", size=7.5)
        bar.outline.set_linewidth(0.4)
        _leads(bottom.subplots(), deals, names, labels, f"({chr(97 + len(names))}) groups, and groups dealt out over the tasks")
    return figure


def _matrix(axes: Axes, rows: pd.DataFrame, tasks: pd.DataFrame, labels: Labels, *, side: float, named: bool):
    """Draw what every source, across, gains on every target, down, with its own gain on the diagonal and groups framed."""
    order = list(tasks["task"])
    table = rows.pivot_table(index="task", columns="source", values="moved").reindex(index=order, columns=order)
    own, values = rows.groupby("task")["own"].mean().reindex(order), table.to_numpy(dtype=float, copy=True)
    np.fill_diagonal(values, own)
    image = axes.imshow(values, cmap="PuOr_r", norm=TwoSlopeNorm(0.0, -LARGEST, LARGEST), aspect="auto")
    groups = list(tasks["group"])
    for group in dict.fromkeys(groups):
        first, count = groups.index(group), groups.count(group)
        axes.add_patch(Rectangle((first - 0.5, first - 0.5), count, count, fill=False, ec=INK, lw=0.9))
    if named:
        axes.set_yticks(range(len(order)), [labels.task(task) for task in order], fontsize=min(5.6, 66 * side / len(order)))
    else:
        axes.set_yticks([])
    axes.set_xticks([])
    axes.tick_params(length=0)
    axes.set(xlabel="source", ylabel="target" if named else "")
    return image


def _leads(axes: Axes, deals: pd.DataFrame, names: list[str], labels: Labels, title: str) -> None:
    """Strip the lead under dealt groups of every delta, with the groups' own as an upright bar."""
    for place, name in enumerate(names):
        own = deals[deals["delta"] == name] if "delta" in deals else deals
        spread = 0.4 * ((np.arange(len(own)) * 0.618) % 1 - 0.5)
        look = labels.look(name) if name else panels.PLAIN
        axes.scatter(own["lead"], place + spread, s=5, color=GREY, alpha=0.5, linewidths=0)
        axes.plot([own["found"].mean()] * 2, [place - 0.34, place + 0.34], color=look.color, lw=2.2, solid_capstyle="butt")
    panels.by_name(axes, [labels.delta(name) if name else "all" for name in names], 16)
    axes.axvline(0, color=GREY, lw=0.8, zorder=0)
    axes.set(xlabel="share of the own gain within groups, less that between", title=title)


FIGURES = (
    ClaimFigure(
        "facts-transfer",
        facts_transfer,
        needs={
            "rows": ("task", "source", "group", "moved", "own"),
            "deals": ("lead", "found"),
        },
        caption=(
            "Deltas put untrained onto other tasks. By delta, points of held-out accuracy above the head of the frozen "
            "network, for every source, across, and target, down; the diagonal is what the target's own delta gains, frames "
            "are groups. Last panel: lead of the share within groups over that between (bars), and under groups dealt out "
            "over the tasks (grey). {n}."
        ),
        alt="Matrices of points gained by source and target task, with groups framed; below, the lead of groups among dealings.",
    ),
)
