"""All figures of a study drawn from its results."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd
from matplotlib.figure import Figure

from . import figures_errors, overview, style, words
from .load import Results
from .plates import PLATES, SHARED, Plate
from .style import Labels


def plate(claim: Mapping) -> Plate | None:
    """Return the figure that a claim names, by default its own id, or None where a claim has none of its own.

    Raises ValueError for a name, other than the claim's, that is no figure.
    """
    plates = {p.name: p for p in PLATES}
    name = (claim.get("figure") or claim["id"]).replace("_", "-")
    name = SHARED.get(name, name)
    if name not in plates and name != claim["id"]:
        raise ValueError(f"expected a figure among {', '.join(plates)}, got {name!r} in claim {claim['id']}")
    return plates.get(name)


def draw(which: Plate, tables: Mapping[str, pd.DataFrame], labels: Labels) -> Figure | None:
    """Return the plate's figure from its tables, or None when a table is empty; raises ValueError for a missing column."""
    frames = []
    for part, columns in which.needs.items():
        frame = tables[part]
        if frame.empty:
            return None
        missing = [c for c in columns if c not in frame]
        if missing:
            raise ValueError(
                f"figure {which.name} expects the columns {', '.join(missing)} in its {part}, got {', '.join(frame.columns)}"
            )
        frames.append(known_deltas(frame, labels))
    return which.draw(*frames, labels.showing(d for frame in frames if "delta" in frame for d in frame["delta"]))


def known_deltas(frame: pd.DataFrame, labels: Labels) -> pd.DataFrame:
    """Return the table without its delta column when that names no delta of the study (cells that compare several)."""
    if "delta" in frame and not set(frame["delta"]) & {*labels.deltas, *style.DELTAS}:
        return frame.drop(columns="delta")
    return frame


def counted(frame: pd.DataFrame, labels: Labels) -> str:
    """Return how many rows a table has and over how many tasks, deltas and seeds, in words."""
    frame = known_deltas(frame, labels)
    over = [(k, frame[k].nunique()) for k in ("task", "delta", "seed") if k in frame]
    parts = [f"{n} {k}{'' if n == 1 else 's'}" for k, n in over]
    text = f"n = {len(frame)}" + (f" ({' × '.join(parts)})" if math.prod(n for _, n in over) == len(frame) else
                                  f" over {', '.join(parts)}" if parts else "")  # fmt: skip
    outside = int((~frame["inside"].astype(bool)).sum()) if "inside" in frame else 0
    return text + (f", of which {outside} outside the linear regime" if outside else "")


@dataclass(frozen=True)
class Shown:
    """A drawn figure with its caption, its alternative text, and the files its numbers come from."""

    figure: Figure
    caption: str
    alt: str
    sources: tuple[str, ...]


def gallery(results: Results) -> dict[str, Shown]:
    """Return every figure of a study by name: forest plots, parity plots, and one per claim under the claim's id.

    A claim in SHARED is drawn only when the claim whose figure it shares is not in the study.
    """
    labels = Labels.of(results.study)
    shown = forests(results)
    pairs = parities(results, labels)
    if pairs:
        shown["parity"] = pairs
    present = {c["id"] for c in results.claims}
    for claim in results.claims:
        which = None if SHARED.get(claim["id"]) in present else plate(claim)
        tables = {part: results.table(claim["id"], part) for part in which.needs} if which else {}
        figure = draw(which, tables, labels) if which else None
        if figure is not None:
            first = next(iter(tables))
            caption = which.caption.replace("{n}", counted(tables[first], labels))
            shown[claim["id"]] = Shown(figure, caption, which.alt, tuple(Results.file(claim["id"], part) for part in tables))
    if calibration := results.record.get("calibration"):
        figure = figures_errors.errors(calibration)
        shown["errors"] = Shown(figure, figures_errors.caption(calibration), figures_errors.ALT, ("verdicts.json",))
    return shown


FOREST = 30  # criteria on one page


def forests(results: Results) -> dict[str, Shown]:
    """Return the forest plots, predictions first, as few claims to a plot as fit a page; none without a tested criterion."""
    parts: list[list[overview.ForestRow]] = []
    for nature in words.NATURES:
        page: list[overview.ForestRow] = []
        for claim in results.claims:
            rows = overview.forest_rows([claim], words.forest_value) if claim["nature"] == nature else []
            if page and len(page) + len(rows) > FOREST:
                parts.append(page)
                page = []
            page = page + rows
        parts.append(page)
    caption = (
        "Every criterion on one scale: zero is its support bar, −1 its refutation bar; the numbers on the right are in its own "
        "unit. Lines are 95 % intervals over tasks. An interval wholly on the right-hand ground supports, one "
        "wholly on the left-hand ground refutes; where the two bars coincide the grounds meet at zero. Arrows leave the frame. "
        "Nothing was fitted."
    )
    alt = (
        "Forest plot: each criterion's estimate and interval against its support bar at zero and its refutation bar at minus one."
    )
    return {
        f"forest{i or ''}": Shown(
            overview.forest(part), caption if i == 0 else "The criteria, continued.", alt, ("verdicts.json",)
        )
        for i, part in enumerate(p for p in parts if p)
    }


# claim, part, predicted column, measured column, title, quantity, logarithmic
PARITIES = (
    ("intrinsic-dimension", "rows", "spectrum", "measured", "intrinsic dimension", "dimension", True),
    ("open-loop-price", "rows", "predicted", "measured", "price of open loop", "price (nats)", False),
    ("energy-profile", "profile", "predicted", "trained", "energy profile", "share of the energy", False),
    ("linearised-optimum", "points", "predicted", "measured", "held-out logits", "logit shift", False),
)


def parities(results: Results, labels: Labels) -> Shown | None:
    """Return the parity plots of the quantities that the study measured, or None when there is none."""
    pairs, sources = [], []
    present = {c["id"] for c in results.claims}
    for claim, part, predicted, measured, title, quantity, log in PARITIES:
        frame = results.table(claim, part) if claim in present else pd.DataFrame()
        if {predicted, measured} <= set(frame.columns):
            frame = known_deltas(frame, labels)
            kept = frame[[c for c in ("task", "delta", "seed", "inside") if c in frame]]
            kept = kept.assign(predicted=frame[predicted].astype(float), measured=frame[measured].astype(float))
            pairs.append(overview.Pairs(title, quantity, log, kept))
            sources.append(Results.file(claim, part))
    if not pairs:
        return None
    band = "; the band on logarithmic axes is a factor of two" if any(p.logarithmic for p in pairs) else ""
    counts = ". ".join(f"({'abcd'[i]}) {counted(p.frame, labels)}" for i, p in enumerate(pairs))
    hollow = " Hollow markers lie outside the linear regime." if any("inside" in p.frame for p in pairs) else ""
    caption = f"Measured against predicted. The line is equality{band}.{hollow} {counts}. Nothing was fitted."
    alt = f"Parity plots with the line of equality, measured against predicted: {', '.join(p.title for p in pairs)}."
    seen = labels.showing(d for pair in pairs if "delta" in pair.frame for d in pair.frame["delta"])
    return Shown(overview.parity(pairs, seen), caption, alt, tuple(sources))
