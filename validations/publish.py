"""From finished cells to what the report reads: the rows of every claim, and one file of verdicts."""

import dataclasses
import math
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from theory.derivations import DERIVATIONS
from tuning.tasks import distinct_names

from . import calibrate
from .claims import Claim
from .claims.shared.claim import Comparison
from .claims.shared.regime import ETA_LIMIT
from .describe import costs, describe, measured_on, provenance
from .engine import Job
from .judge import Evidence, checked, verdicts_of
from .results import standing, write_verdicts
from .run import cells, plant_rows
from .sources import digest
from .statistics import interval
from .store import Store, content_key
from .study import Study
from .verdict import NEEDED, Criterion, Outcome, Verdict, columned, decide, tested


def _ends(region: tuple[float, float]) -> list[float | None]:
    return [_finite(x) for x in region]


def _finite(x: float) -> float | None:
    return float(x) if math.isfinite(x) else None


def _criterion(outcome: Outcome) -> dict:
    c: Criterion = outcome.criterion
    return {
        "name": c.name,
        "label": c.label,
        "unit": c.unit,
        "estimate": _finite(outcome.interval.value),
        "low": _finite(outcome.interval.low),
        "high": _finite(outcome.interval.high),
        "supported": _ends(c.supported),
        "tolerated": _ends(c.tolerated),
        "outcome": outcome.word,
    }


def _compared(comparison: Comparison, rows: Sequence[Mapping], unit: str) -> dict:
    """Return a rival's or null's statistic with its interval over tasks, or without where it cannot be computed."""
    inside = tested(rows)
    units = [row[unit] for row in inside]
    made = {"label": comparison.label, "estimate": None, "low": None, "high": None}
    if len(set(units)) < NEEDED:
        return made
    found = interval(columned(inside), units, comparison.statistic)
    return made | {"estimate": _finite(found.value), "low": _finite(found.low), "high": _finite(found.high)}


def on_plants(claim: Claim, which: str, rows: Sequence[Mapping]) -> dict:
    """Return what a claim's known-good or known-bad plants came to."""
    verdict = decide(claim.criteria, rows)
    first = _criterion(verdict.outcomes[0]) if verdict.outcomes else dict.fromkeys(("label", "estimate", "low", "high"))
    return {
        "description": claim.good_is if which == "good" else claim.bad_is,
        "expected": "supported" if which == "good" else "refuted",
        "verdict": verdict.word,
        **{name: first[name] for name in ("label", "estimate", "low", "high")},
    }


def _verdict(delta: str, verdict: Verdict, part: Evidence, study: Study) -> dict:
    return {
        "delta": delta,
        "label": study.deltas[delta].get("label", delta) if delta in study.deltas else "",
        "verdict": verdict.word,
        "why": verdict.reason,
        "tasks": verdict.tasks,
        "cells": verdict.cells,
        "p_support": verdict.p_support,
        "p_refute": verdict.p_refute,
        "statistic": _compared(part.claim.statistic, part.rows, study.unit),
        "headline": [_compared(n, part.rows, study.unit) for n in (part.claim.headline.numbers if part.claim.headline else ())],
        "criteria": [_criterion(o) for o in verdict.outcomes],
    }


def claim_record(whole: Evidence, verdicts: Mapping[tuple[str, str], Verdict], study: Study, plants: Mapping[str, dict]) -> dict:
    """Return a claim as verdicts.json holds it: its words and bars, its verdict on every delta, its plants."""
    claim, rows, unit = whole.claim, whole.rows, study.unit
    gated = [row for row in rows if "inside" in row]
    etas = [row["eta"] for row in gated]
    by_delta = [_verdict(delta, verdicts[claim.id, delta], part, study) for delta, part in whole.by_delta().items()]
    words = {v["verdict"] for v in by_delta}
    return {
        "id": claim.id,
        "view": claim.view,
        "nature": claim.nature,
        "title": claim.title,
        "statement": claim.statement,
        "equation": claim.equation,
        "equation_alt": claim.equation_alt,
        "derived": claim.derived,
        "sources": list(claim.sources),
        "assumptions": checked(claim, whole.cells),
        "rule": claim.rule,
        "reason": claim.reason,
        "change": claim.change,
        "statistic": _compared(claim.statistic, rows, unit),
        "verdicts": by_delta,
        "rivals": [_compared(r, rows, unit) for r in claim.rivals],
        "nulls": [_compared(n, rows, unit) for n in claim.nulls],
        "also": [_compared(a, rows, unit) for a in claim.also],
        "headline": {name: getattr(claim.headline, name) for name in ("title", "measured", "foretold")}
        if claim.headline
        else None,
        "plants": dict(plants),
        "gate": {
            "passed": sum(r["inside"] for r in gated),
            "total": len(gated),
            "median": float(np.median(etas)),
            "limit": ETA_LIMIT,
        }
        if gated
        else None,
        "verdict": words.pop() if len(words) == 1 else "by delta",
        "bars": {c.name: _ends(c.supported) for c in claim.criteria},
    }


def _frozen(store: Store, found: Sequence[tuple[str, Job]]) -> dict[str, float]:
    """Return each task's held-out accuracy with the frozen head: the mean over seeds at the first delta's reference point."""
    read = {"practice": lambda values: values["start"]["accuracy"], "tuned": lambda values: values["reference_accuracy"]}
    seen: dict[str, float] = {}
    for kind, accuracy in read.items():
        cells = [job for of, job in found if of == kind]
        own: dict[str, list[float]] = {}
        for job in cells:
            if job.settings["deltas"][0][0] == cells[0].settings["deltas"][0][0]:
                own.setdefault(job.settings["name"], []).append(accuracy(store.read("predicted", job.key).values))
        seen |= {task: float(np.mean(values)) for task, values in own.items()}
    return seen


def judged_by(claims: Sequence[Claim]) -> str:
    """Return the digest of the code that decides on some claims: this module's, and each claim's own file."""
    return digest([__name__, *(claim.module for claim in claims)])


def decided(
    study: Study, store: Store, found: Sequence[tuple[str, Job]], claims: Sequence[Claim]
) -> tuple[dict[tuple[str, str], list[dict]], list[dict]]:
    """Return what finished cells come to: the tables, (claim, part) -> rows, and the claims' records with their verdicts.

    Of the study it asks the unit, the looks, the deltas' labels, and the tasks of development, which decide nothing.
    """
    aside = [name for task, name in distinct_names(study.every_task).items() if task in study.development]
    evidence = [Evidence.of(claim, [one for one in cells(store, found, claim) if one.task not in aside]) for claim in claims]
    verdicts = verdicts_of(evidence, study.unit, study.looks)
    tables = {(whole.claim.id, "rows"): list(whole.rows) for whole in evidence} | {
        (whole.claim.id, part): [row for cell in whole.cells for row in make(cell)]
        for whole in evidence
        for part, make in whole.claim.parts.items()
    }
    judged = [
        claim_record(
            whole,
            verdicts,
            study,
            {w: on_plants(whole.claim, w, plant_rows(store, found, whole.claim, w)) for w in ("good", "bad")},
        )
        for whole in evidence
    ]
    return tables, judged


def publish(study: Study, folder: pathlib.Path, found: Sequence[tuple[str, Job]], claims: Sequence[Claim]) -> dict:
    """Write rows/<claim>.json and verdicts.json for a study whose cells are complete, and return the verdicts.

    Verdicts that were made from the same cells, claims and code, and that nobody changed since, are returned as they stand.
    """
    store = Store(folder)
    about = {"study": dataclasses.asdict(study), "cells": [job.key for _, job in found], "claims": [c.id for c in claims]}
    inputs = content_key(about | {"source": judged_by(claims)})
    if known := standing(folder, inputs):
        return known
    tables, judged = decided(study, store, found, claims)
    record = {
        "inputs": inputs,
        "judged_by": judged_by(claims),
        "study": describe(study, folder, _frozen(store, found))
        | {"unit": study.unit, "looks": study.looks, "development": list(study.development)},
        "claims": judged,
        "derivations": [derivation().to_json() for derivation in DERIVATIONS],
        "calibration": calibrate.shipped(),
        "costs": costs(store, found),
        "provenance": provenance() | {"cells": measured_on(store, found)},
    }
    return write_verdicts(folder, record, tables=tables, cells=[job.key for _, job in found])
