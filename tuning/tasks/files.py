"""Tasks from files: a folder of splits, or one file that is split here; every refusal is one sentence.

Columns: ``text_a``, ``text_b`` (optional), ``label`` (an integer or a string), or other usual names.
Formats: .jsonl, .csv and .tsv (each also .gz) and .parquet; a .csv may be delimited by commas, semicolons, tabs or bars.
Classes are called as ``label_text`` says beside a numeric label, or as ``meta.json`` of a folder lists them under ``labels``
or ``classes``.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import pathlib
import re
import zlib
from collections.abc import Mapping, Sequence

from tuning.tasks.columns import chosen, named_beside
from tuning.tasks.prose import hashed
from tuning.tasks.task import Split, Task, fold, make_task, require_splits

SUFFIXES = (".jsonl", ".jsonl.gz", ".csv", ".csv.gz", ".tsv", ".tsv.gz", ".parquet")
DELIMITERS = ",\t;|"  # of a .csv, told apart by the header
DEV_NAMES = ("dev", "validation", "valid", "val")
SHARES = (("test", 0.2), ("dev", 0.1), ("train", 0.7))  # of a single file
WHOLE = re.compile(r"(-?[0-9]+)(\.0*)?")

Row = dict[str, object]


def decoded(path: pathlib.Path) -> str:
    """Return a text file's content, unzipped when it ends in .gz; raises ValueError when unreadable."""
    try:
        raw = path.read_bytes()
        if path.name.endswith(".gz"):
            raw = gzip.decompress(raw)
        return raw.decode("utf-8-sig")
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path} cannot be read ({error}): expected an intact file, so write or copy it again") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text (byte {error.start}): save it as UTF-8") from error


def jsonl_rows(path: pathlib.Path) -> list[Row]:
    """Return one record per non-blank line."""
    rows = []
    for number, line in enumerate(decoded(path).split("\n"), start=1):
        if line.strip():
            try:
                row = json.loads(line)
            except (json.JSONDecodeError, RecursionError) as error:
                reason = getattr(error, "msg", "nested too deeply")
                raise ValueError(f"line {number} of {path} is not JSON ({reason}): correct or remove it") from error
            if not isinstance(row, dict):
                raise ValueError(
                    f"line {number} of {path} holds a {type(row).__name__}, expected an object with text_a and label"
                )
            rows.append(row)
    return rows


def csv_rows(path: pathlib.Path) -> list[Row]:
    """Return one record per line below the header of a .csv or .tsv; a .csv's delimiter is the one its header has most of."""
    content = decoded(path)
    header = content.partition("\n")[0]
    delimiter = "\t" if ".tsv" in str(suffix(path)) else max(DELIMITERS, key=header.count)
    quoting = csv.QUOTE_MINIMAL if delimiter != "\t" or _quoted(content) else csv.QUOTE_NONE
    lines = io.StringIO(content, newline="")
    reader = csv.DictReader(lines, restkey=" extra", restval=None, delimiter=delimiter, quoting=quoting)
    try:
        rows: list[Row] = [dict(row) for row in reader]
    except csv.Error as error:
        raise ValueError(f"line {reader.line_num} of {path} is not CSV ({error}): correct or remove it") from error
    names = [name for name in reader.fieldnames or () if name]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"{path} has more than one column called {twice!r}: rename or drop one")
    for number, row in enumerate(rows, start=1):
        if " extra" in row:
            raise ValueError(f"row {number} of {path} has more fields than the header: quote texts that contain commas")
    return rows


def _quoted(content: str) -> bool:
    """Return whether quotes in tab-separated lines enclose fields; in much such data a field may begin with a lone one."""
    lines = [line.split("\t") for line in content.splitlines() if line]
    even = len({len(line) for line in lines}) == 1  # no quotes hide a tab
    return not even or all(len(f) > 1 and f.endswith('"') for line in lines for f in line if f.startswith('"'))


def parquet_rows(path: pathlib.Path) -> list[Row]:
    """Return the rows of a parquet file."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ValueError(f"reading {path} needs pyarrow, which is not installed: pip install pyarrow") from error
    try:
        return pyarrow.parquet.read_table(path).to_pylist()
    except (OSError, pyarrow.ArrowException) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{path} is not a readable parquet file ({reason}): write or copy it again") from error


def suffix(path: pathlib.Path) -> str | None:
    """Return the known ending of a file's name, or None."""
    return next((end for end in sorted(SUFFIXES, key=len, reverse=True) if path.name.endswith(end)), None)


def read_rows(path: pathlib.Path, columns: Mapping[str, str] | None) -> list[Row]:
    """Return the rows of a file under the names text_a, text_b, label.

    ``columns`` says which column of the file plays which part, and then other columns are ignored; without it
    the usual names are known and a column of another name is refused.
    """
    end = suffix(path)
    if end is None:
        raise ValueError(f"{path} has an unknown ending, expected one of {', '.join(SUFFIXES)}: convert or rename it")
    rows = raw_rows(path)
    if not rows:
        raise ValueError(f"{path} is empty: expected rows with text_a and label")
    rows = named(rows, columns, str(path))
    if "sv" in end and all(WHOLE.fullmatch(str(row["label"])) for row in rows if row["label"]):
        rows = [{**row, "label": int(float(str(row["label"]))) if row["label"] else None} for row in rows]
    return rows


def raw_rows(path: pathlib.Path) -> list[Row]:
    """Return the rows of a file of a known ending, under its own names of columns."""
    end = str(suffix(path))
    return parquet_rows(path) if end == ".parquet" else jsonl_rows(path) if "jsonl" in end else csv_rows(path)


def named(rows: Sequence[Row], columns: Mapping[str, str] | None, where: str, *, strict: bool = True) -> list[Row]:
    """Return the rows with their columns checked and renamed to text_a, text_b and label (`tuning.tasks.columns`).

    A column that names the class beside its number is kept as `class`, and a label such as 1.0 becomes 1.
    """
    present = list(dict.fromkeys(key for row in rows for key in row))
    parts = chosen(present, columns, where, strict=strict)
    parts |= named_beside(present, parts)
    made = [{part: row.get(column) for part, column in parts.items()} for row in rows]
    return [{**row, "label": _whole(row["label"])} for row in made]


def _whole(label: object) -> object:
    """Return a label without the decimals that tables give to numbers where some are missing, which then are NaN."""
    if not isinstance(label, float):
        return label
    return None if label != label else int(label) if label.is_integer() else label


def text(row: Row, part: str, where: str) -> str:
    """Return a text of a row; raises ValueError when it is not a string or blank."""
    value = row.get(part)
    if not isinstance(value, str):
        raise ValueError(f"{part} in {where} is {type(value).__name__} ({value!r}), expected a string: correct that row")
    if not value.strip():
        raise ValueError(f"{part} in {where} is blank, expected some text: fill or remove that row")
    return value


def class_index(label: object, classes: Sequence[str], by_number: bool, where: str) -> int:
    """Return the class of a label: a name, or with ``by_number`` also an index into the listed classes."""
    if label is None or label == "":
        raise ValueError(f"the label in {where} is missing: fill it or remove that row")
    if isinstance(label, bool) or not isinstance(label, (int, str)):
        raise ValueError(f"the label in {where} is {type(label).__name__} ({label!r}), expected an integer or a string")
    if isinstance(label, int) and by_number:
        if not 0 <= label < len(classes):
            raise ValueError(
                f"label {label} in {where} is outside the {len(classes)} classes of the list "
                f"(0..{len(classes) - 1}): "
                "correct the label or the list"
            )
        return label
    if str(label) not in classes:
        listed = "is not in the list of classes" if by_number else "never occurs in train"
        raise ValueError(f"label {label!r} in {where} {listed}: correct that row, or add the class there")
    return classes.index(str(label))


def task_from_rows(
    name: str,
    family: str,
    rows_by_split: Mapping[str, Sequence[Row]],
    classes: Sequence[str] | None,
    source: str,
) -> Task:
    """Return a task made of rows with text_a, text_b (optional) and label.

    With ``classes`` integer labels are indices into them; without, the classes are the labels of train in
    order. Raises ValueError, naming split and row, for a missing, odd or unknown label and for a text that is
    not a string.
    """
    require_splits(name, rows_by_split)
    listed = classes is not None
    if classes is None:
        for number, row in enumerate(rows_by_split["train"], start=1):
            if isinstance(row.get("label"), list | dict):
                class_index(row["label"], (), False, f"row {number} of {name}/train")
        rows = [*enumerate(rows_by_split["train"], start=1)]
        seen = {row.get("label"): _place(row, number, f"{name}/train") for number, row in reversed(rows)}
        seen = {label: place for label, place in seen.items() if label not in (None, "")}
        kinds = {type(label).__name__: f"{label!r} in {place}" for label, place in seen.items()}
        if len(kinds) > 1:
            said = ", ".join(f"{kind} such as {kinds[kind]}" for kind in sorted(kinds))
            raise ValueError(f"the labels of {name}/train are of several kinds ({said}): use one")
        classes = [str(label) for label in sorted(seen)]
    splits = {}
    for key, rows in rows_by_split.items():
        pair = any(row.get("text_b") is not None for row in rows)
        first, second, labels = [], [], []
        for number, row in enumerate(rows, start=1):
            where = _place(row, number, f"{name}/{key}")
            first.append(text(row, "text_a", where))
            if pair:
                second.append(text(row, "text_b", where))
            labels.append(class_index(row.get("label"), classes, listed, where))
        splits[key] = Split(tuple(first), tuple(second) if pair else None, labels)
    return make_task(name, family, classes if listed else _named(classes, rows_by_split), splits, source)


def _place(row: Row, number: int, where: str) -> str:
    """Return where a row stands: in its file where that was split here, else in its split."""
    return str(row.get("place", f"row {number} of {where}"))


def _named(classes: Sequence[str], rows_by_split: Mapping[str, Sequence[Row]]) -> Sequence[str]:
    """Return the classes under the names that stand beside their numbers, where each has one name and no two have the same."""
    pairs = {(str(row["label"]), row.get("class")) for rows in rows_by_split.values() for row in rows}
    names = dict(pairs)
    single = len(names) == len(pairs) == len(set(names.values())) and all(isinstance(n, str) and n for n in names.values())
    return [str(names[label]) for label in classes] if single else classes


def meta(folder: pathlib.Path) -> tuple[str, list[str] | None]:
    """Return (family, class names) of a folder's meta.json; ("files", None) where it says nothing."""
    path = folder / "meta.json"
    if not path.is_file():
        return "files", None
    try:
        record = json.loads(decoded(path))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON ({error.msg} at line {error.lineno}): correct or remove it") from error
    names = record.get("labels", record.get("classes")) if isinstance(record, dict) else record
    if names is None and isinstance(record, dict):
        return str(record.get("family", "files")), None
    if not isinstance(names, list) or not all(isinstance(n, str) for n in names) or len(set(names)) < len(names):
        raise ValueError(f"{path} must list different class names as strings under 'labels': correct it")
    return str(record.get("family", "files")) if isinstance(record, dict) else "files", names


def split_files(folder: pathlib.Path) -> dict[str, pathlib.Path]:
    """Return the file of each split: train, dev (or validation, valid, val), test and test_*."""
    found: dict[str, pathlib.Path] = {}
    for path in sorted(folder.iterdir()):
        end = suffix(path)
        stem = path.name.removesuffix(end) if end else ""
        key = "dev" if stem in DEV_NAMES else stem
        if key in ("train", "dev", "test") or key.startswith("test_"):
            if key in found:
                raise ValueError(f"{folder} holds two files for {key} ({found[key].name}, {path.name}): keep one")
            found[key] = path
    return found


def load(path: pathlib.Path, columns: Mapping[str, str] | None, seed: int) -> Task:
    """Return the task in a folder of splits, or in one file split 70/10/20 by a seeded hash of its texts.

    Raises ValueError in one sentence for whatever is missing, unreadable or inconsistent.
    """
    if not path.exists():
        raise ValueError(f"there is no file or folder {path}: check the path")
    if path.is_file():
        parts: dict[str, list[Row]] = {"train": [], "dev": [], "test": []}
        for number, row in enumerate(read_rows(path, columns), start=1):
            row["place"] = f"row {number} of {path.name}"
            key = [fold(str(row.get(part))) for part in ("text_a", "text_b")]
            parts[drawn_split("\n".join([f"{seed}:{key[0]}", key[1]]))].append(row)
        _shared(path.name, parts)
        rows = {key: part for key, part in parts.items() if part or key != "dev"}
        return task_from_rows(path.name.removesuffix(str(suffix(path))), "files", rows, None, f"file {path.name}")
    files = split_files(path)
    if not files:
        raise ValueError(f"the folder {path} holds no train or test file ({', '.join(SUFFIXES)}): add them")
    family, classes = meta(path)
    ordered = sorted(files, key=lambda key: (("train", "dev", "test", key).index(key), key))
    rows_by_split = {key: read_rows(files[key], columns) for key in ordered}
    return task_from_rows(path.resolve().name, family, rows_by_split, classes, f"folder {path.resolve().name}")


def _shared(file: str, parts: Mapping[str, Sequence[Row]]) -> None:
    """Raise ValueError for a file whose rows share no classes, or whose split leaves test empty or a class out of train."""
    rows = [row for part in parts.values() for row in part]
    texts = len({(str(row.get("text_a")), str(row.get("text_b"))) for row in rows})
    way = "add different texts, or give a folder with a train and a test file"
    for key in ("train", "test"):
        if not parts[key]:
            raise ValueError(f"{file} was split by its texts, of which it has {texts}, and none fell into {key}: {way}")
    labels = {key: [str(row["label"]) for row in rows if row.get("label") not in (None, "")] for key, rows in parts.items()}
    counts = [label for some in labels.values() for label in some]
    kinds = dict.fromkeys(counts)
    if len(counts) > 3 and 2 * len(kinds) > len(counts):
        raise ValueError(
            f"{file} has {len(kinds)} different labels in {len(counts)} rows, expected classes that many rows share: "
            "name the column of the label, or put numbers into classes"
        )
    for label in kinds:
        if label not in labels["train"]:
            share = f"{counts.count(label)} of {len(counts)} rows"
            raise ValueError(
                f"class {label!r} has {share} of {file}, which was split by its texts, and none fell into train: {way}"
            )


def drawn_split(key: str) -> str:
    """Return train, dev or test by a hash of the key, so that texts that are equal without case and spacing never part."""
    place = hashed(key) / 2**64
    for name, share in SHARES[:-1]:
        if place < share:
            return name
        place -= share
    return SHARES[-1][0]
