"""Running a study's cells: each predicts and writes that down, then trains and measures."""

import functools
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from . import plan, results
from .claims import EXPERIMENTS, Cell, Claim, named
from .claims.shared.claim import side_by_side
from .claims.shared.setting import Setting
from .describe import provenance
from .engine import Job, run
from .store import Record, Store
from .study import Study


def setting(settings: Mapping[str, Any], cache: str, task: str | None = None, device: str = "cpu") -> Setting:
    """Return the experiment's inputs from a cell's settings, on its own task or on another one: data, frozen head, deltas."""
    torch.set_num_threads(1)
    experiment = EXPERIMENTS[settings["kind"]]
    if experiment.make:
        return experiment.make(settings["task"], settings["seed"])
    made = plan.prepared(settings, cache, task, device)
    solver = {name: settings["options"].get(name, value) for name, value in settings["solver"].items()}
    roles = experiment.named([name for name, _ in settings["deltas"]])
    return Setting(
        subjects={
            role: made.subject(plan.delta(spec), settings["seed"])
            for role, (_, spec) in zip(roles, settings["deltas"], strict=True)
        },
        train=made.train,
        test=made.test,
        dev=made.dev,
        perturbed=made.perturbed,
        other_tasks=() if task else tuple(setting(settings, cache, other, device) for other in settings.get("others", [])),
        seed=settings["seed"],
        options=settings["options"],
        **solver,
    )


def execute(job: Job, *, folder: str, cache: str, device: str) -> float:
    """Run one cell: predict and write that down, then train and measure; return the seconds it took."""
    store, wall, cpu = Store(pathlib.Path(folder)), time.perf_counter(), time.process_time()
    if job.settings["kind"] == plan.PLANTS:
        store.write("cells", job.key, job.settings, _plants(job.settings))
    else:
        experiment, given = EXPERIMENTS[job.settings["kind"]], setting(job.settings, cache, device=device)
        if not store.has("predicted", job.key):
            store.write("predicted", job.key, job.settings, experiment.predict(given))
        store.write("cells", job.key, job.settings, experiment.measure(given, store.read("predicted", job.key)))
    seconds = time.perf_counter() - wall
    record = {"cpu_seconds": time.process_time() - cpu, "wall_seconds": seconds, "device": device, **provenance()}
    store.write("provenance", job.key, {}, Record(record, {}))
    return seconds


def _plants(settings: Mapping[str, Any]) -> Record:
    """Run one experiment on plants and return every claim's rows on it."""
    claims = [named(c) for c in settings["claims"]]
    made = getattr(claims[0], settings["which"])()
    return Record({claim.id: [row for cell in made for row in claim.rows(cell)] for claim in claims}, {})


def plant_rows(store: Store, found: Sequence[tuple[str, Job]], claim: Claim, which: str) -> list[dict]:
    """Return a claim's rows on its known-good or known-bad plants."""
    for kind, job in found:
        if kind == plan.PLANTS and job.settings["which"] == which and claim.id in job.settings["claims"]:
            return store.read("cells", job.key).values[claim.id]
    raise ValueError(f"expected the known-{which} plants of {claim.id} among the finished cells, got none: run the study again")


def cells(store: Store, found: Sequence[tuple[str, Job]], claim: Claim) -> list[Cell]:
    """Return a claim's finished cells, each beside those of its task and seed whatever their deltas."""
    made = []
    for kind, job in found:
        if kind != claim.experiment.name:
            continue
        own = job.settings["deltas"][0][0] if claim.experiment.per_delta else kind
        predicted, measured = store.read("predicted", job.key), store.read("cells", job.key)
        made.append(Cell(job.settings["name"], own, job.settings["seed"], predicted, measured))
    return [cell for cell in side_by_side(made) if not claim.deltas or cell.delta in claim.deltas]


def measure(
    study: Study,
    folder: pathlib.Path,
    *,
    claims: Sequence[Claim],
    processes: int,
    report: Callable[[str], None],
    device: str = "cpu",
) -> list[tuple[str, Job]]:
    """Run every missing cell that the claims need and return the whole list; what a killed run left half-written goes first."""
    for stale in folder.rglob(".writing-*"):
        stale.unlink(missing_ok=True)
    cache = folder.parent / "tasks"
    plan.check(study, cache)
    found = plan.jobs(study, claims, cache)
    store = Store(folder)
    store.mend([job for _, job in found], report)
    results.mend(folder, report)
    missing = [job for _, job in found if not store.has("cells", job.key)]
    report(f"{study.name}: {len(found)} cells, {len(found) - len(missing)} already measured")
    cell = functools.partial(execute, folder=str(folder), cache=str(cache), device=device)
    run(missing, cell, processes=processes, report=report)
    return found
