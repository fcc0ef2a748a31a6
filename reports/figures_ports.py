"""Figures of single ports: what switching them off costs, and where one or two controls are worth having."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from . import panels, style
from .figures_control import port_words
from .style import GREY, INK, Labels, Mark

COUNTS = {1: (Mark("#0072B2", "o"), "one port"), 2: (Mark("#D55E00", "s"), "two ports")}


def ablation(rows: pd.DataFrame, sets: pd.DataFrame, labels: Labels) -> Figure:
    """Return measured against predicted increase of the loss for every set of ports, and each predictor's rank correlation."""
    series = {"predicted": "quadratic form", "diagonal": "its diagonal", "norm": "size of predicted control",
              "norm_trained": "size of trained control", "gradient": "gradient times control",
              "permuted": "permuted labels"}  # fmt: skip
    with style.theme():
        figure = style.canvas(3.0)
        left, right = figure.subplots(1, 2, width_ratios=(1, 1.12))
        sets = panels.present(sets, ["predicted", "measured"])
        shown = {count: look for count, look in COUNTS.items() if (sets["count"] == count).any()}
        for count, (look, _) in shown.items():
            own = sets[sets["count"] == count]
            panels.dots(left, own["predicted"], own["measured"], look, panels.inside(own), size=9, alpha=panels.faded(len(sets)))
        panels.identity(left, sets[["predicted", "measured"]].to_numpy(dtype=float), log=True, factor=2.0)
        left.set(xlabel="predicted increase (nats)", ylabel="measured increase (nats)", title="(a) predicted and measured")
        panels.rivals(right, rows, series, labels, width=20)
        right.axvline(0, color=GREY, lw=0.8, zorder=0)
        right.set(xlabel="rank correlation with the increase", title="(b) against rivals and a null")
        handles = [Line2D([], [], ls="", marker=m.marker, color=m.color, ms=4.5, mew=0, label=w) for m, w in shown.values()]
        style.legend(figure, handles + panels.handles(rows.drop(columns="delta", errors="ignore"), labels))
    return figure


def placement(rows: pd.DataFrame, ports: pd.DataFrame, labels: Labels) -> Figure:
    """Return maps of what each port brings, predicted beside trained, one pair per task, and the regret of each choice."""
    series = {"value": "linear-quadratic value", "gradient": "largest gradient", "fisher": "largest Fisher trace",
              "sparse": "sparse path", "gramian": "log det of the Gramian", "random": "a random set"}  # fmt: skip
    with style.theme():
        ports = panels.tested(panels.present(ports, ["predicted", "trained"]))
        tasks = labels.in_order("task", ports["task"])
        columns = panels.columns_for(len(tasks))
        lines = -(-len(tasks) // columns)
        figure = style.canvas(0.5 + 1.3 * lines + 2.0)
        top, bottom = figure.subfigures(2, 1, height_ratios=(0.3 + 1.3 * lines, 2.0))
        panel = top.subplots(lines, columns, sharex=True, sharey=True, squeeze=False).ravel()
        blocks, sites = (list(dict.fromkeys(words)) for words in zip(*map(port_words, ports["port"]), strict=True))
        for axes, task in zip(panel, tasks, strict=False):
            shown = ports[ports["task"] == task].groupby("port", sort=False)[["predicted", "trained"]].mean()
            starts = {"predicted": 0.0, "trained": len(sites) + 0.25}
            for column, start in starts.items():
                grid = np.full((len(blocks), len(sites)), np.nan)
                for port, share in shown[column].items():
                    block, site = port_words(port)
                    grid[blocks.index(block), sites.index(site)] = share
                extent = (start, start + len(sites), 0, len(blocks))
                image = axes.imshow(grid, cmap="Blues", vmin=0, vmax=1, aspect="auto", origin="lower", extent=extent)
                row, place = np.unravel_index(np.nanargmax(grid), grid.shape)
                axes.plot(start + place + 0.5, row + 0.5, marker="o", ms=3.5, mfc="white", mec=INK, mew=0.6)
                below, middle = axes.get_xaxis_transform(), start + len(sites) / 2
                axes.text(middle, -0.2, column, fontsize=6.5, ha="center", va="top", transform=below)
            axes.set(xlim=(-0.4, starts["trained"] + len(sites) + 0.4), ylim=(0, len(blocks)))
            axes.set_title(style.wrap(labels.task(task), int(84 / columns)), fontsize=8, linespacing=0.95)
            every = -(-len(blocks) // 6)
            axes.set_yticks(np.arange(0, len(blocks), every) + 0.5, blocks[::every])
            places = [start + k + 0.5 for start in starts.values() for k in range(len(sites))]
            axes.set_xticks(places, 2 * [site[:4].replace("atte", "attn") for site in sites], fontsize=6.5)
            axes.tick_params(length=0)
            axes.spines[:].set_visible(False)
        for place in range(len(tasks), len(panel)):
            panel[place].set_visible(False)
            panel[place - columns].tick_params(axis="x", labelbottom=True)
        bar = top.colorbar(image, ax=list(panel), fraction=0.05, pad=0.01, aspect=12)
        bar.outline.set_visible(False)
        bar.set_label("share of best gain", fontsize=7.5)
        top.supylabel("(a) block", fontsize=8.5)
        axes = bottom.subplots()
        panels.rivals(axes, rows, series, labels, width=24)
        axes.set(xlabel="(b) regret: share of the best set's gain that the chosen set gives away")
        style.legend(figure, panels.handles(rows.drop(columns="delta", errors="ignore"), labels))
    return figure
