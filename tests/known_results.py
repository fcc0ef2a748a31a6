"""A results folder from every claim's recorded plants, under the claims' own words: numbers for tests of the report."""

import contextlib
import dataclasses
import functools
import itertools
import pathlib
from collections.abc import Iterator, Mapping, Sequence

import record

from theory.derivations import DERIVATIONS
from validations import calibrate, publish
from validations.claims import CLAIMS, Cell, Claim
from validations.claims.shared.claim import Comparison
from validations.describe import taxonomy
from validations.judge import Evidence, verdicts_of
from validations.results import write_verdicts
from validations.store import Record
from validations.study import Study
from validations.verdict import columned

DELTAS = {
    "port-bias": ("Bias at the ports", ""),
    "prefix": ("Prefix", "li2021"),
    "lora": ("LoRA", "hu2022"),
    "adapter": ("Adapter", "houlsby2019"),
    "bitfit": ("BitFit", "benzaken2022"),
    "prompt": ("Prompt", "lester2021"),
    "ia3": ("(IA)³", "liu2022"),
    "full": ("Full fine-tuning", ""),
}
TASKS = ("topic_of_headlines", "sentiment", "subject_agreement", "question_type", "acceptability", "parity_of_brackets")
OPTIONS = ("bias, all", "BitFit, all", "IA3, all", "LoRA r=4, lower half", "LoRA r=4, all", "adapter b=2, all", "prefix l=1, all",
           "bias, upper half", "prompt l=1, all", "DoRA r=4, all", "VeRA r=4, all", "LN-tuning, all",
           "adapter b=2, lower half")  # fmt: skip
PLANTS = (("good",), ("good",), ("bad",), ("good", "bad"), ("good",))  # by the claim's place: verdicts of every kind
FAILING = ("healing-robust",)  # claims whose assumptions are said to fail
BARE = Record({}, {})


def write(folder, *, tasks=6, deltas=3, seeds=2, claims=None, long_names=False) -> pathlib.Path:
    """Write verdicts.json and rows/ under `folder` and return it; the same arguments give the same bytes."""
    folder, study = pathlib.Path(folder), _study(tasks, deltas, seeds, long_names)
    chosen = [claim for claim in CLAIMS if claims is None or claim.id in claims]
    evidence = [_evidence(claim, study) for claim in chosen]
    verdicts = verdicts_of(evidence, study.unit)
    made = [publish.claim_record(whole, verdicts, study, _plants(whole.claim)) for whole in evidence]
    parts = {(c.id, part): _laid(c, study, ("good",), part) for c in chosen for part in record.read(c.id)["good"]}
    tables = parts | {(whole.claim.id, "rows"): list(whole.rows) for whole in evidence}
    about = {"study": _described(study), "claims": made, "derivations": _derivations(), "calibration": calibrate.shipped()}
    write_verdicts(folder, about | {"costs": COSTS, "provenance": PROVENANCE}, tables=tables, cells=[])
    return folder


@functools.lru_cache
def _derivations() -> list[dict]:
    return [derivation().to_json() for derivation in DERIVATIONS]


def _study(tasks: int, deltas: int, seeds: int, long_names: bool) -> Study:
    """Return a study of so many tasks, deltas and seeds."""
    tail = "_as_judged_by_readers_of_several_daily_newspapers" if long_names else ""
    names = [TASKS[i % len(TASKS)] + (f"_{i // len(TASKS) + 1}" if i >= len(TASKS) else "") + tail for i in range(tasks)]
    return Study(
        name="quick",
        title="Delta tuning as optimal control",
        question="Does a frozen network's response, measured before training, tell what a trained delta will do?",
        backbone="nano",
        tasks=tuple(names),
        seeds=tuple(range(seeds)),
        claims=(),
        deltas={name: {"label": label} for name, (label, _) in list(DELTAS.items())[:deltas]},
    )


def _places(claim: Claim, study: Study) -> Iterator[dict]:
    """Yield task, delta and seed of every cell that the study has for a claim."""
    deltas = study.deltas if claim.experiment.per_delta else (claim.experiment.name,)
    for task, delta, seed in itertools.product(study.tasks, deltas, study.seeds):
        yield {"task": task, "delta": delta, "seed": seed}


def _laid(claim: Claim, study: Study, which: Sequence[str], part: str = "rows") -> list[dict]:
    """Return a recorded table laid out over a study: plant after plant in turn, task by task from good or from bad ones."""
    kept = [_by_plant(record.rows(claim.id, known, part)) for known in which]
    made = []
    for number, place in enumerate(_places(claim, study)):
        plants = kept[study.tasks.index(place["task"]) % len(kept)]
        made += _moved(plants[number % len(plants)], place, tuple(study.deltas))
    return made


def _moved(rows: Sequence[Mapping], place: Mapping, deltas: Sequence[str]) -> list[dict]:
    """Return a plant's rows at a place of the study, and the deltas and options that they compare under names of studies."""
    own = list(dict.fromkeys(row["delta"] for row in rows if "delta" in row))
    names = dict(zip(own, [place["delta"]] if len(own) == 1 else deltas, strict=False))
    options = dict(zip(dict.fromkeys(row.get("option") for row in rows), OPTIONS, strict=False))
    shown = [{**place, "delta": names.get(row.get("delta")), "option": options.get(row.get("option"))} for row in rows]
    return [
        {**row, **{name: words[name] for name in words if name in row}}
        for row, words in zip(rows, shown, strict=True)
        if "delta" not in row or row["delta"] in names
    ]


def _by_plant(rows: Sequence[Mapping]) -> list[list[Mapping]]:
    """Return rows plant by plant."""
    plants: dict[tuple, list[Mapping]] = {}
    for row in rows:
        plants.setdefault((row["task"], row["seed"]), []).append(row)
    return list(plants.values())


def _evidence(claim: Claim, study: Study) -> Evidence:
    """Return a claim's rows over a study, with bare cells on which its assumptions are said to hold, or to fail."""
    said, holds = record.read(claim.id)["evidence"], claim.id not in FAILING
    assumptions = tuple(
        dataclasses.replace(a, passes=lambda cell: holds, evidence=lambda cells, text=said[a.name]: text)
        for a in claim.assumptions
    )
    cells = tuple(Cell(p["task"], p["delta"], p["seed"], BARE, BARE) for p in _places(claim, study))
    rows = _laid(claim, study, PLANTS[CLAIMS.index(claim) % len(PLANTS)])
    shown = {name: _measured(getattr(claim, name), rows) for name in ("rivals", "nulls", "also")}
    return Evidence(dataclasses.replace(claim, assumptions=assumptions, **shown), cells, tuple(rows))


def _measured(comparisons: Sequence[Comparison], rows: Sequence[Mapping]) -> tuple[Comparison, ...]:
    """Return the rivals or nulls whose columns the plants have."""
    kept = []
    for comparison in comparisons:
        with contextlib.suppress(KeyError):
            comparison.statistic(columned(rows))
            kept.append(comparison)
    return tuple(kept)


def _plants(claim: Claim) -> dict[str, dict]:
    return {which: publish.on_plants(claim, which, record.rows(claim.id, which)) for which in ("good", "bad")}


def _described(study: Study) -> dict:
    """Return the study as its record describes it."""
    return {
        "name": study.name,
        "title": study.title,
        "question": study.question,
        "unit": study.unit,
        "backbone": {
            "name": study.backbone, "architecture": "bert", "blocks": 4, "width": 128, "parameters": 1830000,
            "fingerprint": "9f2c41d07b3e",
        },
        "tasks": [
            {
                "name": name, "label": name.capitalize().replace("_", " "), "family": "grammar" if i % 2 else "news",
                "classes": 2 + i % 3, "train": 64, "test": 128, "majority": 0.34, "frozen": 0.71, "digest": f"{i:02d}b1d2c3",
            }
            for i, name in enumerate(study.tasks)
        ],
        "deltas": [
            {"name": name, "label": of["label"], "size": 2048 * (i + 1), "reference": DELTAS[name][1]}
            for i, (name, of) in enumerate(study.deltas.items())
        ],
        "taxonomy": taxonomy(),
        "seeds": list(study.seeds),
        "settings": {"ridge": 0.01, "steps": 400, "gate.limit": 0.3, "boot_draws": 2000, "dimensions": [2, 4, 8, 16],
                     "early_stop": False},
    }  # fmt: skip


COSTS = [
    {"kind": "tuned", "label": "Tuned deltas", "cells": 60, "cpu_seconds": 301.2},
    {"kind": "responses", "label": "Responses", "cells": 4, "cpu_seconds": 12.6},
]
PROVENANCE = {
    "commit": "abc1234",
    "dirty": False,
    "timestamp": 1767225600,
    "python": "3.11.8",
    "versions": {"torch": "2.13.0", "transformers": "5.23.0", "numpy": "2.4.6"},
    "processor": "x86-64, 2 cores",
    "threads": 1,
    "engine": "serial",
}
