"""All figures of a study drawn from its results."""

from dataclasses import dataclass

import pandas as pd
from matplotlib.figure import Figure

from . import error_rates, overview, words
from .claim_figure import counted, known_deltas
from .figures import FIGURES, SHARED
from .load import Results
from .style import Labels


@dataclass(frozen=True)
class Drawn:
    """A drawn figure with its caption, its alternative text, and the files its numbers come from."""

    figure: Figure
    caption: str
    alt: str
    sources: tuple[str, ...]


def gallery(results: Results) -> dict[str, Drawn]:
    """Return every figure of a study by name: forest plots, parity plots, and one per claim under the claim's id.

    A claim in SHARED is drawn only when the claim whose figure it shares is not in the study.
    """
    labels = Labels.of(results.study)
    shown = forests(results)
    pairs = parities(results, labels)
    if pairs:
        shown["parity"] = pairs
    bars = {claim["id"]: claim["bars"] for claim in results.claims}
    for claim in bars:
        figure = FIGURES.get(claim if SHARED.get(claim) in bars else SHARED.get(claim, claim))
        tables = {part: results.table(claim, part) for part in figure.needs} if figure else {}
        drawing = figure.drawn(tables, labels, bars[claim]) if figure else None
        if drawing is not None:
            sources = tuple(Results.file(claim, part) for part in tables)
            shown[claim] = Drawn(drawing, figure.captioned(tables, labels, bars[claim]), figure.alt, sources)
    if calibration := results.record.get("calibration"):
        caption = error_rates.caption(calibration)
        shown["errors"] = Drawn(error_rates.errors(calibration), caption, error_rates.ALT, ("verdicts.json",))
    return shown


FOREST = 20  # criteria in one plot, which takes about half a page


def forests(results: Results) -> dict[str, Drawn]:
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
        f"unit. Lines are {words.CONFIDENCE} intervals over tasks. An interval wholly on the right-hand ground supports, one "
        "wholly on the left-hand ground refutes; where the two bars coincide the grounds meet at zero. Arrows leave the frame. "
        "Nothing was fitted."
    )
    alt = (
        "Forest plot: each criterion's estimate and interval against its support bar at zero and its refutation bar at minus one."
    )
    return {
        f"forest{i or ''}": Drawn(
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


def parities(results: Results, labels: Labels) -> Drawn | None:
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
    return Drawn(overview.parity(pairs, seen), caption, alt, tuple(sources))
