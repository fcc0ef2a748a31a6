"""Cells are complete or absent, the same bytes each time, and the reading side says what is wrong in one sentence."""

import numpy as np
import pytest

from validations import load, read_verdicts, rows
from validations.store import Measured, Store, canonical, content_key, write_atomic, write_json


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("disk")))
    with pytest.raises(OSError):
        write_atomic(tmp_path / "a.json", b"half")
    assert list(tmp_path.iterdir()) == []


def test_the_json_marks_a_cell_complete(tmp_path):
    store = Store(tmp_path)
    store.write("cells", "k", {"a": 1}, Measured({"x": 1.5}, {"z": np.arange(3.0)}))
    first = {p.name: p.read_bytes() for p in (tmp_path / "cells").iterdir()}
    store.write("cells", "k", {"a": 1}, Measured({"x": 1.5}, {"z": np.arange(3.0)}))
    assert first == {p.name: p.read_bytes() for p in (tmp_path / "cells").iterdir()}
    found = store.read("cells", "k")
    assert found.record == {"x": 1.5} and np.array_equal(found.arrays["z"], np.arange(3.0))
    (tmp_path / "cells" / "k.json").unlink()
    assert not store.has("cells", "k")


def test_a_damaged_cell_is_named(tmp_path):
    store = Store(tmp_path)
    store.write("cells", "k", {}, Measured({"x": 1}, {"z": np.arange(99.0)}))
    path = tmp_path / "cells" / "k.npz"
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(ValueError, match="delete it and run again"):
        store.read("cells", "k")


def test_keys_follow_the_settings():
    assert content_key({"a": 1, "b": 2}) == content_key({"b": 2, "a": 1}) != content_key({"a": 1, "b": 3})
    with pytest.raises(ValueError):
        canonical({"x": float("nan")})


def test_the_tidy_frame(tmp_path):
    write_json(tmp_path / "verdicts.json", {"claims": []})
    write_json(tmp_path / "rows" / "c.json", [{"task": "t", "seed": 0, "delta": "d", "x": 1.0, "y": 2.0}])
    write_json(tmp_path / "rows" / "c.part.json", [{"task": "t", "seed": 0, "z": 1.0}])
    frame = load(tmp_path)
    assert list(frame["quantity"]) == ["x", "y"] and list(frame["value"]) == [1.0, 2.0]
    assert list(rows(tmp_path, "c", "part")["z"]) == [1.0]
    with pytest.raises(ValueError, match="expected one of"):
        rows(tmp_path, "unknown")
    with pytest.raises(ValueError, match="run `make validate` first"):
        read_verdicts(tmp_path / "nowhere")
