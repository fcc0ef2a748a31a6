"""Whatever a study file, a task file, a checkpoint or a results folder holds, it is read right or refused in one sentence.

Inputs are drawn by hypothesis from known seeds: COSTATE_FUZZ=2500 draws so many of each of four kinds (default: 40).
"""

import contextlib
import json
import os

import known_results
import pytest
import torch

from costate import main, measurements, read_verdicts
from tuning import checkpoints, tasks
from tuning.backbones import load as load_backbone
from tuning.preparation import prepare
from validations import plan, results, study
from validations.store import REMEDY, Record, Store, sealed

hypothesis = pytest.importorskip("hypothesis", reason="fuzzing needs the package hypothesis")
st = hypothesis.strategies
DRAWN = int(os.environ.get("COSTATE_FUZZ", "40"))
FUZZ = hypothesis.settings(
    max_examples=DRAWN,
    derandomize=True,  # the same inputs each time: the seed is the test's own source
    database=None,
    deadline=None,
    suppress_health_check=list(hypothesis.HealthCheck),
)
JUNK = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["", "nano", "../..", "/", "\0", "{text}", "<b>", "Full", "9" * 40, "é", "\u202e"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=4,
)


@contextlib.contextmanager
def one_sentence():
    """Let through what is read, and what is refused in one sentence of an error that the command line knows."""
    try:
        yield
    except (ValueError, OSError) as error:
        assert str(error).strip() and "Traceback" not in str(error) and len(str(error)) < 10_000


def places(value, at=()):
    """Every place in a record, the whole last."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, part in inner for place in places(part, (*at, key))] + [at]


def changed(data, record):
    """A record with junk in one place, or without it."""
    record = json.loads(json.dumps(record))
    at = data.draw(st.sampled_from(places(record)))
    if not at:
        return data.draw(JUNK)
    holder = record
    for key in at[:-1]:
        holder = holder[key]
    if data.draw(st.booleans()):
        holder[at[-1]] = data.draw(JUNK)
    else:
        del holder[at[-1]]
    return record


def damaged(data, raw: bytes) -> bytes:
    """Bytes with a piece cut out, doubled or replaced."""
    start = data.draw(st.integers(0, len(raw)))
    end = data.draw(st.integers(start, min(len(raw), start + 40)))
    piece = data.draw(
        st.sampled_from([b"", raw[start:end] * 2, b"\0", b'"', b"[" * 3000, b"\xff\xfe", b"NaN"]) | st.binary(max_size=12)
    )
    return raw[:start] + piece + raw[end:]


def toml(value) -> str:
    """A value in TOML; what TOML cannot hold becomes a text."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(toml, value))}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(str(k))} = {toml(v)}" for k, v in value.items()) + "}"
    return json.dumps(str(value))


QUICK = study.tomllib.loads((study.FOLDER / "quick.toml").read_text(encoding="utf-8"))
RAW = (study.FOLDER / "files.toml").read_bytes()


@hypothesis.given(st.data())
@FUZZ
def test_a_study_file(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "s.toml"
    if data.draw(st.booleans()):
        record = changed(data, QUICK)
        path.write_text(
            "\n".join(f"{json.dumps(k)} = {toml(v)}" for k, v in record.items()) if isinstance(record, dict) else toml(record),
            encoding="utf-8",
            errors="surrogatepass",
        )
    else:
        path.write_bytes(damaged(data, RAW))
    with one_sentence():
        made = study.read(str(path))
        for spec in made.deltas.values():
            plan.delta(spec)
        chosen = [plan.named(claim) for claim in made.claims]
        plan.announced(made, chosen)
        study.resampled(study.with_data(made, (str(path.parent),)))


TEXTS = [{"text_a": f"the film number {k} was {'good' if k % 2 else 'bad'}", "label": k % 2} for k in range(12)]


@hypothesis.given(st.data())
@FUZZ
def test_a_task_file(tmp_path_factory, data):
    folder = tmp_path_factory.getbasetemp() / "films"
    folder.mkdir(exist_ok=True)
    for path in folder.iterdir():
        path.unlink()
    end = data.draw(st.sampled_from([".jsonl", ".csv", ".jsonl.gz", ".parquet"]))
    rows = changed(data, TEXTS) if end == ".jsonl" else TEXTS
    if end == ".csv":
        lines = ["text,label", *(f"{row['text_a']},{row['label']}" for row in TEXTS)]
    else:
        lines = [json.dumps(row) for row in (rows if isinstance(rows, list) else [rows])]
    whole = "\n".join(lines).encode()
    (folder / f"train{end}").write_bytes(damaged(data, whole) if data.draw(st.booleans()) else whole)
    (folder / "test.jsonl").write_text("\n".join(map(json.dumps, TEXTS[:4])), encoding="utf-8")
    if data.draw(st.booleans()):
        (folder / "meta.json").write_bytes(json.dumps(changed(data, {"labels": ["bad", "good"], "family": "f"})).encode())
    with one_sentence():
        task = tasks.load(folder)
        tasks.describe(task)
        assert {len(split) for split in task.splits.values()} and all(isinstance(t, str) for t in task.splits["train"].text_a)
    with one_sentence():
        tasks.load(folder / f"train{end}")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A checkpoint of the smallest delta, its bytes, its backbone and its numbers."""
    backbone = load_backbone("nano")
    made = prepare(backbone, tasks.load("agreement"), seed=0, length=12, train=8, readout=20, test=8)
    subject = made.subject(plan.delta({"kind": "PortBias"}), 0)
    path = checkpoints.save(tmp_path_factory.mktemp("saved") / "d.safetensors", subject, subject.initial, {})
    return path.read_bytes(), backbone, subject


@hypothesis.given(st.data())
@FUZZ
def test_a_checkpoint(tmp_path_factory, saved, data):
    whole, backbone, subject = saved
    path = tmp_path_factory.getbasetemp() / "c.safetensors"
    size = int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8 : 8 + size])
    if data.draw(st.booleans()):
        record = changed(data, json.loads(header["__metadata__"]["record"]))
        header = {**header, "__metadata__": {"record": json.dumps(record)}}
    elif data.draw(st.booleans()):
        header = changed(data, header)
    text = json.dumps(header).encode()
    raw = len(text).to_bytes(8, "little") + text + whole[8 + size :]
    path.write_bytes(damaged(data, raw) if data.draw(st.booleans()) else raw)
    with one_sentence():
        found = checkpoints.load(path, backbone)
        assert set(found.params) == set(found.subject.initial)
        assert all(torch.isfinite(value).all() for value in found.params.values())


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A results folder of one claim with one cell."""
    folder = known_results.write(tmp_path_factory.mktemp("made") / "r", claims=["control-direction"])
    record = json.loads((folder / "verdicts.json").read_text(encoding="utf-8"))
    key = "a" * 20
    settings = {"kind": "tuned", "name": "t", "digest": "00b1d2c3", "deltas": [["lora", {"kind": "LoRA"}]], "seed": 0}
    for phase in ("predicted", "cells"):
        Store(folder).write(phase, key, settings, Record({"loss": 1.5}, {"z": torch.arange(3.0).numpy()}))
    tables = {("control-direction", "rows"): json.loads((folder / "rows" / "control-direction.json").read_text(encoding="utf-8"))}
    results.write_verdicts(folder, {k: v for k, v in record.items() if k not in ("tied", "seal")}, tables=tables, cells=[key])
    return folder


@hypothesis.given(data=st.data())
@FUZZ
def test_a_results_folder(published, capsys, data):
    files = sorted(path for path in published.rglob("*.*") if path.is_file() and not path.name.startswith("."))
    path = data.draw(st.sampled_from(files))
    whole = path.read_bytes()
    forged = path.suffix == ".json" and path.parent.name != "rows" and data.draw(st.booleans())
    try:
        before = measurements(published)
        if forged:  # by one who seals it as the lab does
            record = changed(data, json.loads(whole))
            names = ("verdicts",) if path.name == "verdicts.json" else (path.parent.name, path.stem)
            with contextlib.suppress(ValueError):
                record = sealed(record, *names) if isinstance(record, dict) else record
            path.write_text(json.dumps(record), encoding="utf-8")
        else:
            path.write_bytes(damaged(data, whole))
        for words in ([], ["--claim", "control-direction"], ["--rows"], ["--verify"], ["--json"]):
            code = main(["show", str(published), *words])
            said = capsys.readouterr()
            assert code in (0, 2) and (code == 0 or (said.err.startswith("error: ") and said.err.count("\n") == 1))
        with one_sentence():
            main(["report", str(published), "--table"])
        capsys.readouterr()
        if not forged:
            try:
                read_verdicts(published)
            except ValueError as error:
                assert REMEDY in str(error)
            else:
                assert measurements(published).equals(before)  # what is read after damage is what was there: no wrong number
    finally:
        path.write_bytes(whole)
