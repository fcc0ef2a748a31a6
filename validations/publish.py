"""From finished cells to what the report reads: the rows of every claim, and one file of verdicts."""

import dataclasses
import math
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from theory.derivations import DERIVATIONS

from . import run as lab
from .claims import Cell, Claim
from .claims.claim import Comparison
from .engine import Job
from .results import standing, write_verdicts
from .sources import digest
from .statistics import cluster_interval
from .store import Store, content_key
from .study import Study
from .verdict import Criterion, Outcome, Verdict, decide, over_the_suite

NEEDED = 5  # clusters inside the linear regime; fewer make a claim not applicable


def _ends(region: tuple[float, float]) -> list[float | None]:
    return [float(x) if math.isfinite(x) else None for x in region]


def _criterion(outcome: Outcome) -> dict:
    c: Criterion = outcome.criterion
    return {
        "name": c.name,
        "label": c.label,
        "unit": c.unit,
        "estimate": outcome.interval.value,
        "low": outcome.interval.low,
        "high": outcome.interval.high,
        "supported": _ends(c.supported),
        "tolerated": _ends(c.tolerated),
        "outcome": outcome.word,
    }


def _compared(comparison: Comparison, rows: Sequence[Mapping]) -> dict:
    """Return a rival's or null's statistic with its cluster-bootstrap interval, or without where it cannot be computed."""
    inside = [row for row in rows if row.get("inside", True)]
    clusters = [(row["task"], row["seed"]) for row in inside]
    columns = {k: np.asarray([row[k] for row in inside]) for k in inside[0]} if inside else {}
    if len(set(clusters)) < NEEDED:
        return {"label": comparison.label, "estimate": None, "low": None, "high": None}
    found = cluster_interval(columns, clusters, comparison.statistic, replicates=1000)
    return {"label": comparison.label, "estimate": found.value, "low": found.low, "high": found.high}


def _assumptions(claim: Claim, cells: Sequence[Cell]) -> list[dict]:
    made = []
    for a in claim.assumptions if cells else ():
        passed = sum(a.passes(cell) for cell in cells)
        made.append(
            {
                "name": a.name,
                "statement": a.statement,
                "passed": int(passed),
                "total": len(cells),
                "needed": a.needed,
                "holds": bool(passed >= a.needed * len(cells)),
                "evidence": a.evidence(cells),
            }
        )
    return made


def judge(claim: Claim, cells: Sequence[Cell], rows: Sequence[Mapping]) -> Verdict:
    """Return a claim's verdict before the suite's adjustment: *not applicable* when an assumption's check fails."""
    if not cells:
        return Verdict("not applicable", (), 1.0, 1.0, 0, 0, "the study has no cell of this kind; some need two tasks or more")
    failed = [a for a in _assumptions(claim, cells) if not a["holds"]]
    if failed:
        worst = failed[0]
        share = f"{worst['passed']} of {worst['total']} cells, {worst['needed']:.0%} are needed"
        reason = f'the assumption "{worst["name"]}" holds in {share}'
        return Verdict("not applicable", (), 1.0, 1.0, 0, len(rows), reason)
    return decide(claim.criteria, rows, needed=NEEDED)


def control(claim: Claim, which: str, rows: Sequence[Mapping]) -> dict:
    """Return what a claim's known-good or known-bad control came to."""
    verdict = decide(claim.criteria, rows, needed=NEEDED)
    first = verdict.outcomes[0].interval
    return {
        "description": claim.good_is if which == "good" else claim.bad_is,
        "expected": "supported" if which == "good" else "refuted",
        "verdict": verdict.word,
        "label": verdict.outcomes[0].criterion.label,
        "estimate": first.value,
        "low": first.low,
        "high": first.high,
    }


def _claim(claim: Claim, verdict: Verdict, cells: Sequence[Cell], rows: Sequence[Mapping], controls: Mapping[str, dict]) -> dict:
    gated = [row for row in rows if "inside" in row]
    etas = [row["eta"] for row in gated]
    return {
        "id": claim.id,
        "view": claim.view,
        "title": claim.title,
        "statement": claim.statement,
        "equation": claim.equation,
        "equation_alt": claim.equation_alt,
        "derived": claim.derived,
        "sources": list(claim.sources),
        "assumptions": _assumptions(claim, cells),
        "rule": claim.rule,
        "reason": claim.reason,
        "change": claim.change,
        "statistic": _compared(claim.statistic, rows),
        "criteria": [_criterion(o) for o in verdict.outcomes],
        "rivals": [_compared(r, rows) for r in claim.rivals],
        "nulls": [_compared(n, rows) for n in claim.nulls],
        "controls": dict(controls),
        "gate": {
            "passed": sum(r["inside"] for r in gated),
            "total": len(gated),
            "median": float(np.median(etas)),
            "limit": 0.3,
        }
        if gated
        else None,
        "clusters": verdict.clusters,
        "cells": verdict.cells,
        "p_support": verdict.p_support,
        "p_refute": verdict.p_refute,
        "verdict": verdict.word,
        "why": verdict.reason,
        "figure": claim.id.replace("-", "_"),
    }


def _frozen(store: Store, found: Sequence[tuple[str, Job]]) -> dict[str, float]:
    """Return each task's held-out accuracy with the frozen head: the mean over seeds at the first delta's reference point."""
    names = [job.settings["deltas"][0][0] for kind, job in found if kind == "tuned"]
    seen: dict[str, list[float]] = {}
    for kind, job in found:
        if kind == "tuned" and job.settings["deltas"][0][0] == names[0]:
            accuracy = store.read("predicted", job.key).record["reference_accuracy"]
            seen.setdefault(pathlib.Path(job.settings["task"]).name, []).append(accuracy)
    return {task: float(np.mean(values)) for task, values in seen.items()}


def publish(study: Study, folder: pathlib.Path, found: Sequence[tuple[str, Job]], claims: Sequence[Claim]) -> dict:
    """Write rows/<claim>.json and verdicts.json for a study whose cells are complete, and return the verdicts.

    Verdicts that were made from the same cells, claims and code, and that nobody changed since, are returned as they stand.
    """
    store = Store(folder)
    about = {"study": dataclasses.asdict(study), "cells": [job.key for _, job in found], "claims": [c.id for c in claims]}
    inputs = content_key(about | {"source": digest([__name__, *(claim.module for claim in claims)])})
    if known := standing(folder, inputs):
        return known
    cells = {claim.id: lab.cells(store, found, claim) for claim in claims}
    rows = {claim.id: [row for cell in cells[claim.id] for row in claim.rows(cell)] for claim in claims}
    verdicts = over_the_suite({claim.id: judge(claim, cells[claim.id], rows[claim.id]) for claim in claims})
    tables = {(claim.id, "rows"): rows[claim.id] for claim in claims} | {
        (claim.id, part): [row for cell in cells[claim.id] for row in make(cell)]
        for claim in claims
        for part, make in claim.parts.items()
    }
    record = {
        "inputs": inputs,
        "study": lab.describe(study, folder, _frozen(store, found)),
        "claims": [
            _claim(
                claim,
                verdicts[claim.id],
                cells[claim.id],
                rows[claim.id],
                {which: control(claim, which, lab.control_rows(store, found, claim, which)) for which in ("good", "bad")},
            )
            for claim in claims
        ],
        "derivations": [derivation().to_json() for derivation in DERIVATIONS],
        "costs": lab.costs(store, found),
        "provenance": lab.provenance(),
    }
    return write_verdicts(folder, record, tables=tables, cells=[job.key for _, job in found])
