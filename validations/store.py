"""The record: one JSON and one npz per cell under a content key, written to a temporary name and renamed."""

import hashlib
import json
import os
import pathlib
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd


def canonical(record: Mapping) -> str:
    """Return the one JSON text of a record: sorted keys, no spaces, NaN refused."""
    return json.dumps(record, sort_keys=True, separators=(",", ":"), allow_nan=False)


def content_key(settings: Mapping) -> str:
    """Return the first 20 hex digits of the sha256 of the settings' canonical JSON."""
    return hashlib.sha256(canonical(settings).encode()).hexdigest()[:20]


def write_atomic(path: pathlib.Path, data: bytes) -> None:
    """Write `data` under `path` by renaming a complete temporary file, so that a killed process leaves all or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=".writing-", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        pathlib.Path(temporary).unlink(missing_ok=True)
        raise


def write_json(path: pathlib.Path, record: Mapping | list) -> None:
    """Write a record as readable JSON (sorted keys, two spaces), atomically."""
    write_atomic(path, (json.dumps(record, sort_keys=True, indent=1, allow_nan=False) + "\n").encode())


@dataclass(frozen=True)
class Measured:
    """What one phase of a cell left behind: plain numbers in `record`, arrays in `arrays`."""

    record: dict
    arrays: dict[str, np.ndarray]


@dataclass(frozen=True)
class Store:
    """A folder of cells. A cell has two phases, `predicted` and `measured`, and a provenance sidecar with its durations."""

    folder: pathlib.Path

    def path(self, phase: str, key: str, suffix: str) -> pathlib.Path:
        return self.folder / phase / f"{key}{suffix}"

    def has(self, phase: str, key: str) -> bool:
        """Return whether the phase is complete; its JSON is written last."""
        return self.path(phase, key, ".json").is_file()

    def write(self, phase: str, key: str, settings: Mapping, measured: Measured) -> None:
        """Write arrays first, then the JSON that marks the phase complete; both atomically and with the same bytes each time."""
        if measured.arrays:
            with tempfile.TemporaryFile() as buffer:
                np.savez(buffer, **{k: measured.arrays[k] for k in sorted(measured.arrays)})
                buffer.seek(0)
                write_atomic(self.path(phase, key, ".npz"), buffer.read())
        write_json(self.path(phase, key, ".json"), {"settings": settings, "record": measured.record})

    def read(self, phase: str, key: str) -> Measured:
        """Return one phase of a cell; raises ValueError naming the file when it is damaged."""
        path = self.path(phase, key, ".json")
        try:
            record = json.loads(path.read_text())["record"]
            arrays_path = self.path(phase, key, ".npz")
            arrays = dict(np.load(arrays_path)) if arrays_path.is_file() else {}
        except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise ValueError(f"expected a complete cell in {path}, got {type(error).__name__}: delete it and run again") from None
        return Measured(record, arrays)


def read_verdicts(folder: str | pathlib.Path) -> dict:
    """Return the verdicts of a study's results folder; raises ValueError when the folder holds none."""
    path = pathlib.Path(folder) / "verdicts.json"
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise ValueError(f"expected a results folder with verdicts.json, got {folder}: run `make validate` first") from None
    except json.JSONDecodeError:
        raise ValueError(f"{path} is not valid JSON: delete it and run `make validate` again") from None


def rows(folder: str | pathlib.Path, claim: str, part: str = "rows") -> pd.DataFrame:
    """Return one claim's evidence as a tidy frame; part "rows" is the tested table, other parts feed its figure."""
    name = claim if part == "rows" else f"{claim}.{part}"
    path = pathlib.Path(folder) / "rows" / f"{name}.json"
    if not path.is_file():
        known = sorted(p.stem for p in path.parent.glob("*.json"))
        raise ValueError(f"expected one of {', '.join(known) or 'no table yet'}, got {name!r}")
    return pd.DataFrame(json.loads(path.read_text()))


def load(folder: str | pathlib.Path = "build/quick") -> pd.DataFrame:
    """Return every row of every claim of a study as one tidy frame (columns claim, task, delta, seed, quantity, value)."""
    read_verdicts(folder)
    frames = []
    for path in sorted((pathlib.Path(folder) / "rows").glob("*.json")):
        if "." in path.stem:
            continue
        frame = pd.DataFrame(json.loads(path.read_text()))
        index = [c for c in ("task", "delta", "seed", "port") if c in frame]
        numbers = [c for c in frame.columns if c not in index and pd.api.types.is_numeric_dtype(frame[c])]
        frames.append(frame.melt(index, numbers, "quantity", "value").assign(claim=path.stem))
    tidy = pd.concat(frames, ignore_index=True)
    return tidy[["claim", *[c for c in ("task", "delta", "seed", "port") if c in tidy], "quantity", "value"]]
