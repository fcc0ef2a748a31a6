"""A study as tidy frames: all its numbers in one, its trainings with their predictions in another, its verdicts in a third."""

import pathlib
from collections.abc import Callable, Iterator, Mapping

import pandas as pd

from .quantities import described
from .results import read_verdicts, reading, table, unicode
from .store import Record, Store

IDENTITY = ("task", "delta", "seed", "port", "inside")
COLUMNS = ("claim", "row", "stage", *IDENTITY, "size", "quantity", "unit", "value")
TRAINING, PRACTICE, SIZES = "training", "practice", "study"  # in the column claim for numbers that belong to no claim
ARMS = {"tuned": TRAINING, "practice": PRACTICE}  # kinds of cells that train one delta, and what stands in the column claim


def measurements(folder: str | pathlib.Path = "build/quick") -> pd.DataFrame:
    """Return every number of a study as one tidy frame, one value a line.

    claim: a claim's id for its tested rows; "training" and "practice" for what was predicted for and measured on every delta
    tuned by full batches or as in practice (held-out loss, accuracy, cost, ...); "study" for the sizes of all deltas. row:
    which row of that table; numbers of one row share it. stage: compared, predicted (before training), measured (after) or
    counted. size: how many numbers the delta tunes. value is float64 (yes and no are 1 and 0), seed and size whole numbers,
    inside (the linear regime) yes or no, the rest categories; what has no port, say, has it missing. `dictionary(frame)` says
    what each quantity means. Raises ValueError naming the file when verdicts, tables and cells do not fit together.
    """
    record = read_verdicts(folder)
    with reading(folder):
        sizes = {delta["name"]: delta["size"] for delta in record["study"]["deltas"]}
        found = [*_compared(folder, record), *_trained(folder, record), *_sizes(record)]
        lines = [(*line[:8], sizes.get(line[4]), line[8], _unit(line[0], line[8]), line[9]) for line in found]
        words = ("claim", "stage", "task", "delta", "port", "quantity", "unit")
        kinds = {"row": "int64", "seed": "Int64", "size": "Int64", "inside": "boolean", "value": "float64"}
        return pd.DataFrame(lines, columns=list(COLUMNS)).astype({name: "category" for name in words} | kinds)


def trainings(folder: str | pathlib.Path = "build/quick") -> pd.DataFrame:
    """Return one row for each delta that a study trained: task, delta, seed, arm, size, and every number of it in a column.

    arm: "full-batch" for trainings to convergence under the study's penalty, "practice" for AdamW with a rate chosen on dev
    text. loss and accuracy are held out, reference_ those of the frozen model, predicted_ those forecast before training. norm
    and eta, which are predicted and measured, stand as measured where they were. Raises ValueError as `measurements` does.
    """
    frame = measurements(folder)
    frame = frame[frame["claim"].isin(ARMS.values())]
    if frame.empty:
        raise ValueError(f"expected a study that trains single deltas in {folder}, got none: its claims compare others")
    arm = frame["claim"].astype(str).replace({TRAINING: "full-batch"})
    index = ["task", "delta", "seed", "arm", "size"]
    plain = frame.astype({"task": str, "delta": str, "quantity": str}).assign(arm=arm)
    plain = plain[~plain["quantity"].isin(["size"])]
    wide = plain.pivot_table(index=index, columns="quantity", values="value", aggfunc="last")
    return wide.rename_axis(columns=None).reset_index().astype({"task": "category", "delta": "category", "arm": "category"})


def verdicts(folder: str | pathlib.Path = "build/quick") -> pd.DataFrame:
    """Return a study's verdicts, a line for each claim and delta: the word, and its first criterion with the 95 % interval.

    Columns: claim, title, delta, verdict, criterion, estimate, low, high, tasks, rows. Raises ValueError as `read_verdicts` does.
    """
    made = []
    for claim in read_verdicts(folder)["claims"]:
        for one in claim["verdicts"]:
            first = one["criteria"][0] if one["criteria"] else {"label": one["why"]}
            numbers = {name: first.get(name) for name in ("estimate", "low", "high")}
            words = {"claim": claim["id"], "title": claim["title"], "delta": one["label"] or one["delta"]}
            made.append(words | {"verdict": one["verdict"], "criterion": first["label"]} | numbers | _counts(one))
    kinds = dict.fromkeys(("estimate", "low", "high"), "float64") | dict.fromkeys(("tasks", "rows"), "int64")
    return pd.DataFrame(made, columns=["claim", "title", "delta", "verdict", "criterion", *kinds]).astype(kinds)


def _counts(verdict: Mapping) -> dict:
    return {"tasks": verdict["tasks"], "rows": verdict["cells"]}


def _unit(claim: str, quantity: str) -> str:
    return (described(claim, quantity) or ("", ""))[1]


def _lines(claim: str, row: int, stage: str, place: Mapping, numbers: Mapping) -> Iterator[tuple]:
    """Yield one line per number of a row; words, lists and what was not recorded are left out."""
    where = tuple(place.get(name) for name in IDENTITY)
    for quantity, value in numbers.items():
        if quantity not in IDENTITY and isinstance(value, int | float) and value == value:
            yield claim, row, stage, *where, quantity, float(value)


def _compared(folder: str | pathlib.Path, record: Mapping) -> Iterator[tuple]:
    for claim in (name for name in record["tied"]["tables"] if "." not in name):
        for number, row in enumerate(table(folder, record, claim).to_dict("records")):
            yield from _lines(claim, number, "compared", row, row)


def _trained(folder: str | pathlib.Path, record: Mapping) -> Iterator[tuple]:
    store = Store(pathlib.Path(folder))
    names = {task["digest"]: task["name"] for task in record["study"]["tasks"]}  # as the rows call them: a kept cell's may be old
    cells = [(key, store.settings(key)) for key in record["tied"]["cells"]]
    for number, (key, settings) in enumerate((key, s) for key, s in cells if s["kind"] in ARMS):
        claim = ARMS[settings["kind"]]
        place = {"task": names[settings["digest"]], "delta": settings["deltas"][0][0], "seed": settings["seed"]}
        for phase, (stage, read) in PHASES.items():
            if store.has(phase, key):
                yield from _lines(claim, number, stage, unicode(place), read(claim, store.read(phase, key)))


def _forecast(claim: str, record: Record) -> Mapping:
    """Return what was predicted of a training, a practical one's under the names of the others."""
    values = record.values
    if claim == TRAINING:
        return values
    best = values["forecasts"]["optimum"]
    named = {f"reference_{name}": values["start"][name] for name in ("loss", "accuracy")}
    named |= {f"predicted_{name}": best[name] for name in ("loss", "accuracy")}
    return named | {"size": values["numbers"], "norm": values["norm"], "eta": values["eta"]}


def _measured(claim: str, record: Record) -> Mapping:
    values = record.values
    return values if claim == TRAINING else {name: values[name] for name in ("loss", "accuracy", "rate", "step")}


def _spent(claim: str, record: Record) -> Mapping:
    return {"cpu_seconds": record.values["cpu_seconds"]}


PHASES: Mapping[str, tuple[str, Callable]] = {  # of a cell: what its numbers are, and which are told
    "predicted": ("predicted", _forecast),
    "cells": ("measured", _measured),
    "provenance": ("counted", _spent),
}


def _sizes(record: Mapping) -> Iterator[tuple]:
    for number, delta in enumerate(record["study"]["deltas"]):
        yield from _lines(SIZES, number, "counted", {"delta": delta["name"]}, {"size": delta["size"]})
