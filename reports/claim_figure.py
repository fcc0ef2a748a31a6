"""What a claim's figure is: a pure function from tables to a drawing, the columns that it needs, and the words around it."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
from matplotlib.figure import Figure

from . import style, words
from .style import Labels

Bars = Mapping[str, Sequence[float | None]]


@dataclass(frozen=True)
class ClaimFigure:
    """The figure of one claim, by the claim's id, and of the claims `also` that have none of their own.

    draw: tables and labels -> Figure. needs: table part -> columns, in the order of draw's arguments; the first table is the one
    that is counted. bars: criteria whose support regions it shows; draw then takes them too, by name, as [low, high] with None
    for an open end. caption: "{n}" becomes the count, and the name of a criterion in braces its bar. alt: what a reader who
    cannot see the figure is told.
    """

    claim: str
    draw: Callable[..., Figure]
    needs: Mapping[str, tuple[str, ...]]
    caption: str
    alt: str
    bars: tuple[str, ...] = ()
    also: tuple[str, ...] = ()

    def drawn(self, tables: Mapping[str, pd.DataFrame], labels: Labels, bars: Bars) -> Figure | None:
        """Return the figure from its tables, or None when a table is empty; raises ValueError for a missing column."""
        frames = []
        for part, columns in self.needs.items():
            frame = tables[part]
            if frame.empty:
                return None
            missing = [c for c in columns if c not in frame]
            if missing:
                raise ValueError(
                    f"figure {self.claim} expects the columns {', '.join(missing)} in its {part}, got {', '.join(frame.columns)}"
                )
            frames.append(known_deltas(frame, labels))
        seen = labels.showing(d for frame in frames if "delta" in frame for d in frame["delta"])
        return self.draw(*frames, seen, *([bars] if self.bars else []))

    def captioned(self, tables: Mapping[str, pd.DataFrame], labels: Labels, bars: Bars) -> str:
        """Return the caption with the count of the first table's rows and with the claim's own bars."""
        text = self.caption.replace("{n}", counted(tables[next(iter(self.needs))], labels))
        for name in self.bars:
            text = text.replace(f"{{{name}}}", " to ".join(words.bar(end) for end in bars[name] if end is not None))
        return text


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
