"""Where one or two controls are worth having."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from .. import panels, style
from ..claim_figure import ClaimFigure
from ..panels import port_words
from ..style import INK, Labels


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
        style.legend(figure, panels.handles(panels.pooled(rows), labels))
    return figure


FIGURES = (
    ClaimFigure(
        "placement",
        placement,
        needs={"rows": ("task", "count", "value"), "map": ("task", "port", "predicted", "trained")},
        caption=(
            "Where to put a control. (a) What a control at one port alone brings, as a share of what the best port brings: "
            "predicted on the left of each panel, trained on the right, by block and sublayer, means over seeds; the circle "
            "marks the best. (b) Share of the best set's gain that the chosen set of one or two ports gives away; every point "
            "is one task, seed and number of ports, bars are medians. {n}. Nothing was fitted."
        ),
        alt=(
            "Top: by task, two heat maps of the gain of each port, predicted and trained. Bottom: regret of the "
            "linear-quadratic choice, of its rivals and of a random one."
        ),
    ),
)
