"""What a reader must know of a study and of where it was measured."""

import dataclasses
import functools
import os
import pathlib
import platform
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata

from tuning import catalogue, tasks
from tuning.preparation import backbone_of, task_of
from tuning.taxonomy import COUNTED
from tuning.verbalisers import TEMPLATE

from .claims import EXPERIMENTS
from .engine import Job
from .plan import delta
from .store import Store
from .study import Study


def describe(study: Study, folder: pathlib.Path, frozen_accuracy: Mapping[str, float]) -> dict:
    """Return what a reader must know of a study: backbone, tasks with their frozen head's accuracy, deltas, seeds, settings."""
    frozen = backbone_of(study.backbone, dtype=study.dtype)
    weights = sum(p.numel() for p in frozen.model.parameters())
    shown, columns, labels = [], tuple(study.columns.items()), tasks.distinct_names(study.every_task)
    for spec, name in labels.items():
        sizes = dataclasses.asdict(study.sizes) | ({} if spec in study.tasks else _sizes_of_its_part(study, spec))
        data = task_of(spec, str(folder.parent / "tasks"), columns)
        about = tasks.describe(data)
        shown.append(
            {
                "name": name,
                "label": name.replace("-", " ").replace("_", " "),
                "family": data.family,
                "classes": len(data.classes),
                "train": sizes["train"],
                "test": sizes["test"],
                "majority": about["majority"]["test"],
                "frozen": frozen_accuracy.get(name),
                "overlap": about["leaks"],
                "shared": tasks.overlaps(data, sizes, study.every_seed),
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
                "size": made[name].size(backbone_of(study.backbone_of(name))),
                "reference": "seeded words" if spec["kind"] in ("Prefix", "Prompt") else "the frozen model",
            }
            for name, spec in study.deltas.items()
        ],
        "taxonomy": taxonomy(),
        "seeds": list(study.every_seed),
        "seeds_vary": any((part.seeds or study.seeds) != study.every_seed for part in study.parts.values()),
        "settings": {**dataclasses.asdict(study.sizes), **dataclasses.asdict(study.solver)}
        | {
            f"{kind}: {k}": v
            for kind, part in study.parts.items()
            for k, v in part.options.items()
            if not isinstance(v, tuple | list)
        }
        | _asked(study, labels.values()),
    }


def taxonomy() -> dict:
    """Return the kinds of delta, each with its place in the taxonomy, and what the letters of their sizes mean."""
    kinds = catalogue.kinds()
    places = [{"kind": kinds[name], **dataclasses.asdict(taxon)} for name, taxon in catalogue.taxonomy().items()]
    return {"kinds": places, "counted": COUNTED}


def _asked(study: Study, names: Iterable[str]) -> dict[str, str]:
    """Return how a language model is asked about each task and with which words it answers; nothing under a fitted head."""
    if study.head != "verbaliser":
        return {}
    asked = {name: study.prompt_of(name) for name in names}
    told = {name: [repr(one.template or TEMPLATE), *map(repr, one.words)] for name, one in asked.items()}
    return {"head": study.head} | {f"prompt of {name}": " ".join(said) for name, said in told.items()}


def _sizes_of_its_part(study: Study, task: str) -> dict[str, int]:
    """Return the sizes that the part with a task of its own gives; a task of development has the study's."""
    options = next((part.options for part in study.parts.values() if task in part.tasks), {})
    return {name: options[name] for name in dataclasses.asdict(study.sizes) if name in options}


def costs(store: Store, found: Sequence[tuple[str, Job]]) -> list[dict]:
    """Return the CPU seconds spent on each kind of cell."""
    made = []
    for kind in dict.fromkeys(k for k, _ in found):
        keys = [job.key for k, job in found if k == kind]
        seconds = [store.read("provenance", key).values["cpu_seconds"] for key in keys if store.has("provenance", key)]
        label = EXPERIMENTS[kind].label if kind in EXPERIMENTS else "known-good and known-bad plants"
        made.append({"kind": kind, "label": label, "cells": len(keys), "cpu_seconds": float(sum(seconds))})
    return made


def measured_on(store: Store, found: Sequence[tuple[str, Job]]) -> list[str]:
    """Return where the cells were measured, most of them first: device, processor, Python and torch, with their number."""
    counts: dict[str, int] = {}
    for _, job in found:
        if store.has("provenance", job.key):
            own = store.read("provenance", job.key).values
            device, torch = own.get("device", "device not recorded"), own["versions"]["torch"]
            place = f"{device}, {own['processor']}, Python {own['python']}, torch {torch}"
            counts[place] = counts.get(place, 0) + 1
    return [f"{n} on {place}" for place, n in sorted(counts.items(), key=lambda one: -one[1])]


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
