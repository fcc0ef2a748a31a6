"""The record: one JSON and one npz per cell under a content key, with checksums, written to a temporary name and renamed."""

import contextlib
import hashlib
import io
import json
import math
import os
import pathlib
import platform
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .engine import Job

WRITING = ".writing-"
PHASES = ("predicted", "provenance", "cells")
PATIENCE = 60.0  # seconds until a file that another machine wrote must be seen
REMEDY = "run the study again into this folder: it makes anew what is damaged and keeps the rest"


def canonical(record: Any) -> str:
    """Return the one JSON text of a record: sorted keys, no spaces; raises ValueError naming a value that JSON cannot hold."""
    try:
        return json.dumps(record, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (ValueError, TypeError, RecursionError):
        raise ValueError(f"expected finite numbers, words, lists and tables, got {_unfit(record)}") from None


def _unfit(record: Any) -> str:
    """Return the first value that JSON cannot hold, with its place."""
    waiting, seen = [("", record)], set()
    while waiting:
        place, value = waiting.pop()
        inner = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list | tuple) else None
        if inner is not None and id(value) not in seen:
            seen.add(id(value))
            waiting += [(f"{place}.{k}" if isinstance(k, str) else f"{place}[{k}]", v) for k, v in inner][::-1]
        elif isinstance(value, float) and math.isfinite(value):
            continue
        elif inner is None and (isinstance(value, float) or not isinstance(value, str | int | None)):
            return f"{value!r} at {place.lstrip('.') or 'the top'}"
    return "a table that is nested too deeply or in itself"


def content_key(settings: Mapping) -> str:
    """Return the first 20 hex digits of the sha256 of the settings' canonical JSON."""
    return digest(canonical(settings).encode())[:20]


def digest(data: bytes) -> str:
    """Return the sha256 of some bytes in hex digits."""
    return hashlib.sha256(data).hexdigest()


def writing(name: str = "") -> str:
    """Return a file name that says which process of which machine made it, for files that go with the process."""
    return f"{WRITING}{os.getpid()}-{platform.node()}-{name}"


def write_atomic(path: pathlib.Path, data: bytes) -> None:
    """Write `data` under `path` by renaming a complete temporary file, so that a killed process leaves all or nothing.

    The temporary file's name says which process of which machine is writing. Raises OSError saying what to do when the disk does
    not take the file.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=writing(), dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException as error:
        if temporary is not None:
            pathlib.Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError):
            reason = error.strerror or str(error)
            raise OSError(f"{path} cannot be written ({reason}): free space or allow it; what was finished is kept") from None
        raise


def sweep(folder: pathlib.Path) -> None:
    """Remove what processes that are gone have left half-written; another machine's goes after a day, by the disk's own clock."""
    for stale in folder.rglob(f"{WRITING}*"):
        number, _, machine = stale.name.removeprefix(WRITING).partition("-")
        with contextlib.suppress(OSError):
            if machine.startswith(f"{platform.node()}-") and number.isdigit():
                gone = not _alive(int(number))
            else:
                gone = folder.stat().st_mtime - stale.stat().st_mtime > 86400
            if gone:
                stale.unlink(missing_ok=True)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def keep(folder: pathlib.Path, files: Mapping[str, bytes]) -> None:
    """Write the files of a cell that was measured elsewhere: arrays before the JSON that marks their phase complete."""
    for path in sorted(files, key=lambda path: (PHASES.index(path.partition("/")[0]), path.endswith(".json"))):
        write_atomic(folder / path, files[path])


def write_json(path: pathlib.Path, record: Mapping | list) -> None:
    """Write a record as readable JSON, sorted keys, atomically; raises ValueError naming a value that is not finite."""
    try:
        text = json.dumps(record, sort_keys=True, indent=1, allow_nan=False)
    except (ValueError, TypeError, RecursionError):
        raise ValueError(f"expected finite numbers, words, lists and tables in {path}, got {_unfit(record)}") from None
    write_atomic(path, (text + "\n").encode())


@contextlib.contextmanager
def _readable(path: pathlib.Path) -> Iterator[None]:
    """Raise ValueError inside where a file is missing or cannot be read."""
    try:
        yield
    except FileNotFoundError:
        raise ValueError(f"{path} is missing") from None
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror})") from None


def read_bytes(path: pathlib.Path) -> bytes:
    """Return the bytes of a file; raises ValueError naming one that is missing or cannot be read."""
    with _readable(path):
        return path.read_bytes()


def file_digest(path: pathlib.Path) -> str:
    """Return the sha256 of a file's bytes in hex digits without holding them; raises ValueError as `read_bytes` does."""
    with _readable(path), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_json(path: pathlib.Path) -> Any:
    """Return what a JSON file holds; raises ValueError naming a file that is missing, empty, no JSON or nested too deeply."""
    data = read_bytes(path)
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        raise ValueError(f"{path} is no valid JSON") from None


def sealed(record: Mapping, *of: str) -> dict:
    """Return a record with a checksum over its content and the names `of` that it goes by, so that neither changes unseen."""
    content = {k: v for k, v in record.items() if k != "seal"}
    return content | {"seal": digest(canonical([*of, content]).encode())}


def unsealed(path: pathlib.Path, *of: str) -> dict:
    """Return the record of a file that `sealed` made under these names; raises ValueError saying what is wrong with the file."""
    record = read_json(path)
    try:
        sound = isinstance(record, dict) and record == sealed(record, *of)
    except (ValueError, RecursionError):
        sound = False
    if not sound:
        raise ValueError(f"{path} does not fit its checksum (changed, damaged, another file's copy, or from an older version)")
    return record


@dataclass(frozen=True)
class Record:
    """What one phase of a cell left behind: plain values, and arrays by name."""

    values: dict
    arrays: dict[str, np.ndarray]


@dataclass(frozen=True)
class Store:
    """A folder of cells. A cell has two phases, `predicted` and `cells` (measured), and a `provenance` with its durations.

    Every phase's JSON holds a checksum over its phase, key, settings, record and arrays, and a measurement the checksum of the
    prediction that it was made against, so that a changed digit, a copied file and an exchanged prediction are all seen.
    """

    folder: pathlib.Path

    def path(self, phase: str, key: str, suffix: str) -> pathlib.Path:
        """Return the place of one file of a phase."""
        return self.folder / phase / f"{key}{suffix}"

    def has(self, phase: str, key: str) -> bool:
        """Return whether the phase is complete; its JSON is written last."""
        return self.path(phase, key, ".json").is_file()

    def write(self, phase: str, key: str, settings: Mapping, measured: Record) -> None:
        """Write arrays first, then the JSON that marks the phase complete; both atomically and with the same bytes each time.

        Raises ValueError naming the cell and the value when one is not finite; nothing is written then.
        """
        try:
            content = json.loads(canonical({"settings": settings, "record": measured.values}))
            packed = _packed(measured.arrays)
        except ValueError as error:
            raise ValueError(f"{error}, in {_named(settings)} ({phase}/{key}): it was not written") from None
        content["arrays"] = digest(packed) if packed else None
        content["after"] = self._prediction(key) if phase == "cells" else None
        if packed:
            write_atomic(self.path(phase, key, ".npz"), packed)
        write_json(self.path(phase, key, ".json"), sealed(content, phase, key))

    def read(self, phase: str, key: str) -> Record:
        """Return one phase of a cell; raises ValueError naming the file and the remedy when it is damaged."""
        try:
            kept = self._checked(phase, key)
            packed = self.path(phase, key, ".npz").read_bytes() if kept["arrays"] else b""
            return Record(kept["record"], dict(np.load(io.BytesIO(packed), allow_pickle=False)) if packed else {})
        except (ValueError, OSError, zipfile.BadZipFile) as error:
            raise ValueError(f"{error}: {REMEDY}") from None

    def files(self, key: str) -> dict[str, bytes]:
        """Return the files of a cell that are there, by their path in the folder."""
        paths = [self.path(phase, key, suffix) for phase in PHASES for suffix in (".json", ".npz")]
        return {str(path.relative_to(self.folder)): path.read_bytes() for path in paths if path.is_file()}

    def await_all(self, keys: Iterable[str], patience: float = PATIENCE) -> None:
        """Pause until cells that were measured are seen here: a shared disk shows other machines' files late.

        Raises ValueError naming the first that stays away.
        """
        until = time.monotonic() + patience
        for key in keys:
            while not self._seen(key):
                if time.monotonic() > until:
                    raise ValueError(
                        f"{self.path('cells', key, '.json')} was written but is not seen here after {patience:g} s: {REMEDY}"
                    )
                time.sleep(0.2)

    def _seen(self, key: str) -> bool:
        try:
            self.checksum(key)
        except ValueError:
            return False
        return True

    def settings(self, key: str) -> dict:
        """Return the settings of a finished cell; raises ValueError as `read` does."""
        try:
            return self._checked("cells", key)["settings"]
        except ValueError as error:
            raise ValueError(f"{error}: {REMEDY}") from None

    def checksum(self, key: str) -> str:
        """Return the checksum of a finished cell with its prediction; raises ValueError naming the file that is damaged."""
        kept = self._checked("cells", key)
        found = self._checked("predicted", key)["seal"] if kept["after"] or self.has("predicted", key) else None
        if kept["after"] != found:
            raise ValueError(f"{self.path('predicted', key, '.json')} is not the prediction that this cell was measured against")
        return kept["seal"]

    def mend(self, jobs: Iterable[Job], report: Callable[[str], None]) -> None:
        """Remove what is damaged of some cells, so that it is made anew, with one line of `report` for each.

        A damaged measurement goes alone. When a prediction is damaged or exchanged both phases go: a prediction is never made
        again beside a measurement that was already seen.
        """
        for key, label in ((job.key, " ".join(job.label.split())) for job in jobs):
            again = ("cells", "predicted")
            try:
                if self.has("predicted", key):
                    self._checked("predicted", key)
                    again = ("cells",)
                if self.has("cells", key):
                    self._checked("cells", key)
                    again = ("cells", "predicted")
                    self.checksum(key)
            except ValueError as error:
                report(f"{error}: {label} is {'measured again' if again == ('cells',) else 'run again from the start'}")
                for phase in again:
                    self._remove(phase, key)
            try:
                if self.has("provenance", key):
                    self._checked("provenance", key)
            except ValueError as error:
                report(f"{error}: the time of {label} is no longer counted")
                self._remove("provenance", key)

    def _checked(self, phase: str, key: str) -> dict:
        """Return a phase's JSON when it and its arrays fit their checksums; raises ValueError that names the file."""
        kept = unsealed(self.path(phase, key, ".json"), phase, key)
        shape = {"settings": dict, "record": dict, "arrays": str | None, "after": str | None}
        if not all(name in kept and isinstance(kept[name], kind) for name, kind in shape.items()):
            raise ValueError(f"{self.path(phase, key, '.json')} is no record of a cell, though its checksum fits")
        packed = self.path(phase, key, ".npz")
        if kept["arrays"] and not packed.is_file():
            raise ValueError(f"{packed} is missing")
        if kept["arrays"] and digest(packed.read_bytes()) != kept["arrays"]:
            raise ValueError(f"{packed} does not fit its checksum (changed, truncated, or another file's copy)")
        return kept

    def _prediction(self, key: str) -> str | None:
        return self._checked("predicted", key)["seal"] if self.has("predicted", key) else None

    def _remove(self, phase: str, key: str) -> None:
        for suffix in (".json", ".npz"):
            self.path(phase, key, suffix).unlink(missing_ok=True)


def _packed(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Return arrays as the bytes of an npz, none without arrays; raises ValueError naming an array that is not finite."""
    for name, array in arrays.items():
        numbers = np.asarray(array)
        if numbers.dtype.kind in "fc" and not np.isfinite(numbers).all():
            first = np.argwhere(~np.isfinite(numbers))[0].tolist()
            raise ValueError(f"expected finite numbers, got {numbers[tuple(first)]} at arrays.{name}{first}")
    if not arrays:
        return b""
    buffer = io.BytesIO()
    np.savez(buffer, **{k: arrays[k] for k in sorted(arrays)})
    return buffer.getvalue()


def _named(settings: Mapping) -> str:
    """Return a cell in words, from its settings."""
    deltas = "+".join(str(name) for name, *_ in settings.get("deltas", ()))
    words = [settings.get("kind", "a cell"), settings.get("which", ""), settings.get("name", ""), deltas]
    seed = [f"seed {settings['seed']}"] if "seed" in settings else []
    return "the cell " + ", ".join([str(w) for w in words if w] + seed)
