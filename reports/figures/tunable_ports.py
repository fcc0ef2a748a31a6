"""Single ports: the loss that each reaches against the energy it needs."""

import matplotlib as mpl
import pandas as pd
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from .. import panels, style
from ..claim_figure import ClaimFigure
from ..panels import port_words
from ..style import GREY, INK, Labels, Mark

SITES = {"attention": ("o", "attention port"), "mlp": ("s", "feed-forward port")}
SHADES = 6  # blocks that the legend names at most


def tunable_ports(rows: pd.DataFrame, labels: Labels) -> Figure:
    """Return the loss reached by tuning one port against the energy that port needs, one panel per task."""
    with style.theme():
        rows = panels.present(rows, ["energy", "loss"])
        rows = rows.assign(**dict(zip(("block", "site"), zip(*rows["port"].map(port_words), strict=True), strict=True)))
        blocks, sites = (list(dict.fromkeys(rows[column])) for column in ("block", "site"))
        shade = {block: to_hex(mpl.colormaps["cividis"](0.9 * k / max(len(blocks) - 1, 1))) for k, block in enumerate(blocks)}
        figure, axes = panels.multiples(labels.in_order("task", rows["task"]), labels.task, each=1.6, share=False)
        for task, panel in axes.items():
            for (_, site, block), own in rows[rows["task"] == task].groupby(["port", "site", "block"], sort=False):
                look = Mark(shade[block], _look(site)[0])
                if len(own) > 1:
                    panels.dots(panel, own["energy"], own["loss"], look, panels.inside(own), size=5, alpha=0.35)
                middle = own[["energy", "loss"]].mean()
                panel.scatter(*middle, s=18, marker=look.marker, color=look.color, linewidths=0.4, edgecolors=INK, zorder=3)
            if (rows.loc[rows["task"] == task, "energy"] > 0).all():
                style.log_axis(panel, "x")
        figure.supxlabel("predicted energy to reach the target", fontsize=8.5)
        figure.supylabel("loss after tuning (nats)", fontsize=8.5)
        named = blocks[:: -(-len(blocks) // SHADES)]
        handles = [panels.mark_handle(Mark(GREY, _look(site)[0]), _look(site)[1]) for site in sites]
        handles += [panels.mark_handle(Mark(shade[block], "D"), f"block {block}") for block in named]
        style.legend(figure, handles, where="outside upper center")
    return figure


def _look(site: str) -> tuple[str, str]:
    """Return marker and words of a site."""
    return SITES.get(site, ("^", style.spelled(site)))


FIGURES = (
    ClaimFigure(
        "tunable-ports",
        tunable_ports,
        needs={"rows": ("task", "seed", "port", "energy", "loss")},
        caption=(
            "Loss reached by tuning a single port against the energy that the port needs by prediction. Large markers are "
            "means over seeds, small ones single seeds; the shade tells the block, darkest the first. {n}. Nothing was fitted."
        ),
        alt=("Small multiples by task: loss after tuning one port against the predicted energy, by block and sublayer."),
    ),
)
