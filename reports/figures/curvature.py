"""The curvature: outliers, their directions, and the Hessian against Gauss–Newton."""

import pandas as pd
from matplotlib.figure import Figure

from .. import panels, style
from ..claim_figure import Bars, ClaimFigure
from ..style import FAINT, GREY, Labels


def outlier_count(rows: pd.DataFrame, spectra: pd.DataFrame, labels: Labels, bars: Bars) -> Figure:
    """Return the leading eigenvalues counted from the place of the expected gap, and the distance of each rule from the count."""
    series = {"distance_predicted": "C − 1", "distance_structure": "class structure, frozen",
              "distance_start": "frozen Gauss–Newton matrix's count", "distance_classes": "C", "distance_one": "always one",
              "distance_two": "always two", "distance_ports": "number of ports",
              "distance_gaussian": "C − 1, Gaussian gradients"}  # fmt: skip
    with style.theme():
        figure = style.canvas(3.3)
        left, right = figure.subplots(1, 2, width_ratios=(1, 1.15))
        shown = panels.present(spectra, ["rank", "classes", "hessian"])
        shown = shown[shown["hessian"].astype(float) > 0]
        shown = shown.assign(place=shown["rank"] - (shown["classes"] - 1))
        for look, group in panels.groups(shown, labels):
            for _, cell in group.groupby(["task", "seed"]):
                left.plot(cell["place"], cell["hessian"], color=look.color, ls=look.dash, lw=0.4, alpha=0.25, zorder=1)
            middle = group.groupby("place")["hessian"].median()
            left.plot(middle.index, middle, color=look.color, ls=look.dash, marker=look.marker, ms=3, mew=0, lw=1.0, zorder=2)
        left.axvline(0.5, color=GREY, lw=0.8, zorder=0)
        style.log_axis(left, "y")
        left.set(xlabel="place among the eigenvalues less C − 1", ylabel="eigenvalue over the largest", title="(a) spectrum")
        panels.rivals(right, rows, series, labels, width=20)
        right.axvspan(0, bars["distance"][1], color=GREY, alpha=0.13, lw=0, zorder=0)
        right.set(xlabel="distance from the count (octaves)", title="(b) which rule gives the count", xlim=(-0.1, None))
        style.legend(figure, panels.handles(rows, labels))
    return figure


def outlier_directions(rows: pd.DataFrame, labels: Labels) -> Figure:
    """Return the share of the outliers' eigenvectors that lies within each predicted subspace."""
    series = {"between": "class and cross-class means", "logit": "means over all classes", "permuted": "permuted labels (97.5 %)",
              "frozen": "frozen Gauss–Newton eigenvectors", "random": "random directions"}  # fmt: skip
    with style.theme():
        figure = style.canvas(2.4)
        axes = figure.subplots()
        panels.rivals(axes, rows, series, labels, width=30)
        axes.axvline(0, color=FAINT, lw=0.5, zorder=0)
        axes.set(xlabel="share of the C − 1 leading Hessian eigenvectors inside")
        style.legend(figure, panels.handles(rows, labels))
    return figure


def gauss_newton_hessian(rows: pd.DataFrame, labels: Labels, bars: Bars) -> Figure:
    """Return the difference of Hessian and Gauss-Newton matrix along the outliers and off them, before and after training."""
    along = {"along": "outliers, trained", "along_start": "outliers, frozen", "next": "the next C − 1, trained"}
    off = {"off": "trained", "off_start": "frozen"}
    with style.theme():
        figure = style.canvas(2.6)
        left, right = figure.subplots(1, 2, width_ratios=(1.2, 1))
        parts = (
            (left, along, bars["along"][1], "|v′(H − G)v| over v′Gv", "(a) along leading eigenvectors"),
            (right, off, 1.0, "|H − G| over |G|", "(b) off the outliers"),
        )
        for axes, series, line, quantity, title in parts:
            panels.rivals(axes, _positive(rows, series), series, labels)
            style.log_axis(axes, "x")
            axes.axvline(line, color=GREY, lw=0.8, zorder=0)
            axes.set(xlabel=quantity, title=title)
        style.legend(figure, panels.handles(rows, labels))
    return figure


def _positive(rows: pd.DataFrame, columns: dict[str, str]) -> pd.DataFrame:
    """Return the rows with missing values in the place of numbers that a logarithmic axis cannot show."""
    kept = rows[list(columns)].astype(float)
    return rows.assign(**kept.where(kept > 0))


def residual_fades(rows: pd.DataFrame, labels: Labels) -> Figure:
    """Return the measured against the predicted change of what Gauss-Newton leaves out, and the error of each prediction."""
    series = {"error_predicted": "predicted slopes", "error_misfit": "in proportion to the misfit",
              "error_unchanged": "no change"}  # fmt: skip
    with style.theme():
        figure = style.canvas(3.0)
        left, right = figure.subplots(1, 2, width_ratios=(1, 1.12))
        panels.points(left, rows, "predicted", "measured", labels)
        panels.identity(left, rows[["predicted", "measured"]].to_numpy(dtype=float), log=False)
        left.set(xlabel="predicted change (octaves)", ylabel="measured change (octaves)", title="(a) predicted and measured")
        panels.rivals(right, rows, series, labels)
        right.set(xlabel="error (octaves)", title="(b) against rivals", xlim=(0, None))
        style.legend(figure, panels.handles(rows, labels))
    return figure


FIGURES = (
    ClaimFigure(
        "outlier-count",
        outlier_count,
        needs={"rows": ("task", "measured", "distance_predicted"), "spectra": ("task", "seed", "rank", "classes", "hessian")},
        bars=("distance",),
        caption=(
            "Outliers. (a) Leading eigenvalues of the trained delta's Hessian over the largest, counted from the place where "
            "C − 1 puts the gap (upright line); thick lines are medians over cells, thin ones single cells, and eigenvalues "
            "that are not positive are left out. (b) Distance between the number of eigenvalues before the widest gap and "
            "what each rule says; every point is one cell (a task, a delta and a seed), bars are medians, the band is the "
            "rule's {distance} octaves. {n}. Nothing was fitted."
        ),
        alt=(
            "Left: leading eigenvalues on a logarithmic axis against their place less C minus one, by delta. Right: distance "
            "of the count from C minus one and from rival rules."
        ),
    ),
    ClaimFigure(
        "outlier-directions",
        outlier_directions,
        needs={"rows": ("task", "between", "logit")},
        caption=(
            "Where the outliers point. Share of the C − 1 leading eigenvectors of the trained delta's Hessian that lies "
            "within as many directions of the frozen model: the means of its logit gradients by class, over all classes and "
            "for permuted labels, and the leading eigenvectors of its Gauss–Newton matrix. Every point is one cell (a task, a "
            "delta and a seed), bars are medians. {n}. Nothing was fitted."
        ),
        alt=("Strip of points: share of the leading Hessian eigenvectors within each subspace."),
    ),
    ClaimFigure(
        "gauss-newton-hessian",
        gauss_newton_hessian,
        needs={"rows": ("task", "along", "off")},
        bars=("along",),
        caption=(
            "Hessian against Gauss–Newton matrix. (a) Relative difference along leading Gauss–Newton eigenvectors; the line "
            "is the rule's {along}. (b) Frobenius norm of the difference over that of the Gauss–Newton matrix, both off the C − "
            "1 leading eigenvectors; on the right of the line the difference is the larger. Every point is one cell (a task, "
            "a delta and a seed), bars are medians; differences of zero are left out. {n}. Nothing was fitted."
        ),
        alt=(
            "Left: relative difference along outliers before and after training and along the next eigenvectors. Right: ratio "
            "off the outliers before and after training, both on logarithmic axes."
        ),
    ),
    ClaimFigure(
        "residual-fades",
        residual_fades,
        needs={"rows": ("task", "predicted", "measured", "error_predicted")},
        caption=(
            "What Gauss–Newton leaves out, after training over before. (a) Measured against predicted change of its Frobenius "
            "norm; the line is equality. (b) Error of the prediction and of its rivals; every point is one cell (a task, a "
            "delta and a seed), bars are medians. {n}. Nothing was fitted."
        ),
        alt=(
            "Left: measured against predicted change in octaves with the line of equality. Right: errors of the prediction, "
            "of the misfit and of no change."
        ),
    ),
)
