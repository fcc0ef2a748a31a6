"""Single ports: the loss that each reaches against the energy it needs."""

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from .. import panels, style
from ..claim_figure import ClaimFigure
from ..panels import port_words
from ..style import GREY, INK, Labels

SITES = {"attention": ("o", INK, INK), "mlp": ("s", "none", INK)}


def tunable_ports(rows: pd.DataFrame, labels: Labels) -> Figure:
    """Return the loss reached by tuning one port against the energy that port needs, one panel per task."""
    with style.theme():
        rows = panels.present(rows, ["energy", "loss"])
        figure, axes = panels.multiples(labels.in_order("task", rows["task"]), labels.task, each=1.6, share=False)
        ports = list(dict.fromkeys(rows["port"]))
        for task, panel in axes.items():
            cells = rows[rows["task"] == task].groupby("port", sort=False)[["energy", "loss"]].mean()
            spread = rows[rows["task"] == task]
            for port in ports:
                block, site = port_words(port)
                marker, face, edge = _look(site)
                own = spread[spread["port"] == port]
                panel.scatter(
                    own["energy"], own["loss"], s=5, marker=marker, facecolors=face, edgecolors=edge, linewidths=0.3, alpha=0.25
                )
                if port in cells.index:
                    panel.scatter(
                        *cells.loc[port], s=18, marker=marker, facecolors=face, edgecolors=edge, linewidths=0.7, zorder=3
                    )
                    panel.annotate(block, cells.loc[port], xytext=(3, 2), textcoords="offset points", fontsize=6.5)
            if (spread["energy"] > 0).all():
                style.log_axis(panel, "x")
        figure.supxlabel("predicted energy to reach the target", fontsize=8.5)
        figure.supylabel("loss after tuning (nats)", fontsize=8.5)
        words = {"attention": "attention port", "mlp": "feed-forward port"}
        handles = []
        for site in dict.fromkeys(port_words(p)[1] for p in ports):
            marker, face, edge = _look(site)
            label = words.get(site, style.spelled(site)) + " (number: block)"
            handles.append(Line2D([], [], ls="", marker=marker, mfc=face, mec=edge, mew=0.7, ms=4.5, label=label))
        style.legend(figure, handles, where="outside upper center")
    return figure


def _look(site: str) -> tuple[str, str, str]:
    """Return marker, face and edge of a site."""
    return SITES.get(site, ("^", "none", GREY))


FIGURES = (
    ClaimFigure(
        "tunable-ports",
        tunable_ports,
        needs={"rows": ("task", "seed", "port", "energy", "loss")},
        caption=(
            "Loss reached by tuning a single port against the energy that the port needs by prediction. Large markers are "
            "means over seeds, small ones single seeds. {n}. Nothing was fitted."
        ),
        alt=("Small multiples by task: loss after tuning one port against the predicted energy, by block and sublayer."),
    ),
)
