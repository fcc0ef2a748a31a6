"""A study as tidy frames: all its numbers in one, its trainings with their predictions in another, its verdicts in a third."""

import functools
import pathlib
import time
from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd

from .index import ABSENT, Lines, Piece, lines
from .quantities import described
from .results import read_verdicts, reading, table, unicode
from .sound import FRESH, stamp, states
from .sources import digest
from .store import REMEDY, Store, unsealed
from .store import digest as checksum

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
    record, folder = read_verdicts(folder), pathlib.Path(folder)
    with reading(folder):
        spent, changed = stamp(folder, ("provenance",))
        state = checksum(f"{record['seal']} {spent}".encode()) if changed < time.time_ns() - FRESH else ""
        return _framed(record, lines(folder, state, functools.partial(_pieces, folder, record), digest([__name__])))


def trainings(folder: str | pathlib.Path = "build/quick") -> pd.DataFrame:
    """Return one row for each delta that a study trained: task, delta, seed, arm, size, and every number of it in a column.

    arm: "full-batch" for trainings to convergence under the study's penalty, "practice" for AdamW with a rate chosen on dev
    text. loss and accuracy are held out, reference_ those of the frozen model, predicted_ those forecast before training. norm
    and eta, which are predicted and measured, stand as measured where they were. Raises ValueError as `measurements` does.
    """
    frame = measurements(folder)
    frame = frame[frame["claim"].isin(ARMS.values()) & (frame["quantity"] != "size")]
    if frame.empty:
        raise ValueError(f"expected a study that trains single deltas in {folder}, got none: its claims compare others")
    frame = frame.assign(arm=frame["claim"].cat.rename_categories({TRAINING: "full-batch"}))
    for name in ("task", "delta", "arm", "quantity"):
        used = frame[name].cat.remove_unused_categories()
        frame[name] = used.cat.reorder_categories(sorted(used.cat.categories))
    index = ["task", "delta", "seed", "arm", "size"]
    wide = frame.pivot_table(index=index, columns="quantity", values="value", aggfunc="last", observed=True)
    wide.columns = [str(name) for name in wide.columns]
    return wide.reset_index()


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


def _pieces(folder: pathlib.Path, record: Mapping) -> list[Piece]:
    """Return what a study's numbers are read from: its tested tables, its cells, the sizes of its deltas."""
    sizes = Piece("sizes", record["seal"], functools.partial(list, _sizes(record)))
    return [*_compared(folder, record), *_trained(folder, record), sizes]


def _compared(folder: pathlib.Path, record: Mapping) -> Iterator[Piece]:
    """Yield the tested table of every claim under its checksum."""

    def read(claim: str) -> Iterator[tuple]:
        for number, row in enumerate(table(folder, record, claim).to_dict("records")):
            yield from _lines(claim, number, "compared", row, row)

    for claim, mark in record["tied"]["tables"].items():
        if "." not in claim:
            yield Piece(f"rows {claim}", mark, functools.partial(read, claim))


def _trained(folder: pathlib.Path, record: Mapping) -> Iterator[Piece]:
    """Yield every cell under its checksum and the state of the file that says what it took, on which no verdict rests.

    Where it trained one delta it has lines, with its data's digest for the task.
    """
    store, spent, until = Store(folder), states(folder, ("provenance",)), time.time_ns() - FRESH

    def kept(phase: str, key: str, seal: str | None) -> dict:
        try:
            found = unsealed(store.path(phase, key, ".json"), phase, key)
        except ValueError as error:
            raise ValueError(f"{error}: {REMEDY}") from None
        if seal is not None and found["seal"] != seal:
            raise ValueError(f"{store.path(phase, key, '.json')} was changed while it was read: {REMEDY}")
        return found

    def read(key: str, seal: str) -> Iterator[tuple]:
        cell = kept("cells", key, seal)
        settings = cell["settings"]
        if claim := ARMS.get(settings["kind"]):
            place = unicode({"task": settings["digest"], "delta": settings["deltas"][0][0], "seed": settings["seed"]})
            if cell["after"]:
                predicted = kept("predicted", key, cell["after"])["record"]
                yield from _lines(claim, 0, "predicted", place, _forecast(claim, predicted))
            yield from _lines(claim, 0, "measured", place, _measured(claim, cell["record"]))
            if store.has("provenance", key):
                took = {"cpu_seconds": kept("provenance", key, None)["record"]["cpu_seconds"]}
                yield from _lines(claim, 0, "counted", place, took)

    for key, seal in record["tied"]["cells"].items():
        state, changed = spent.get(key, ("", 0))
        yield Piece(key, f"{seal} {state}" if changed < until else None, functools.partial(read, key, seal))


def _framed(record: Mapping, found: Lines) -> pd.DataFrame:
    """Return the lines of `_pieces` as a frame."""
    made, texts = dict(found.columns), [*found.texts]
    counts, end = found.counts[-1 - len(record["tied"]["cells"]) : -1], found.counts[:-1].sum()
    cells = slice(end - counts.sum(), end)
    made["row"], made["task"] = made["row"].astype("int64"), made["task"].astype("int32")
    made["row"][cells] = np.repeat(np.cumsum(counts > 0) - 1, counts)
    names = {task["digest"]: unicode(task["name"]) for task in record["study"]["tasks"]}  # a kept cell's may be old
    used = _used(made["task"][cells], len(texts))
    made["task"][cells] = len(texts) + np.searchsorted(used, np.arange(len(texts)))[made["task"][cells]]
    texts += [names[texts[task]] for task in used]
    sizes = {delta["name"]: delta["size"] for delta in record["study"]["deltas"]}
    size = np.array([sizes.get(text, ABSENT) for text in texts] + [ABSENT])[made["delta"]]
    claims = _used(made["claim"], len(texts))
    both = np.searchsorted(claims, np.arange(len(texts)))[made["claim"]] * len(texts) + made["quantity"]
    used = _used(both, len(claims) * len(texts))
    unit = [_unit(texts[claims[one // len(texts)]], texts[one % len(texts)]) for one in used]
    places = np.searchsorted(used, np.arange(len(claims) * len(texts)))[both]
    seed, inside = made["seed"].astype("int64"), made["inside"]
    return pd.DataFrame(
        {name: _category(made[name], texts) for name in ("claim", "stage", "task", "delta", "port", "quantity")}
        | {
            "row": made["row"],
            "size": pd.arrays.IntegerArray(size, size == ABSENT),
            "unit": _category(places, unit),
            "value": made["value"],
        }
        | {"seed": pd.arrays.IntegerArray(seed, seed == ABSENT), "inside": pd.arrays.BooleanArray(inside == 1, inside == ABSENT)}
    )[list(COLUMNS)]


def _category(places: np.ndarray, texts: list[str]) -> pd.Categorical:
    """Return texts by their places in a list, -1 for none, as a category of those that occur, in their order."""
    used = _used(places, len(texts))
    words = sorted({texts[place] for place in used})
    order = {word: number for number, word in enumerate(words)}
    codes = np.full(len(texts) + 1, -1, np.min_scalar_type(-1 - len(words)))
    codes[used] = [order[texts[place]] for place in used]
    return pd.Categorical.from_codes(codes[places], categories=words)


def _used(places: np.ndarray, count: int) -> np.ndarray:
    """Return which places of so many occur, in their order; -1 is none."""
    seen = np.zeros(count + 1, bool)
    seen[places] = True
    return np.flatnonzero(seen[:-1])


def _forecast(claim: str, values: Mapping) -> Mapping:
    """Return what was predicted of a training, a practical one's under the names of the others."""
    if claim == TRAINING:
        return values
    best = values["forecasts"]["optimum"]
    named = {f"reference_{name}": values["start"][name] for name in ("loss", "accuracy")}
    named |= {f"predicted_{name}": best[name] for name in ("loss", "accuracy")}
    return named | {"size": values["numbers"], "norm": values["norm"], "eta": values["eta"]}


def _measured(claim: str, values: Mapping) -> Mapping:
    return values if claim == TRAINING else {name: values[name] for name in ("loss", "accuracy", "rate", "step")}


def _sizes(record: Mapping) -> Iterator[tuple]:
    for number, delta in enumerate(record["study"]["deltas"]):
        yield from _lines(SIZES, number, "counted", {"delta": delta["name"]}, {"size": delta["size"]})
