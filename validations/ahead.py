"""What a study will take, before it runs: its cells, their cost, and what can be decided."""

import heapq
import itertools
import pathlib
import statistics
from collections.abc import Mapping, Sequence

from tuning.preparation import backbone_of

from .claims import EXPERIMENTS, Claim
from .engine import Job
from .plan import PLANTS, undecidable
from .store import Store, unsealed
from .study import Study

SECONDS = 2.0  # CPU seconds of a cell per unit of its kind's weight on nano; within a factor of 3 for most kinds
CORES = (2, 64, 1000)  # for which a whole study is forecast
# Seconds before a core's first cell: CPU seconds of the quick study on two processes, tasks made before, medians of three runs. A
# driver takes 5.0 (4.9 to 5.3) until it hands cells out, and each process 4.0 (3.8 to 4.1) from there until its first cell, for
# Python, torch, transformers and the claims.
START = 9.0
OVERHEAD = 0.01  # seconds that an engine adds to a cell, as tests/two_nodes.py measures it
NANO = 4 * 128**2  # its blocks times its width squared, which a cell's cost grows with


def ahead(
    study: Study, claims: Sequence[Claim], found: Sequence[tuple[str, Job]], folder: pathlib.Path, *, processes: int
) -> dict:
    """Return the cells by kind with their forecast cost, how many tasks and seeds there are, and what each claim can come to.

    A kind's cost is the median of finished cells of that kind on this backbone under the results' parent folder, and a guess
    from its weight and the backbone's size where there are none. Cells that are measured already cost nothing. Where cells of
    every kind are measured, the whole study from its first cell on is forecast for `CORES`.
    """
    store, known, frozen = Store(folder), _known(folder.parent), backbone_of(study.backbone, dtype=study.dtype)
    larger, rows, left = max(1.0, frozen.blocks * frozen.width**2 / NANO), [], 0.0
    for kind in dict.fromkeys(kind for kind, _ in found):
        jobs = [job for of, job in found if of == kind]
        missing = [job for job in jobs if not store.has("cells", job.key)]
        measured = [seconds for place in {_place(job.settings) for job in jobs} for seconds in known.get(place, ())]
        guess = SECONDS * statistics.mean(job.weight for job in jobs) * (1.0 if kind == PLANTS else larger)
        each = statistics.median(measured) if measured else guess
        rows.append(
            {
                "kind": kind,
                "label": "known-good and known-bad plants" if kind == PLANTS else EXPERIMENTS[kind].label,
                "cells": len(jobs),
                "to_run": len(missing),
                "cpu_seconds_each": each,
                "known_from": f"{len(measured)} cells" if measured else "a guess",
            }
        )
        left += each * len(missing)
    lost = undecidable(study, claims)
    whole = _as_measured([job for _, job in found], known)
    return {
        "study": study.name,
        "backbone": study.backbone,
        "tasks": len(study.every_task),
        "deltas": list(study.deltas),
        "seeds": len(study.every_seed),
        "examples": study.sizes.train,
        "cells": rows,
        "cpu_seconds": left,
        "seconds": left / processes,
        "processes": processes,
        "whole_seconds_by_cores": {str(cores): makespan(whole, cores) for cores in CORES} if whole else None,
        "claims": {claim.id: lost.get(claim.id, "can be decided") for claim in claims},
    }


def makespan(seconds: Sequence[float], cores: int, *, start: float = START, overhead: float = OVERHEAD) -> float:
    """Return the seconds until the last of some cells ends, where the core that is free first takes the next one.

    In descending order of seconds that is at most 4/3 - 1/(3 cores) of the best schedule (Graham 1969, Theorem 2). start: what
    each core takes before its first cell; overhead: what an engine adds to each. Cells wait for nothing but a core.
    """
    if cores < 1:
        raise ValueError(f"expected at least one core, got {cores}")
    free = [start] * min(cores, len(seconds))
    for spent in seconds:
        heapq.heapreplace(free, free[0] + spent + overhead)
    return max(free, default=0.0)


def _as_measured(jobs: Sequence[Job], known: Mapping[tuple, Sequence[float]]) -> list[float]:
    """Return the seconds of cells in the engine's order, each as a measured one of its place in turn; none where one has none."""
    turns = {place: itertools.cycle(seconds) for place, seconds in known.items()}
    places = [_place(job.settings) for job in sorted(jobs, key=lambda job: -job.weight)]
    return [next(turns[place]) for place in places] if turns.keys() >= set(places) else []


def _known(folder: pathlib.Path) -> dict[tuple, list[float]]:
    """Return the CPU seconds of every finished cell of the studies in a folder, by its place."""
    found: dict[tuple, list[float]] = {}
    for path in sorted(folder.glob("*/provenance/*.json")):
        try:
            spent = unsealed(path, "provenance", path.stem)["record"]["cpu_seconds"]
            settings = unsealed(path.parents[1] / "cells" / path.name, "cells", path.stem)["settings"]
        except (ValueError, KeyError):
            continue  # a cell that is damaged or from an older version tells nothing
        found.setdefault(_place(settings), []).append(spent)
    return found


def _place(settings: Mapping) -> tuple:
    """Return what cells must share to cost alike: the kind, the backbone, and of plants the claims too."""
    return settings["kind"], settings.get("backbone"), *settings.get("claims", ())
