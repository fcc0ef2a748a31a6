"""Cells are complete or absent, and the same bytes each time."""

import numpy as np
import pytest

from validations.store import Record, Store, canonical, content_key, write_atomic


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("disk")))
    with pytest.raises(OSError):
        write_atomic(tmp_path / "a.json", b"half")
    assert list(tmp_path.iterdir()) == []


def test_the_json_marks_a_cell_complete(tmp_path):
    store = Store(tmp_path)
    store.write("cells", "k", {"a": 1}, Record({"x": 1.5}, {"z": np.arange(3.0)}))
    first = {p.name: p.read_bytes() for p in (tmp_path / "cells").iterdir()}
    store.write("cells", "k", {"a": 1}, Record({"x": 1.5}, {"z": np.arange(3.0)}))
    assert first == {p.name: p.read_bytes() for p in (tmp_path / "cells").iterdir()}
    found = store.read("cells", "k")
    assert found.values == {"x": 1.5} and np.array_equal(found.arrays["z"], np.arange(3.0))
    (tmp_path / "cells" / "k.json").unlink()
    assert not store.has("cells", "k")


def test_keys_follow_the_settings():
    assert content_key({"a": 1, "b": 2}) == content_key({"b": 2, "a": 1}) != content_key({"a": 1, "b": 3})
    with pytest.raises(ValueError, match=r"nan at x\[1\].y"):
        canonical({"x": [0.0, {"y": float("nan")}]})
