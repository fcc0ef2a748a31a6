"""From a study to its results: the list of cells, the cells that are missing, the rows, the verdicts."""

import dataclasses
import functools
import json
import os
import pathlib
import platform
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import metadata
from typing import Any

import torch

from tuning import tasks
from tuning.backbones import Backbone, encode, load
from tuning.deltas import Delta, build
from tuning.subjects import Readout, Subject, fit_head, subject
from tuning.tasks import warn

from . import results
from .advice import PALETTE
from .claims import CLAIMS, Cell, Claim, named
from .engine import Job, run
from .experiments import KINDS, Setting
from .sources import digest
from .store import Measured, Store, canonical, content_key
from .study import Part, Study


@functools.lru_cache(maxsize=4)
def backbone(name: str) -> Backbone:
    """Return the frozen backbone, loaded once per process."""
    return load(name)


@functools.lru_cache(maxsize=32)
def task(name: str, cache: str, columns: tuple[tuple[str, str], ...] = ()) -> tasks.Task:
    """Return a task, built once and kept under `cache`; `columns` are those of tasks that are not embedded."""
    named = dict(columns) if columns and name not in tasks.names() else None
    return tasks.load(name, cache=pathlib.Path(cache), columns=named)


@functools.lru_cache(maxsize=32)
def parts(of: tuple, train: int, readout: int, test: int, seed: int, seeds: tuple[int, ...]) -> tasks.Parts:
    """Return a cell's examples, `of` the arguments of `task`: a head fitted on the text that it is tuned on leaves no loss."""
    return tasks.disjoint(task(*of), {"train": train, "readout": readout, "test": test}, seed, seeds=seeds)


def _drawn(settings: Mapping[str, Any], cache: str) -> tuple:
    """Return the arguments of `parts` for a cell."""
    sizes = [settings["options"].get(part, settings["sizes"][part]) for part in ("train", "readout", "test")]
    of = settings["task"], cache, tuple(map(tuple, settings["columns"]))
    return of, *sizes, settings["seed"], tuple(settings["seeds"])


@functools.lru_cache(maxsize=32)
def _readout(name: str, length: int, *drawn: Any) -> Readout:
    return fit_head(backbone(name), parts(*drawn).readout, len(task(*drawn[0]).classes), length=length)


def delta(spec: Mapping[str, Any]) -> Delta:
    """Return the delta of a study's table (`tuning.deltas.build`); the kind "Palette" is all of `advice.PALETTE`."""
    return PALETTE if spec.get("kind") == "Palette" else build({k: v for k, v in spec.items() if k != "label"})


def jobs(study: Study, claims: Sequence[Claim], cache: pathlib.Path) -> list[tuple[str, Job]]:
    """Return every cell that the claims need as (kind, job); a job's settings are all that the cell depends on."""
    found = []
    for kind in dict.fromkeys(c.kind for c in claims):
        made = _protocol_cells(study, kind) if KINDS[kind].make else _task_cells(study, kind, cache)
        for settings, name, deltas in made:
            settings = json.loads(canonical(settings))
            keyed = {k: v for k, v in settings.items() if k not in ("backbone_name", "task", "name", "columns", "others")}
            label = f"{kind:<9} {name:<18} {deltas:<22} seed {settings['seed']}"
            found.append((kind, Job(content_key(keyed), label, KINDS[kind].weight, settings)))
    return found + _control_jobs(claims)


def _protocol_cells(study: Study, kind: str) -> Iterator[tuple[dict, str, str]]:
    """Yield (settings, name, deltas in words) of the cells of an experiment with models and data of its own."""
    experiment, source = KINDS[kind], digest([KINDS[kind].module])
    for name in experiment.protocols:
        for seed in study.parts.get(kind, Part()).seeds or study.seeds:
            settings = {"kind": kind, "task": name, "name": name, "protocol": name, "seed": seed, "source": source}
            yield settings, name, "+".join(experiment.roles)


def _task_cells(study: Study, kind: str, cache: pathlib.Path) -> Iterator[tuple[dict, str, str]]:
    """Yield (settings, name, deltas in words) of the cells of an experiment on the study's backbone and tasks."""
    frozen, experiment, part = backbone(study.backbone), KINDS[kind], study.parts.get(kind, Part())
    names, chosen = part.deltas or tuple(study.deltas), part.tasks or study.tasks
    if experiment.others and len(chosen) < 2:
        return  # no other task to learn from: the claim is then not applicable
    columns, labels = tuple(study.columns.items()), tasks.distinct_names(study.tasks)
    for task_name in chosen:
        data = task(task_name, str(cache), columns)
        encode(frozen, data.splits["test"].rows([0]), length=study.sizes.length)  # refused before the first cell
        seeds = part.seeds or study.seeds
        for seed in seeds:
            for group in [(name,) for name in names] if experiment.each else [names]:
                experiment.named(group)  # a wrong number of deltas is refused before the first cell
                settings = {
                    "kind": kind,
                    "backbone": frozen.fingerprint,
                    "backbone_name": study.backbone,
                    "task": task_name,
                    "name": labels[task_name],
                    "columns": list(columns),
                    "digest": data.digest,
                    "deltas": [[name, {k: v for k, v in study.deltas[name].items() if k != "label"}] for name in group],
                    "seed": seed,
                    "seeds": list(seeds),
                    "sizes": dataclasses.asdict(study.sizes),
                    "solver": dataclasses.asdict(study.solver),
                    "options": _options(study, part, group[0] if experiment.each else ""),
                    "source": digest([experiment.module]),
                }
                if experiment.others:
                    rest = [name for name in chosen if name != task_name]
                    settings |= {"others": rest, "other_digests": [task(name, str(cache), columns).digest for name in rest]}
                parts(*_drawn(settings, str(cache)))  # refused before the first cell
                yield settings, labels[task_name], "+".join(group)


def _options(study: Study, part: Part, delta: str) -> dict:
    """Return the options of a cell: the part's, and over them those of a table that is named after its delta."""
    own = {k: v for k, v in part.options.items() if k not in study.deltas} | dict(part.options.get(delta, {}))
    return {k: list(v) if isinstance(v, tuple) else v for k, v in own.items()}


def control_experiments() -> list[tuple[str, str, tuple[str, ...]]]:
    """Return each distinct control experiment as (kind, good or bad, claims); claims on the same plants share one."""
    shared: dict[tuple, list[Claim]] = {}
    for claim in CLAIMS:
        for which in ("good", "bad"):
            shared.setdefault((claim.kind, which, str(getattr(claim, which))), []).append(claim)
    return [(kind, which, tuple(c.id for c in found)) for (kind, which, _), found in shared.items()]


def _control_jobs(claims: Sequence[Claim]) -> list[tuple[str, Job]]:
    """Return the control experiments of the claims as jobs."""
    made = []
    for kind, which, ids in control_experiments():
        if any(claim.id in ids for claim in claims):
            source = digest([KINDS[kind].module, *(named(claim).module for claim in ids)])
            settings = {"kind": "control", "which": which, "claims": list(ids), "source": source}
            label = f"control   known {which} plants for {kind}"
            made.append(("control", Job(content_key(settings), label, KINDS[kind].weight, settings)))
    return made


def setting(settings: Mapping[str, Any], cache: str) -> Setting:
    """Return the experiment's inputs from a cell's settings: data drawn by the seed, frozen readout, deltas at their start."""
    torch.set_num_threads(1)
    if make := KINDS[settings["kind"]].make:
        return make(settings["task"], settings["seed"])
    name, seed = settings["backbone_name"], settings["seed"]
    sizes, solver = ({k: settings["options"].get(k, v) for k, v in settings[t].items()} for t in ("sizes", "solver"))
    frozen, drawn = backbone(name), _drawn(settings, cache)
    readout, made_of = _readout(name, sizes["length"], *drawn), parts(*drawn)

    def made(spec: Mapping[str, Any]) -> Subject:
        return subject(frozen, delta(spec), readout, seed)

    roles = KINDS[settings["kind"]].named([name for name, _ in settings["deltas"]])
    subjects = {role: made(spec) for role, (_, spec) in zip(roles, settings["deltas"], strict=True)}
    return Setting(
        subjects=subjects,
        train=encode(frozen, made_of.train, length=sizes["length"]),
        test=encode(frozen, made_of.test, length=sizes["length"]),
        perturbed={
            name.removeprefix("test_"): encode(frozen, split, length=sizes["length"]) for name, split in made_of.perturbed.items()
        },
        others=tuple(setting({**settings, "task": name, "others": []}, cache) for name in settings.get("others", [])),
        seed=seed,
        penalty=solver["penalty"],
        tolerance=solver["tolerance"],
        evaluations=solver["evaluations"],
        regime=solver["regime"],
        options=settings["options"],
    )


def execute(job: Job, *, folder: str, cache: str) -> float:
    """Run one cell: predict and write that down, then train and measure; return the seconds it took."""
    store, wall, cpu = Store(pathlib.Path(folder)), time.perf_counter(), time.process_time()
    if job.settings["kind"] == "control":
        store.write("cells", job.key, job.settings, _controls(job.settings))
    else:
        kind, given = KINDS[job.settings["kind"]], setting(job.settings, cache)
        if not store.has("predicted", job.key):
            store.write("predicted", job.key, job.settings, kind.predict(given))
        store.write("cells", job.key, job.settings, kind.measure(given, store.read("predicted", job.key)))
    seconds = time.perf_counter() - wall
    record = {"cpu_seconds": time.process_time() - cpu, "wall_seconds": seconds, **provenance()}
    store.write("provenance", job.key, {}, Measured(record, {}))
    return seconds


def _controls(settings: Mapping[str, Any]) -> Measured:
    """Run one control experiment and return every claim's rows on it."""
    claims = [named(c) for c in settings["claims"]]
    made = getattr(claims[0], settings["which"])()
    return Measured({claim.id: [row for cell in made for row in claim.rows(cell)] for claim in claims}, {})


def control_rows(store: Store, found: Sequence[tuple[str, Job]], claim: Claim, which: str) -> list[dict]:
    """Return a claim's rows on its known-good or known-bad plants."""
    for kind, job in found:
        if kind == "control" and job.settings["which"] == which and claim.id in job.settings["claims"]:
            return store.read("cells", job.key).record[claim.id]
    raise ValueError(f"expected the {which} control of {claim.id} among the finished cells, got none: run the study again")


@functools.lru_cache(maxsize=1)
def provenance() -> dict:
    """Return where a measurement was made: commit, versions, processor."""
    root = pathlib.Path(__file__).resolve().parents[1]

    def git(*words: str) -> str:
        done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, check=False, encoding="utf-8")
        return done.stdout.strip() if done.returncode == 0 else ""

    names = ("torch", "transformers", "numpy", "scipy", "scikit-learn", "cvxpy", "sympy", "pandas")
    cpu = pathlib.Path("/proc/cpuinfo")
    models = (
        [line.split(":")[1].strip() for line in cpu.read_text(encoding="utf-8").splitlines() if line.startswith("model name")]
        if cpu.is_file()
        else []
    )
    return {
        "commit": git("rev-parse", "--short=12", "HEAD") or "not a checkout",
        "dirty": bool(git("status", "--porcelain", "--untracked-files=no")),
        "timestamp": int(git("log", "-1", "--format=%ct") or 0),
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in names},
        "processor": models[0] if models else platform.machine(),
        "cores": os.cpu_count(),
        "threads": 1,
    }


def cells(store: Store, found: Sequence[tuple[str, Job]], claim: Claim) -> list[Cell]:
    """Return a claim's finished cells."""
    made = []
    for kind, job in found:
        if kind != claim.kind:
            continue
        own = job.settings["deltas"][0][0] if KINDS[kind].each else kind
        if not claim.deltas or own in claim.deltas:
            made.append(
                Cell(
                    job.settings["name"],
                    own,
                    job.settings["seed"],
                    store.read("predicted", job.key),
                    store.read("cells", job.key),
                )
            )
    return made


def describe(study: Study, folder: pathlib.Path, frozen_accuracy: Mapping[str, float]) -> dict:
    """Return what a reader must know of a study: backbone, tasks with their frozen head's accuracy, deltas, seeds, settings."""
    frozen = backbone(study.backbone)
    weights = sum(p.numel() for p in frozen.model.parameters())
    shown, columns, labels = [], tuple(study.columns.items()), tasks.distinct_names(study.tasks)
    for spec, name in labels.items():
        data = task(spec, str(folder.parent / "tasks"), columns)
        about = tasks.describe(data)
        shown.append(
            {
                "name": name,
                "label": name.replace("-", " ").replace("_", " "),
                "family": data.family,
                "classes": len(data.classes),
                "train": study.sizes.train,
                "test": study.sizes.test,
                "majority": about["majority"]["test"],
                "frozen": frozen_accuracy.get(name),
                "overlap": about["leaks"],
                "shared": tasks.overlaps(data, dataclasses.asdict(study.sizes), study.seeds),
                "digest": data.digest,
                "source": data.source,
            }
        )
    made = {name: delta(spec) for name, spec in study.deltas.items()}
    return {
        "name": study.name,
        "title": study.title,
        "question": study.question,
        "backbone": {
            "name": study.backbone if not pathlib.Path(study.backbone).exists() else pathlib.Path(study.backbone).name,
            "architecture": frozen.layout.title,
            "blocks": frozen.blocks,
            "width": frozen.width,
            "parameters": weights,
            "fingerprint": frozen.fingerprint[:16],
        },
        "tasks": shown,
        "deltas": [
            {
                "name": name,
                "label": spec.get("label", name),
                "kind": spec["kind"],
                "size": made[name].size(frozen),
                "reference": "seeded words" if spec["kind"] in ("Prefix", "Prompt") else "the frozen model",
            }
            for name, spec in study.deltas.items()
        ],
        "seeds": list(study.seeds),
        "settings": {**dataclasses.asdict(study.sizes), **dataclasses.asdict(study.solver)}
        | {
            f"{kind}: {k}": v
            for kind, part in study.parts.items()
            for k, v in part.options.items()
            if not isinstance(v, tuple | list)
        },
    }


def costs(store: Store, found: Sequence[tuple[str, Job]]) -> list[dict]:
    """Return the CPU seconds spent on each kind of cell."""
    made = []
    for kind in dict.fromkeys(k for k, _ in found):
        keys = [job.key for k, job in found if k == kind]
        seconds = [store.read("provenance", key).record["cpu_seconds"] for key in keys if store.has("provenance", key)]
        label = KINDS[kind].label if kind in KINDS else "known-good and known-bad plants"
        made.append({"kind": kind, "label": label, "cells": len(keys), "cpu_seconds": float(sum(seconds))})
    return made


def _look(study: Study, cache: pathlib.Path) -> None:
    """Warn of held-out texts that stand in train; raise ValueError where two tasks hold the same data."""
    frozen = backbone(study.backbone)  # a wrong name is seen before texts are read
    if unknown := sorted(set(study.parts) - set(KINDS)):
        raise ValueError(f"unknown key {unknown[0]!r} under parts: expected one of {', '.join(KINDS)}")
    for spec in study.deltas.values():
        delta(spec).initial(frozen, 0)
    seen: dict[str, str] = {}
    for spec, name in tasks.distinct_names(study.tasks).items():
        data = task(spec, str(cache), tuple(study.columns.items()))
        if data.digest in seen:
            raise ValueError(f"{seen[data.digest]} and {name} hold the same texts and labels, one task named twice: name one")
        seen[data.digest] = name
        warn(data)


def measure(
    study: Study,
    folder: pathlib.Path,
    *,
    claims: Sequence[Claim],
    processes: int,
    report: Callable[[str], None],
) -> list[tuple[str, Job]]:
    """Run every missing cell that the claims need and return the whole list; what a killed run left half-written goes first."""
    for stale in folder.rglob(".writing-*"):
        stale.unlink(missing_ok=True)
    cache = folder.parent / "tasks"
    _look(study, cache)
    found = jobs(study, claims, cache)
    store = Store(folder)
    store.mend([job for _, job in found], report)
    results.mend(folder, report)
    missing = [job for _, job in found if not store.has("cells", job.key)]
    report(f"{study.name}: {len(found)} cells, {len(found) - len(missing)} already measured")
    run(missing, functools.partial(execute, folder=str(folder), cache=str(cache)), processes=processes, report=report)
    return found
