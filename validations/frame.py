"""A study as one tidy frame: every claim's tested rows, every tuned delta's training and its prediction, every delta's size."""

import pathlib
from collections.abc import Iterator, Mapping

import pandas as pd

from .results import read_verdicts, reading, table, unicode
from .store import Store

IDENTITY = ("task", "delta", "seed", "port", "inside")
COLUMNS = ("claim", "row", "stage", *IDENTITY, "quantity", "value")
TRAINING, SIZES = "training", "study"  # what stands in the column claim for numbers that belong to no claim


def measurements(folder: str | pathlib.Path = "build/quick") -> pd.DataFrame:
    """Return every number of a study as one tidy frame, one value a line.

    claim: a claim's id for its tested rows; "training" for what was predicted for and measured on every tuned delta (held-out
    loss, size, norm, ...); "study" for the sizes of all deltas. row: which row of that table; numbers of one row share it.
    stage: compared, predicted (before training), measured (after) or counted. value is float64 (yes and no are 1 and 0), seed
    a whole number, inside (the linear regime) yes or no, the rest categories; what has no port, say, has it missing.
    `dictionary(frame)` says what each quantity means, and its unit.
    Raises ValueError naming the file when verdicts, tables and cells do not fit together.
    """
    record = read_verdicts(folder)
    with reading(folder):
        found = [*_compared(folder, record), *_trained(folder, record), *_sizes(record)]
        return pd.DataFrame(found, columns=list(COLUMNS)).astype(
            {name: "category" for name in ("claim", "stage", "task", "delta", "port", "quantity")}
            | {"row": "int64", "seed": "Int64", "inside": "boolean", "value": "float64"}
        )


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
    for number, (key, settings) in enumerate((key, s) for key, s in cells if s["kind"] == "tuned"):
        place = {"task": names[settings["digest"]], "delta": settings["deltas"][0][0], "seed": settings["seed"]}
        for phase, stage in (("predicted", "predicted"), ("cells", "measured")):
            yield from _lines(TRAINING, number, stage, unicode(place), store.read(phase, key).values)


def _sizes(record: Mapping) -> Iterator[tuple]:
    for number, delta in enumerate(record["study"]["deltas"]):
        yield from _lines(SIZES, number, "counted", {"delta": delta["name"]}, {"size": delta["size"]})
