"""Running a study's cells: each predicts and writes that down, then trains and measures."""

import dataclasses
import functools
import pathlib
import secrets
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from . import plan, results
from .claims import EXPERIMENTS, Cell, Claim, named
from .claims.shared.among import among
from .claims.shared.setting import Setting
from .describe import provenance
from .engine import Done, Engine, Job, run
from .parcels import Parcels, packed, unpacked
from .sources import digest
from .store import Record, Store, keep, sweep, write_atomic, writing
from .study import Study

ROOM = 1 << 16  # bytes that the disk must have for a study to begin: a cell's, about


def setting(settings: Mapping[str, Any], cache: str, task: str | None = None, device: str = "cpu") -> Setting:
    """Return the experiment's inputs from a cell's settings, on its own task or on another one: data, frozen head, deltas."""
    torch.set_num_threads(1)
    experiment = EXPERIMENTS[settings["kind"]]
    if experiment.make:
        return experiment.make(settings["task"], settings["seed"])
    made = plan.prepared(settings, cache, task, device)
    _as_planned(settings, task, made.backbone.fingerprint, made.task.digest)
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


def _as_planned(settings: Mapping[str, Any], task: str | None, backbone: str, data: str) -> None:
    """Raise ValueError when backbone or texts are not those from which the cell's key was made."""
    planned = settings["digest"] if task is None else settings["other_digests"][settings["others"].index(task)]
    for what, name, now, then in (
        ("the backbone", settings["backbone_name"], backbone, settings["backbone"]),
        ("the task", task or settings["task"], data, planned),
    ):
        if now != then:
            raise ValueError(f"{what} {name} is not what it was when this study began (another one of its name?): run it again")


def execute(job: Job, *, folder: str, cache: str, device: str, here: Mapping[str, Any] | None = None) -> Done:
    """Run one cell: predict and write that down, then train and measure; return the seconds it took.

    here: the settings that say where data and backbone are, as this machine has them. A cell that another driver on this store
    has measured meanwhile is left as it stands. Raises ValueError where code, backbone
    or texts are not those from which the cell's key was made.
    """
    store, wall, cpu = Store(pathlib.Path(folder)), time.perf_counter(), time.process_time()
    if store.has("cells", job.key) and store.has("provenance", job.key):
        return Done(0.0)
    modules = plan.modules(job.settings)
    if job.settings["source"] != digest(modules):
        raise ValueError(
            f"the code of {modules[0]} is not what it was when this study began: run it again, with one code everywhere"
        )
    if job.settings["kind"] == plan.PLANTS:
        store.write("cells", job.key, job.settings, _plants(job.settings))
    else:
        experiment, given = EXPERIMENTS[job.settings["kind"]], setting(job.settings | (here or {}), cache, device=device)
        if not store.has("predicted", job.key):
            store.write("predicted", job.key, job.settings, experiment.predict(given))
        store.write("cells", job.key, job.settings, experiment.measure(given, store.read("predicted", job.key)))
    seconds = time.perf_counter() - wall
    record = {"cpu_seconds": time.process_time() - cpu, "wall_seconds": seconds, "device": device, **provenance()}
    store.write("provenance", job.key, {}, Record(record, {}))
    return Done(seconds)


def elsewhere(job: Job, *, folder: str, cache: str, device: str, mark: str, begun: Mapping[str, bytes], parcels: Parcels) -> Done:
    """Run one cell on any machine: into the store where the machine sees it by its `mark`, else return the cell's files.

    begun: files of predictions that stand in the store. parcels: data and backbones, for a machine that lacks them.
    """
    here = unpacked(parcels, job.settings)
    if (pathlib.Path(folder) / mark).is_file():
        return execute(job, folder=folder, cache=cache, device=device, here=here)
    with tempfile.TemporaryDirectory(prefix="costate-") as own:
        keep(pathlib.Path(own), {path: data for path, data in begun.items() if job.key in path})
        done = execute(job, folder=own, cache=str(pathlib.Path(own) / "tasks"), device=device, here=here)
        return dataclasses.replace(done, files=Store(pathlib.Path(own)).files(job.key))


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
    """Return a claim's finished cells, each among those of its task and seed, whatever their deltas, and of other tasks."""
    made = []
    for kind, job in found:
        if kind != claim.experiment.name:
            continue
        own = job.settings["deltas"][0][0] if claim.experiment.per_delta else kind
        predicted, measured = store.read("predicted", job.key), store.read("cells", job.key)
        made.append(Cell(job.settings["name"], own, job.settings["seed"], predicted, measured))
    return [cell for cell in among(made) if not claim.deltas or cell.delta in claim.deltas]


def measure(
    study: Study,
    folder: pathlib.Path,
    *,
    claims: Sequence[Claim],
    engine: Engine,
    report: Callable[[str], None],
    device: str = "cpu",
) -> list[tuple[str, Job]]:
    """Run every missing cell that the claims need and return the whole list; what a killed run left half-written goes first."""
    sweep(folder)
    cache = folder.parent / "tasks"
    plan.check(study, cache)
    found = plan.jobs(study, claims, cache)
    if device != "cpu":
        found = [(kind, dataclasses.replace(job, gpus=1.0) if kind != plan.PLANTS else job) for kind, job in found]
    found = [(kind, dataclasses.replace(job, **study.parts[kind].needs) if kind in study.parts else job) for kind, job in found]
    store = Store(folder)
    store.mend([job for _, job in found], report)
    results.mend(folder, report)
    missing = [job for _, job in found if not store.has("cells", job.key)]
    report(f"{study.name}: {len(found)} cells, {len(found) - len(missing)} already measured")
    if not missing:
        return found
    write_atomic(mark := folder / writing(secrets.token_hex(8)), bytes(ROOM))  # a full disk is seen before the first cell
    place = {"folder": str(folder.absolute()), "cache": str(cache.absolute()), "device": device}
    try:
        if engine.name == "ray":
            begun = {path: data for job in missing for path, data in store.files(job.key).items()}
            parcels = packed([job.settings for job in missing])
            cell = functools.partial(elsewhere, **place, mark=mark.name, begun=begun, parcels=parcels)
        else:
            cell = functools.partial(execute, **place)
        run(missing, cell, engine, report=report, keep=functools.partial(keep, folder))
    finally:
        mark.unlink(missing_ok=True)
    store.await_all([job.key for job in missing])
    return found
