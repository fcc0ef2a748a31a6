"""Whatever is changed in a results folder by hand or by the disk is refused by readers and made anew by the next run."""

import json
import shutil

import known_results
import numpy as np
import pytest

from costate import main
from validations import measurements, read_verdicts, results, rows
from validations.engine import Job
from validations.store import Record, Store

KEYS = ("a" * 20, "b" * 20)
JOBS = [Job(key, f"tuned     {key[0]}", 1.0, {}) for key in KEYS]


def settings(key):
    return {"kind": "tuned", "name": "t", "digest": "d", "deltas": [["lora", {"kind": "LoRA"}]], "seed": KEYS.index(key)}


def measured(x):
    return Record({"cosine": 0.25 + x, "list": [1.5, 2], "word": "yes"}, {"z": np.arange(9.0) + x})


def fill(store, made):
    """Make what is missing, as a run does, and note which phases were made."""
    for key in KEYS:
        for phase in ("predicted", "cells"):
            if not store.has(phase, key):
                store.write(phase, key, settings(key), measured(float(KEYS.index(key)) + (phase == "cells") / 2))
                made.append((phase, key[0]))
        if not store.has("provenance", key):
            store.write("provenance", key, {}, Record({"cpu_seconds": 1.0}, {}))


@pytest.fixture
def folder(tmp_path):
    """Two finished cells, published."""
    fill(Store(tmp_path), [])
    publish(tmp_path)
    return tmp_path


def publish(folder):
    claim = {"id": "c", "criteria": [], "verdict": "undecided", "title": "t", "why": "too few"}
    record = {"inputs": "i", "claims": [claim], "study": {"name": "s", "deltas": [], "tasks": [{"name": "t", "digest": "d"}]}}
    table = [{"task": "t", "seed": 0, "delta": "lora", "x": 1.0}]
    return results.write_verdicts(folder, record, tables={("c", "rows"): table, ("c", "part"): table}, cells=KEYS)


def text(change):
    return lambda path: path.write_text(change(path.read_text(encoding="utf-8")), encoding="utf-8")


def record(change):
    """Change a cell's record as an editor would, in words that are valid JSON."""

    def edit(path):
        kept = json.loads(path.read_text(encoding="utf-8"))
        change(kept)
        path.write_text(json.dumps(kept), encoding="utf-8")

    return edit


DAMAGE = {
    "a digit": (".json", text(lambda t: t.replace("1.5", "1.6"))),
    "an impossible cosine": (".json", record(lambda k: k["record"].update(cosine=7.0))),
    "words for a number": (".json", record(lambda k: k["record"].update(cosine="0.25"))),
    "a missing number": (".json", record(lambda k: k["record"].pop("cosine"))),
    "no record": (".json", record(lambda k: k.pop("record"))),
    "a null record": (".json", record(lambda k: k.update(record=None))),
    "other settings": (".json", record(lambda k: k["settings"].update(seed=9))),
    "a number that is none": (".json", record(lambda k: k["record"].update(cosine=float("nan")))),
    "an infinite number": (".json", text(lambda t: t.replace("1.5", "1e999"))),
    "no checksum": (".json", record(lambda k: k.pop("seal"))),
    "a list": (".json", text(lambda t: "[1, 2]")),
    "a word": (".json", text(lambda t: '"done"')),
    "deep nesting": (".json", text(lambda t: "[" * 100_000 + "]" * 100_000)),
    "deep tables": (".json", text(lambda t: '{"a":' * 900 + "1" + "}" * 900)),
    "half a file": (".json", text(lambda t: t[: len(t) // 2])),
    "an empty file": (".json", text(lambda t: "")),
    "no text": (".json", lambda p: p.write_bytes(b"\xff\xfe\x00{")),
    "half an archive": (".npz", lambda p: p.write_bytes(p.read_bytes()[:100])),
    "an empty archive": (".npz", lambda p: p.write_bytes(b"")),
    "a bit of an archive": (".npz", lambda p: p.write_bytes(p.read_bytes()[:200] + b"?" + p.read_bytes()[201:])),
    "no archive": (".npz", lambda p: p.unlink()),
    "another cell's archive": (".npz", lambda p: shutil.copy(p.with_name(f"{KEYS[1]}.npz"), p)),
    "another cell's file": (".json", lambda p: shutil.copy(p.with_name(f"{KEYS[1]}.json"), p)),
    "the other phase's file": (
        ".json",
        lambda p: shutil.copy(p.parents[1] / {"cells": "predicted", "predicted": "cells"}[p.parent.name] / p.name, p),
    ),
}


@pytest.mark.parametrize("what", DAMAGE)
@pytest.mark.parametrize("phase", ["cells", "predicted"])
def test_a_damaged_cell_is_refused_by_name_and_made_anew(folder, phase, what):
    store, (suffix, damage) = Store(folder), DAMAGE[what]
    whole = {p: p.read_bytes() for p in folder.rglob("*.*")}
    path = store.path(phase, KEYS[0], suffix)
    damage(path)
    readers = (lambda: read_verdicts(folder), lambda: measurements(folder), lambda: rows(folder, "c"))
    for reader in (lambda: store.read(phase, KEYS[0]), *readers):
        with pytest.raises(ValueError) as said:
            reader()
        assert str(path.with_suffix("")) in str(said.value) and "run the study again" in str(said.value)
        assert "\n" not in str(said.value)
    assert results.standing(folder, "i") is None
    lines, made = [], []
    store.mend(JOBS, lines.append)
    fill(store, made)
    # a damaged prediction takes its measurement with it; a damaged measurement keeps the prediction that came before it
    assert made == [(p, "a") for p in (("predicted", "cells") if phase == "predicted" else ("cells",))]
    assert len(lines) == 1 and str(path.with_suffix("")) in lines[0]
    assert {p: p.read_bytes() for p in folder.rglob("*.*")} == whole
    assert results.standing(folder, "i") == read_verdicts(folder)


def test_every_changed_digit_of_a_cell_is_seen(folder):
    store = Store(folder)
    path = store.path("cells", KEYS[0], ".json")
    whole = path.read_text(encoding="utf-8")
    places = [i for i, letter in enumerate(whole) if letter.isdigit()]
    assert len(places) > 100
    for place in places:
        path.write_text(whole[:place] + str((int(whole[place]) + 1) % 10) + whole[place + 1 :], encoding="utf-8")
        with pytest.raises(ValueError, match="checksum|no valid JSON"):
            store.read("cells", KEYS[0])


def test_a_prediction_that_was_exchanged_or_removed_after_training_is_never_used(folder):
    store = Store(folder)
    for change in (
        lambda: store.write("predicted", KEYS[0], settings(KEYS[0]), measured(4.0)),
        lambda: store.path("predicted", KEYS[0], ".json").unlink(),
    ):
        change()
        with pytest.raises(ValueError, match="predicted"):
            read_verdicts(folder)
        made = []
        store.mend(JOBS, lambda line: None)
        fill(store, made)
        assert made == [("predicted", "a"), ("cells", "a")]


def test_a_run_that_was_killed_goes_on_from_its_prediction(folder):
    store, lines, made = Store(folder), [], []
    for suffix in (".json", ".npz"):
        store.path("cells", KEYS[0], suffix).unlink()
    store.mend(JOBS, lines.append)
    fill(store, made)
    assert made == [("cells", "a")] and not lines


def test_a_damaged_time_is_left_out_and_said(folder):
    store, lines = Store(folder), []
    text(lambda t: t.replace("1.0", "9.0"))(store.path("provenance", KEYS[0], ".json"))
    store.mend(JOBS, lines.append)
    assert len(lines) == 1 and "no longer counted" in lines[0] and not store.has("provenance", KEYS[0])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), np.float32(1.0), {1, 2}])
def test_a_value_that_cannot_be_kept_is_named_with_its_cell(tmp_path, value):
    store = Store(tmp_path)
    with pytest.raises(ValueError, match=r"record\.deep\[1\]\.x, in the cell tuned, t, lora, seed 0"):
        store.write("cells", KEYS[0], settings(KEYS[0]), Record({"deep": [1, {"x": value}]}, {}))
    if isinstance(value, float):
        with pytest.raises(ValueError, match=r"arrays\.z\[1, 0\], in the cell tuned, t, lora, seed 0"):
            store.write("cells", KEYS[0], settings(KEYS[0]), Record({}, {"z": np.array([[0.0], [value]])}))
    assert not list(tmp_path.rglob("*.*"))


EDITS = {
    "a word": ("verdicts.json", text(lambda t: t.replace("undecided", "supported"))),
    "a key": ("verdicts.json", text(lambda t: t.replace('"why"', '"because"'))),
    "half a file": ("verdicts.json", text(lambda t: t[:100])),
    "a list": ("verdicts.json", text(lambda t: "[]")),
    "deep nesting": ("verdicts.json", text(lambda t: "[" * 100_000)),
    "no checksum": ("verdicts.json", record(lambda k: k.pop("seal"))),
    "a number of a row": ("rows/c.json", text(lambda t: t.replace("1.0", "2.0"))),
    "a number of a figure": ("rows/c.part.json", text(lambda t: t.replace("1.0", "2.0"))),
    "half the rows": ("rows/c.json", text(lambda t: t[:20])),
    "no rows": ("rows/c.json", lambda p: p.unlink()),
    "a word for the rows": ("rows/c.json", text(lambda t: '"x"')),
}


@pytest.mark.parametrize("what", EDITS)
def test_edited_verdicts_and_rows_are_refused_by_every_reader_and_made_anew(folder, tmp_path, capsys, what):
    name, edit = EDITS[what]
    before = (folder / name).read_bytes()
    edit(folder / name)
    for words in (
        ["show", str(folder)],
        ["show", str(folder), "--rows"],
        ["report", str(folder), "--table"],
        ["report", str(folder), "--out", str(tmp_path / "r.pdf")],
        ["report", str(folder), "--page", str(tmp_path / "page.md")],
        ["report", str(folder), "--figures", str(tmp_path / "figures")],
    ):
        assert main(words) == 2
        said = capsys.readouterr()
        assert said.out == "" and said.err.count("\n") == 1 and name in said.err and "run the study again" in said.err
    for reader in (lambda: measurements(folder), lambda: rows(folder, "c"), lambda: read_verdicts(folder)):
        with pytest.raises(ValueError, match="run the study again"):
            reader()
    assert results.standing(folder, "i") is None
    lines = []
    results.mend(folder, lines.append)
    assert len(lines) == 1 and name in lines[0]
    publish(folder)
    assert (folder / name).read_bytes() == before and results.standing(folder, "i")


def test_tables_of_an_earlier_study_are_no_part_of_this_one(folder):
    (folder / "rows" / "old.json").write_text('[{"task": "t", "x": 1.0}]', encoding="utf-8")
    assert set(measurements(folder)["claim"]) == {"c", "training"}
    with pytest.raises(ValueError, match="expected one of c, c.part, got 'old'"):
        rows(folder, "old")
    with pytest.raises(ValueError, match="run `make validate` first"):
        read_verdicts(folder / "nowhere")


def test_an_unchanged_folder_stands(tmp_path, capsys):
    made = known_results.write(tmp_path / "made", claims=["control-direction"])
    assert results.standing(made, "made") is None and read_verdicts(made)["claims"]
    assert main(["show", str(made)]) == 0 and "control" in capsys.readouterr().out
    assert main(["show", str(made), "--verify"]) == 0 and "every checksum fits" in capsys.readouterr().out


@pytest.mark.parametrize("carried", ["this", "another", "none"])
def test_a_report_must_carry_the_checksum_of_its_verdicts(tmp_path, capsys, carried):
    made = known_results.write(tmp_path / "made", claims=["control-direction"])
    seal = {"this": read_verdicts(made)["seal"], "another": "0" * 64, "none": ""}[carried]
    (made / "report.pdf").write_bytes(f"%PDF <pdf:Keywords>control, verdicts {seal}</pdf:Keywords>".encode())
    assert main(["show", str(made), "--verify"]) == (0 if carried == "this" else 2)
    said = capsys.readouterr()
    assert ("carries these verdicts" in said.out) == (carried == "this") and said.err.count("\n") == (carried != "this")


def test_a_damaged_cell_of_no_verdict_is_named(folder, capsys):
    Store(folder).write("cells", "c" * 20, settings(KEYS[0]), measured(1.0))
    text(lambda t: t.replace("1.5", "1.6"))(Store(folder).path("cells", "c" * 20, ".json"))
    assert main(["show", str(folder), "--verify"]) == 2 and "no verdict rests on it" in capsys.readouterr().err
