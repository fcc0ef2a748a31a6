"""Where the control spends its energy, port by port."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from .. import panels, style
from ..claim_figure import ClaimFigure
from ..panels import port_words
from ..style import GREY, INK, Labels


def energy_profile(rows: pd.DataFrame, profile: pd.DataFrame, labels: Labels) -> Figure:
    """Return the energy share of each port, trained and predicted, one panel per delta, and the distance by rival."""
    with style.theme():
        names = labels.in_order("delta", profile["delta"])
        columns = panels.columns_for(len(names))
        lines = -(-len(names) // columns)
        figure = style.canvas(0.7 + 1.45 * lines + 1.7)
        top, bottom = figure.subfigures(2, 1, height_ratios=(0.25 + 1.45 * lines, 1.7))
        panel = top.subplots(lines, columns, sharex=True, sharey=True, squeeze=False).ravel()
        ports = list(dict.fromkeys(profile["port"]))
        places = np.arange(len(ports))
        for axes, name in zip(panel, names, strict=False):
            look, group = labels.look(name), profile[profile["delta"] == name]
            at = group["port"].map(dict(zip(ports, places, strict=True)))
            axes.plot(at, group["trained"], ls="", marker=look.marker, ms=1.8, mew=0, color=look.color, alpha=0.3)
            columns_of = [c for c in ("trained", "predicted", "gradient") if c in group]
            mean = panels.tested(group).groupby("port", sort=False)[columns_of].mean().reindex(ports)
            shares = [(column, mean[column].to_numpy(dtype=float)) for column in ("predicted", "gradient") if column in mean]
            for column, share in shares:  # a delta has no signal at some ports, over which its line goes on
                drawn = {"color": INK, "lw": 1.1} if column == "predicted" else {"color": GREY, "lw": 0.9, "ls": panels.DOTTED}
                axes.plot(places[np.isfinite(share)], share[np.isfinite(share)], **drawn)
            axes.plot(places, mean["trained"], ls="", marker=look.marker, ms=4.2, mew=0, color=look.color)
            axes.set_title(style.wrap(labels.delta(name), int(84 / columns)), fontsize=8)
            every = -(-len(ports) // (10 if columns > 2 else 24))
            names_at = [" ".join(port_words(p)).replace("attention", "attn") for p in ports[::every]]
            axes.set_xticks(places[::every], names_at, rotation=90 if len(ports) > 4 else 0, fontsize=6.5)
        panels.from_zero(panel[0])
        for place in range(len(names), len(panel)):
            panel[place].set_visible(False)
            panel[place - columns].tick_params(axis="x", labelbottom=True)
        top.supylabel("(a) share of the energy", fontsize=8.5)
        axes = bottom.subplots()
        series = {"js": "optimal control", "js_gradient": "plain gradient", "js_uniform": "equal shares",
                  "js_initial": "shares at the start", "js_permuted": "permuted ports"}  # fmt: skip
        panels.rivals(axes, rows, series, labels, width=24)
        axes.set(xlabel="(b) Jensen–Shannon divergence from the trained profile (nats)", xlim=(0, None))
        handles = [Line2D([], [], color=INK, lw=1.1, label="optimal control"),
                   Line2D([], [], color=GREY, lw=0.9, ls=panels.DOTTED, label="plain gradient")]  # fmt: skip
        style.legend(figure, style.delta_handles(names, labels) + handles)
    return figure


FIGURES = (
    ClaimFigure(
        "energy-profile",
        energy_profile,
        needs={"rows": ("task", "js"), "profile": ("task", "delta", "seed", "port", "trained", "predicted")},
        caption=(
            "Where the control spends its energy. (a) Share at each port (block and sublayer): lines are predictions, large "
            "markers the trained mean over the cells inside the linear regime, small ones single cells. (b) Divergence of "
            "each prediction from the trained profile; every point is one cell (a task, a delta and a seed), bars are "
            "medians. {n}. Nothing was fitted."
        ),
        alt=(
            "Top: energy share by port, one panel per delta, trained as points and predicted as lines. Bottom: Jensen–Shannon "
            "divergence of the prediction and its rivals from the trained profile."
        ),
    ),
)
