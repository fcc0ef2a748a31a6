"""From the rows of a claim to a verdict: supported, refuted, undecided, not applicable."""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from .statistics import Columns, Interval, Statistic, holm, interval

LEVEL = 0.025  # one side of a 95 % interval
NEEDED = 5  # tasks inside the linear regime; fewer make a claim not applicable


@dataclass(frozen=True)
class Criterion:
    """One statistic and the two regions that decide on it.

    The outcome is *supported* when the whole 95 % interval lies inside `supported`, *refuted* when it lies wholly outside
    `tolerated` (which contains `supported`), and *undecided* otherwise. Ends may be infinite. A statistic with `parts` (see
    `Least`) is supported when each part is, and refuted when one is, with Bonferroni's correction over them.
    """

    name: str
    label: str
    statistic: Statistic
    supported: tuple[float, float]
    tolerated: tuple[float, float]
    unit: str = ""


@dataclass(frozen=True)
class Least:
    """The statistic "least of several", as a lead over the best of several rivals is; every part is tested by itself."""

    parts: tuple[Statistic, ...]

    def __call__(self, columns: Columns) -> float:
        return min(part(columns) for part in self.parts)


@dataclass(frozen=True)
class Outcome:
    """What one criterion came to: the interval, the p-values of either side, and the word."""

    criterion: Criterion
    interval: Interval
    p_support: float
    p_refute: float

    @property
    def word(self) -> str:
        """Return the criterion's own outcome, not adjusted for the suite."""
        return word(self.p_support, self.p_refute)


@dataclass(frozen=True)
class Verdict:
    """A claim's verdict on one delta with the evidence it rests on; `cells` counts rows."""

    word: str
    outcomes: tuple[Outcome, ...]
    p_support: float
    p_refute: float
    tasks: int
    cells: int
    reason: str = ""


def word(p_support: float, p_refute: float) -> str:
    """Return supported, refuted or undecided from the two one-sided p-values at level 0.025."""
    if p_support < LEVEL:
        return "supported"
    return "refuted" if p_refute < LEVEL else "undecided"


def outcome_of(criterion: Criterion, columns: Columns, tasks: Sequence[Hashable]) -> Outcome:
    """Return the outcome of one criterion: p(support) is the worse of its two ends, p(refute) the better, doubled.

    The interval is that of the part with the least support.
    """
    parts = getattr(criterion.statistic, "parts", (criterion.statistic,))
    found = [_judged(criterion, interval(columns, tasks, part)) for part in parts]
    weakest = max(found, key=lambda outcome: outcome.p_support)
    return replace(weakest, p_refute=min(1.0, len(found) * min(outcome.p_refute for outcome in found)))


def _judged(criterion: Criterion, found: Interval) -> Outcome:
    low, high = criterion.supported
    ends = [found.p_not_above(low)] if math.isfinite(low) else []
    ends += [found.p_not_below(high)] if math.isfinite(high) else []
    low, high = criterion.tolerated
    outside = [found.p_not_below(low)] if math.isfinite(low) else []
    outside += [found.p_not_above(high)] if math.isfinite(high) else []
    refute = min(1.0, len(outside) * min(outside)) if outside else 1.0
    return Outcome(criterion, found, max(ends, default=0.0), refute)


def tested(rows: Sequence[Mapping]) -> list[Mapping]:
    """Return the rows inside the linear regime, or all where rows have no gate."""
    return [row for row in rows if row.get("inside", True)]


def columned(rows: Sequence[Mapping]) -> dict[str, np.ndarray]:
    """Return the columns that every row has, but lists."""
    names = [name for name in rows[0] if all(name in row and not isinstance(row[name], list) for row in rows)] if rows else []
    return {name: np.asarray([row[name] for row in rows]) for name in names}


def decide(criteria: Sequence[Criterion], rows: Sequence[Mapping], *, needed: int = NEEDED, unit: str = "task") -> Verdict:
    """Return the verdict of a claim from its rows: supported needs every criterion, refuted any (Bonferroni over them).

    rows: records with `task`, `seed` and the columns that the criteria read; a row with `inside` false lies outside the
    linear regime and is not tested. Fewer than `needed` tasks inside give *not applicable*, with the count. unit: "task", or
    "seed" for a verdict on the given tasks alone.
    """
    inside = tested(rows)
    tasks = [row[unit] for row in inside]
    found, total = len(set(tasks)), len({row[unit] for row in rows})
    if found < needed:
        seen = f"it has rows of {found} {unit}{'' if found == 1 else 's'}"
        where = f"{found} of {total} {unit}s lie inside the linear regime" if found < total else seen
        return Verdict("not applicable", (), 1.0, 1.0, found, len(inside), f"{where}, {needed} are needed")
    columns = columned(inside)
    outcomes = tuple(outcome_of(c, columns, tasks) for c in criteria)
    p_support = max(o.p_support for o in outcomes)
    p_refute = min(1.0, len(outcomes) * min(o.p_refute for o in outcomes))
    return Verdict(word(p_support, p_refute), outcomes, p_support, p_refute, found, len(inside))


def over_the_suite(verdicts: Mapping[Hashable, Verdict], looks: int = 1) -> dict[Hashable, Verdict]:
    """Return the same verdicts with p-values adjusted by Holm over everything that was tested, support and refutation apart.

    looks: how often verdicts were drawn, as tasks were added or settings changed; p-values are multiplied by it (Bonferroni).
    """
    judged = [name for name, v in verdicts.items() if v.word != "not applicable"]
    if not judged:
        return dict(verdicts)
    support = dict(zip(judged, holm([verdicts[n].p_support for n in judged]), strict=True))
    refute = dict(zip(judged, holm([verdicts[n].p_refute for n in judged]), strict=True))
    adjusted = dict(verdicts)
    for name in judged:
        s, r = (min(1.0, looks * float(found[name])) for found in (support, refute))
        adjusted[name] = replace(verdicts[name], word=word(s, r), p_support=s, p_refute=r)
    return adjusted
