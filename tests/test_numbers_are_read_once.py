"""The numbers of a store are read once and kept beside it; what is kept gives the same frames, and never stands in for a file."""

import json
import multiprocessing
import os
import shutil

import known_results
import many_cells
import numpy as np
import pandas as pd
import pytest

from validations import frame, index, results, sound
from validations.store import REMEDY, Record, Store

CELLS = 64


@pytest.fixture(scope="module")
def like(tmp_path_factory):
    """A finished study of three claims, four full-batch trainings, two practical ones and two cells that train nothing."""
    folder = known_results.write(tmp_path_factory.mktemp("like") / "r", claims=["control-direction", "practice-gain"])
    record, store, cells = results.read_verdicts(folder), Store(folder), []
    tasks = [task["digest"] for task in record["study"]["tasks"]]
    start = {"loss": 1.5, "accuracy": 0.5}
    predicted = {
        "tuned": {"reference_loss": 1.5, "norm": 0.25, "eta": 0.5, "words": "x"},
        "practice": {"start": start, "forecasts": {"optimum": start}, "numbers": 128, "norm": 1.5, "eta": 0.75},
        "bounds": {"bound": 2.5},
    }
    measured = {
        "tuned": {"loss": 0.5, "norm": 0.5, "converged": True, "steps": 7},
        "practice": {"loss": 0.25, "accuracy": 0.75, "rate": 0.01, "step": 64},
        "bounds": {"count": 3},
    }
    for number, kind in enumerate(["tuned", "tuned", "practice", "bounds"] * 2):
        key = f"{number:020}"
        settings = {"kind": kind, "name": "t", "digest": tasks[number % 3], "deltas": [["lora", {"kind": "LoRA"}]]} | {
            "seed": number
        }
        store.write("predicted", key, settings, Record({**predicted[kind], "number": number}, {"z": np.arange(99.0)}))
        store.write("cells", key, settings, Record({**measured[kind], "number": number}, {}))
        store.write("provenance", key, {}, Record({"cpu_seconds": 1.0 + number}, {}))
        cells.append(key)
    tables = {tuple([*name.split("."), "rows"][:2]): rows for name, rows in results.tables(folder, record).items()}
    results.write_verdicts(folder, {k: v for k, v in record.items() if k not in ("tied", "seal")}, tables=tables, cells=cells)
    return folder


@pytest.fixture(scope="module")
def made(like, tmp_path_factory):
    """A store of `CELLS` cells, without what readers leave beside it."""
    folder = tmp_path_factory.mktemp("many") / "s"
    assert many_cells.write(folder, like, CELLS) == CELLS
    return folder


@pytest.fixture
def store(made, tmp_path, monkeypatch):
    """A copy of the store that was not touched for a while."""
    for module in (sound, frame):
        monkeypatch.setattr(module, "FRESH", 0)
    return shutil.copytree(made, tmp_path / "s")


@pytest.fixture
def reads(monkeypatch):
    """The cells' files that are read for their numbers."""
    seen, plain = [], frame.unsealed
    monkeypatch.setattr(frame, "unsealed", lambda path, *of: seen.append(path) or plain(path, *of))
    return seen


def test_every_number_is_that_of_its_cell(store):
    for turn in range(2):
        found, lines = frame.measurements(store), []
        for phase, stage in (("predicted", "predicted"), ("cells", "measured")):
            for key in results.read_verdicts(store)["tied"]["cells"]:
                settings, values = Store(store).settings(key), Store(store).read(phase, key).values
                if settings["kind"] == "tuned":
                    lines += [(stage, settings["seed"], n, float(v)) for n, v in values.items() if not isinstance(v, str)]
        trained = found[found["claim"] == "training"]
        trained = trained[trained["stage"] != "counted"][["stage", "seed", "quantity", "value"]]
        assert sorted(lines) == sorted(trained.astype({"seed": int}).itertuples(index=False, name=None)), turn
    assert (store / index.NAME).is_file()


def test_what_is_kept_gives_the_same_frame(store, reads):
    first = frame.measurements(store)
    count, kept = len(reads), (store / index.NAME).read_bytes()
    assert count > CELLS
    pd.testing.assert_frame_equal(first, frame.measurements(store))
    assert len(reads) == count
    harmed = {
        "removed": None,
        "truncated": kept[:-100],
        "a bit flipped": kept[:-1000] + bytes([kept[-1000] ^ 1]) + kept[-999:],
        "made by other code": kept.replace(kept.split()[1], b"0" * 16, 1),
    }
    for number, (how, data) in enumerate(harmed.items(), 2):
        (store / index.NAME).unlink() if data is None else (store / index.NAME).write_bytes(data)
        pd.testing.assert_frame_equal(first, frame.measurements(store))
        assert len(reads) == number * count and (store / index.NAME).read_bytes() == kept, how
    pd.testing.assert_frame_equal(frame.trainings(store), frame.trainings(shutil.copytree(store, store.parent / "copy")))


def test_an_unchanged_store_asks_for_no_cell(store, monkeypatch):
    first = frame.measurements(store)
    for place, name in ((frame, "_trained"), (Store, "checksum")):
        monkeypatch.delattr(place, name)
    pd.testing.assert_frame_equal(first, frame.measurements(store))


def test_young_files_are_read_each_time(store, reads, monkeypatch):
    monkeypatch.setattr(frame, "FRESH", 3600 * 10**9)
    for _ in range(2):
        reads.clear()
        frame.measurements(store)
        assert sum(path.parent.name == "provenance" for path in reads) == CELLS * 3 // 4


def test_a_store_that_takes_nothing_works_without(store, monkeypatch):
    first = frame.measurements(store)
    (store / index.NAME).unlink()

    def refuse(path, data):
        raise OSError("read-only")

    monkeypatch.setattr(index, "write_atomic", refuse)
    pd.testing.assert_frame_equal(first, frame.measurements(store))
    assert not (store / index.NAME).exists()


def rewritten(path, data):
    """Write bytes in place, with the times that the file had."""
    before = path.stat()
    with path.open("r+b") as file:
        file.write(data)
        file.truncate()
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("phase", ["cells", "predicted", "provenance", "rows"])
@pytest.mark.parametrize("how", ["edited", "truncated", "a bit flipped", "same size"])
def test_a_changed_file_is_never_passed_over(store, phase, how):
    frame.measurements(store)
    path = sorted((store / phase).glob("*.json"))[0 if phase == "rows" else 2]
    if phase == "provenance":  # of a training: other cells' are not read
        path = next(p for p in path.parent.glob("*.json") if Store(store).settings(p.stem)["kind"] == "tuned")
    whole = path.read_bytes()
    digit = max(place for place, byte in enumerate(whole[:-90]) if chr(byte).isdigit())  # before the checksum
    other = whole[:digit] + (b"1" if whole[digit : digit + 1] != b"1" else b"2") + whole[digit + 1 :]
    changed = {"edited": other + b"\n", "truncated": whole[:-5], "same size": other}
    rewritten(path, changed.get(how, whole[:digit] + bytes([whole[digit] ^ 1]) + whole[digit + 1 :]))
    with pytest.raises(ValueError, match=REMEDY):
        frame.measurements(store)
    rewritten(path, whole)
    frame.measurements(store)


@pytest.mark.parametrize("phase", ["cells", "predicted", "provenance"])
def test_a_file_that_leads_nowhere_hides_no_change(store, phase):
    (store / phase / "0.json").symlink_to("nowhere")
    frame.measurements(store)
    keys = [k for k in results.read_verdicts(store)["tied"]["cells"] if Store(store).settings(k)["kind"] == "tuned"]
    for path in (store / phase / f"{key}.json" for key in (keys[0], keys[-1])):
        whole = path.read_bytes()
        rewritten(path, whole.replace(b"1", b"2", 1))
        with pytest.raises(ValueError, match=REMEDY):
            frame.measurements(store)
        rewritten(path, whole)
        frame.measurements(store)


def test_what_was_written_anew_is_read_anew_and_nothing_else(store, reads):
    frame.measurements(store)
    key = next(k for k in results.read_verdicts(store)["tied"]["cells"] if Store(store).settings(k)["kind"] == "tuned")
    Store(store).write("provenance", key, {}, Record({"cpu_seconds": 12345.0}, {}))
    reads.clear()
    again = frame.measurements(store)
    assert (again["value"] == 12345.0).sum() == 1 and {path.stem for path in reads} == {key}
    reads.clear()
    pd.testing.assert_frame_equal(again, frame.measurements(store))
    assert not reads


def _measured(folder, told):
    for _ in range(3):
        (folder / index.NAME).unlink(missing_ok=True)
        told.put(json.dumps(frame.measurements(folder)["value"].tolist()))


def test_readers_at_once_read_the_same(store):
    context = multiprocessing.get_context("fork")
    told = context.Queue()
    readers = [context.Process(target=_measured, args=(store, told)) for _ in range(3)]
    for reader in readers:
        reader.start()
    said = {told.get(timeout=60) for _ in range(9)}
    for reader in readers:
        reader.join()
    assert said == {json.dumps(frame.measurements(store)["value"].tolist())}
    assert not list(store.glob(".writing-*"))
