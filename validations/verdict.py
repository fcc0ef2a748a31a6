"""From the rows of a claim to a verdict: supported, refuted, undecided, not applicable."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from .statistics import Columns, Interval, Statistic, cluster_interval, holm

LEVEL = 0.025  # one side of a 95 % interval


@dataclass(frozen=True)
class Criterion:
    """One statistic and the two regions that decide on it.

    The outcome is *supported* when the whole 95 % interval lies inside `supported`, *refuted* when it lies wholly outside
    `tolerated` (which contains `supported`), and *undecided* otherwise. Ends may be infinite.
    """

    name: str
    label: str
    statistic: Statistic
    supported: tuple[float, float]
    tolerated: tuple[float, float]
    unit: str = ""


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
    """A claim's verdict with the evidence it rests on."""

    word: str
    outcomes: tuple[Outcome, ...]
    p_support: float
    p_refute: float
    clusters: int
    cells: int
    reason: str = ""


def word(p_support: float, p_refute: float) -> str:
    """Return supported, refuted or undecided from the two one-sided p-values at level 0.025."""
    if p_support < LEVEL:
        return "supported"
    return "refuted" if p_refute < LEVEL else "undecided"


def judge(criterion: Criterion, columns: Columns, clusters: Sequence, *, seed: int = 0) -> Outcome:
    """Return the outcome of one criterion: p(support) is the worse of its two ends, p(refute) the better, doubled."""
    interval = cluster_interval(columns, clusters, criterion.statistic, seed=seed)
    low, high = criterion.supported
    ends = [interval.p_not_above(low)] if math.isfinite(low) else []
    ends += [interval.p_not_below(high)] if math.isfinite(high) else []
    low, high = criterion.tolerated
    outside = [interval.p_not_below(low)] if math.isfinite(low) else []
    outside += [interval.p_not_above(high)] if math.isfinite(high) else []
    refute = min(1.0, len(outside) * min(outside)) if outside else 1.0
    return Outcome(criterion, interval, max(ends, default=0.0), refute)


def decide(criteria: Sequence[Criterion], rows: Sequence[Mapping], *, needed: int = 3, seed: int = 0) -> Verdict:
    """Return the verdict of a claim from its rows: supported needs every criterion, refuted any (Bonferroni over them).

    rows: records with `task`, `seed` and the columns that the criteria read; a row with `inside` false lies outside the
    linear regime and is not tested. Fewer than `needed` clusters inside give *not applicable*, with the count.
    """
    inside = [row for row in rows if row.get("inside", True)]
    clusters = [(row["task"], row["seed"]) for row in inside]
    if len(set(clusters)) < needed:
        found, total = len(set(clusters)), len({(row["task"], row["seed"]) for row in rows})
        reason = f"{found} of {total} clusters lie inside the linear regime, {needed} are needed"
        return Verdict("not applicable", (), 1.0, 1.0, found, len(inside), reason)
    names = [name for name, value in inside[0].items() if not isinstance(value, list)]
    columns = {name: np.asarray([row[name] for row in inside]) for name in names}
    outcomes = tuple(judge(c, columns, clusters, seed=seed) for c in criteria)
    p_support = max(o.p_support for o in outcomes)
    p_refute = min(1.0, len(outcomes) * min(o.p_refute for o in outcomes))
    return Verdict(word(p_support, p_refute), outcomes, p_support, p_refute, len(set(clusters)), len(inside))


def over_the_suite(verdicts: Mapping[str, Verdict]) -> dict[str, Verdict]:
    """Return the same verdicts with p-values adjusted by Holm over every claim that was tested, support and refutation apart."""
    tested = [name for name, v in verdicts.items() if v.word != "not applicable"]
    if not tested:
        return dict(verdicts)
    support = dict(zip(tested, holm([verdicts[n].p_support for n in tested]), strict=True))
    refute = dict(zip(tested, holm([verdicts[n].p_refute for n in tested]), strict=True))
    adjusted = dict(verdicts)
    for name in tested:
        s, r = float(support[name]), float(refute[name])
        adjusted[name] = replace(verdicts[name], word=word(s, r), p_support=s, p_refute=r)
    return adjusted
