"""Controllers that are written down rather than trained."""

import pandas as pd
from matplotlib.figure import Figure

from .. import panels, style
from ..claim_figure import ClaimFigure
from ..style import GREY, Labels

EQUAL = {"gain_trained": "trained adapter", "gain": "synthesised adapter", "gain_regression": "regressed optima",
         "gain_gradient": "one gradient step", "gain_random": "random feedback", "gain_constant": "best constant"}  # fmt: skip

OWN = {"adapter": "trained adapter", "synthesised": "synthesised adapter", "regression": "regressed optima",
       "lq": "LQ gain", "game": "disturbance game", "healing": "self-healing", "shared": "constant, LQ",
       "bias": "constant, trained"}  # fmt: skip


def synthesised_adapter(rows: pd.DataFrame, laws: pd.DataFrame, labels: Labels) -> Figure:
    """Return the held-out gain of every controller, at the trained adapter's energy and at its own."""
    place = [c for c in ("task", "seed", "delta") if c in laws]
    wide = laws.pivot(index=place, columns="law", values="loss")
    gains = wide.rsub(wide["frozen"], axis=0).reset_index()
    if "inside" in rows:
        gains = gains.merge(rows[[*place, "inside"]], on=place)
    with style.theme():
        figure = style.canvas(2.9)
        left, right = figure.subplots(1, 2)
        for axes, table, series, title in (
            (left, rows, EQUAL, "(a) at the trained adapter's energy"),
            (right, gains, OWN, "(b) at their own energy"),
        ):
            panels.rivals(axes, table, series, labels, width=20)
            axes.axvline(0, color=GREY, lw=0.8, zorder=0)
            axes.set(xlabel="gain on held-out text (nats)", title=title)
        style.legend(figure, panels.handles(rows, labels))
    return figure


FIGURES = (
    ClaimFigure(
        "synthesised-adapter",
        synthesised_adapter,
        needs={"rows": ("task", "seed", "gain", "gain_trained"), "laws": ("task", "seed", "law", "loss", "energy")},
        caption=(
            "Controllers without training, against the adapter trained at the same ports. (a) Loss that each takes off the "
            "frozen model's on held-out text, all at the trained adapter's signal energy. (b) The same at the energy that "
            "each asks for itself. Every point is one task and seed, bars are medians. {n}. Nothing was fitted to the "
            "outcome; in (a) the size of the control was set to the trained adapter's."
        ),
        alt=(
            "Left: gain on held-out text of the trained adapter, the synthesised one and its rivals at equal energy. Right: "
            "the gain of control laws at their own energy."
        ),
    ),
)
