"""No fault of processes, disks, clocks or neighbours changes a result: cells are tried again, or named in one sentence."""

import ast
import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from costate import main
from validations import pool, run
from validations.claims import EXPERIMENTS
from validations.engine import Done, Engine, Job
from validations.engine import run as run_cells
from validations.sources import digest
from validations.store import Record, Store, keep, sweep, write_atomic, writing
from validations.verify import verify

ROOT = pathlib.Path(__file__).parents[1]
CHEAP = pathlib.Path(__file__).with_name("cheap.toml").read_text(encoding="utf-8")


def trouble(job: Job) -> Done:
    """A cell that does what its name says and leaves its process's number."""
    folder, what = pathlib.Path(job.settings["folder"]), job.label
    with (folder / what).open("a", encoding="utf-8") as file:
        file.write(f"{os.getpid()}\n")
    tries = len((folder / what).read_text(encoding="utf-8").split())
    if what == "fatal" or (what == "killed once" and tries == 1):
        os.kill(os.getpid(), signal.SIGKILL)
    while what == "endless":
        pass
    if what == "wrong":
        raise ValueError("expected a number, got none")
    return Done(0.1)


def jobs(folder, *names):
    return [Job(name, name, 1.0, {"folder": str(folder)}) for name in names]


def tries(folder, name):
    return (folder / name).read_text(encoding="utf-8").split()


@pytest.mark.slow
def test_a_killed_process_takes_one_cell_with_it_and_an_endless_one_is_given_up(tmp_path):
    names = ("fatal", "killed once", "endless", "a", "b")
    lines = []
    with pytest.raises(ValueError) as said:
        run_cells(jobs(tmp_path, *names), trouble, Engine(processes=2, limit=1.0), report=lines.append)
    words = str(said.value)
    assert words.startswith("2 of 5 cells were lost (") and "\n" not in words
    assert "fatal lost its process 3 times" in words and "endless did not end within 1 s" in words
    assert {name: len(tries(tmp_path, name)) for name in names} == {"fatal": 3, "killed once": 2, "endless": 1, "a": 1, "b": 1}
    assert len(lines) == 5


@pytest.mark.slow
def test_a_process_that_has_grown_is_replaced(tmp_path, monkeypatch):
    pages, real = {"SC_PHYS_PAGES": 16}, os.sysconf
    monkeypatch.setattr(pool.os, "sysconf", lambda name: pages.get(name) or real(name))
    run_cells(jobs(tmp_path, "a", "b", "c"), trouble, Engine(processes=2), report=lambda line: None)
    assert len({tries(tmp_path, name)[0] for name in "abc"}) == 3


def test_a_cell_in_place_is_given_up_at_its_limit_and_the_others_go_on(tmp_path):
    with pytest.raises(ValueError, match=r"1 of 3 cells were lost \(endless did not end within 0.2 s, its limit\)"):
        run_cells(jobs(tmp_path, "a", "endless", "b"), trouble, Engine(limit=0.2), report=lambda line: None)
    assert tries(tmp_path, "b") and signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_a_cell_that_is_wrong_stops_the_run_with_its_sentence(tmp_path):
    with pytest.raises(ValueError, match="expected a number, got none"):
        run_cells(jobs(tmp_path, "wrong", "a"), trouble, Engine(), report=lambda line: None)
    assert not (tmp_path / "a").exists()


FULL = """
import pathlib, resource, sys
from validations.store import write_atomic
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
write_atomic(pathlib.Path(sys.argv[1]) / "small", b"x" * 900)
try:
    write_atomic(pathlib.Path(sys.argv[1]) / "large", b"x" * 2000)
except OSError as error:
    print(error)
"""


def test_a_disk_that_is_full_leaves_no_half_and_is_told(tmp_path):
    said = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path)], cwd=ROOT, capture_output=True, encoding="utf-8", check=True
    )
    assert f"{tmp_path / 'large'} cannot be written (" in said.stdout and "free space" in said.stdout
    assert said.stdout.count("\n") == 1 and [path.name for path in tmp_path.iterdir()] == ["small"]


DISK = """
import json, pathlib, sys
import costate
from validations import publish, store, verify
publish.DERIVATIONS = []  # half of the time
study, disk = sys.argv[1], pathlib.Path(sys.argv[2])
out, ballast, found = disk / "out", disk / "ballast", {}
validate = ["validate", "--study", study, "--out", str(out), "--processes", "1"]

def turn(name, room):
    ballast.write_bytes(b"")
    if room is not None:
        with ballast.open("ab", buffering=0) as file:
            try:
                while file.write(bytes(4096)) == 4096:
                    pass
            except OSError:
                file.truncate(max(0, file.tell() // 4096 * 4096 - room))
    code = costate.main(validate)
    records = [(phase, path.stem) for phase in store.PHASES for path in (out / phase).glob("*.json")]
    for record in records:
        store.Store(out).read(*record)
    found[name] = [code, len(records), len(list(disk.rglob(f"{store.WRITING}*"))), (out / "verdicts.json").is_file()]

turn("full", 0)
turn("nearly full", 96 << 10)
turn("with room", None)
found["verified"] = verify.verify(out)["cells"]
print(json.dumps(found))
"""


@pytest.mark.slow
def test_a_study_on_a_disk_that_is_really_full_stops_in_a_sentence_and_goes_on_with_room(tmp_path):
    (disk := tmp_path / "disk").mkdir()
    inside = ["unshare", "-rm", "sh", "-c", 'mount -t tmpfs -o size=4m tmpfs "$0" && exec "$@"', str(disk)]
    try:
        refused = subprocess.run([*inside, "true"], capture_output=True, encoding="utf-8").stderr
    except FileNotFoundError as error:
        refused = str(error)
    if refused:
        pytest.skip(f"a small disk cannot be mounted here: {refused.strip()}")
    study = CHEAP.replace("seeds = [0, 1, 2, 3, 4, 5, 6, 7]", "seeds = [0]").replace(', "tags", "reflexives"', "")
    (tmp_path / "cheap.toml").write_text(study, encoding="utf-8")
    words = [sys.executable, "-c", DISK, str(tmp_path / "cheap.toml"), str(disk)]
    done = subprocess.run([*inside, *words], cwd=ROOT, capture_output=True, encoding="utf-8", check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 2 and all("No space left on device" in line and "free space" in line for line in errors)
    assert "Traceback" not in done.stderr
    cells = 5
    assert found["full"] == [2, 0, 0, False]
    code, records, half, decided = found["nearly full"]
    assert code == 2 and 0 < records < 3 * cells and not half and not decided
    assert found["with room"][0] == 0 and found["with room"][2:] == [0, True] and found["verified"] == cells


def test_a_store_that_takes_nothing_is_refused_before_the_first_cell(tmp_path, capsys, monkeypatch):
    def read_only(*_, **__):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("validations.store.tempfile.mkstemp", read_only)
    monkeypatch.setattr(run.plan, "check", lambda *_: None)
    monkeypatch.setattr(run.plan, "jobs", lambda *_: [("plants", Job("k", "never run", 1.0, {}))])
    (tmp_path / "cheap.toml").write_text(CHEAP, encoding="utf-8")
    assert main(["validate", "--study", str(tmp_path / "cheap.toml"), "--out", str(tmp_path / "out"), "--processes", "1"]) == 2
    said = capsys.readouterr().err
    assert "Read-only file system" in said and said.count("\n") == 1


def test_only_what_nobody_writes_any_more_is_swept(tmp_path):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    other = [writing("x").replace(os.uname().nodename, "elsewhere") + age for age in ("old", "new")]
    names = [writing("mine"), writing("dead").replace(str(os.getpid()), str(gone.pid), 1), *other]
    for name in names:
        (tmp_path / "cells").mkdir(exist_ok=True)
        (tmp_path / "cells" / name).write_bytes(b"half")
    os.utime(tmp_path / "cells" / other[0], (time.time() - 1e6,) * 2)
    sweep(tmp_path)
    assert {path.name for path in (tmp_path / "cells").iterdir()} == {names[0], other[1]}


def test_files_that_a_shared_disk_shows_late_are_awaited(tmp_path):
    here, there = Store(tmp_path / "here"), Store(tmp_path / "there")
    there.write("predicted", "k", {}, Record({"x": 1.0}, {"z": np.arange(3.0)}))
    there.write("cells", "k", {}, Record({"x": 2.0}, {"z": np.arange(3.0)}))
    files = there.files("k")
    late = threading.Timer(0.3, keep, (here.folder, files))
    late.start()
    here.await_all(["k"], patience=20)
    late.join()
    assert here.files("k") == files and here.checksum("k") == there.checksum("k")
    with pytest.raises(ValueError, match=r"cells/other.json was written but is not seen here"):
        here.await_all(["k", "other"], patience=0.1)


def test_code_backbone_and_texts_of_another_key_are_refused(tmp_path):
    kind = "bounds"
    source = digest([EXPERIMENTS[kind].module])
    job = Job("k", "a cell", 1.0, {"kind": kind, "source": "0" * 16})
    with pytest.raises(ValueError, match="the code of validations.claims.bounds.experiment is not what it was"):
        run.execute(job, folder=str(tmp_path), cache=str(tmp_path), device="cpu")
    settings = {
        "kind": kind, "source": source, "task": "agreement", "backbone_name": "nano", "backbone": "another", "columns": [],
        "digest": "d", "seed": 0, "seeds": [0], "options": {}, "solver": {}, "deltas": [],
        "sizes": {"train": 8, "test": 8, "length": 12, "readout": 20},
    }  # fmt: skip
    with pytest.raises(ValueError, match="the backbone nano is not what it was"):
        run.execute(dataclasses.replace(job, settings=settings), folder=str(tmp_path), cache=str(tmp_path), device="cpu")
    settings["backbone"] = run.plan.backbone_of("nano").fingerprint
    with pytest.raises(ValueError, match="the task agreement is not what it was"):
        run.execute(dataclasses.replace(job, settings=settings), folder=str(tmp_path), cache=str(tmp_path), device="cpu")
    assert not (tmp_path / "cells").exists()


def test_no_duration_of_a_run_is_read_from_a_clock_that_can_go_back():
    for path in [ROOT / "validations" / f"{name}.py" for name in ("engine", "pool", "cluster", "run", "store", "results")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                assert (node.value.id, node.attr) != ("time", "time") and node.value.id != "datetime", path


@pytest.mark.slow
def test_two_drivers_on_one_store_leave_what_one_leaves(tmp_path):
    (tmp_path / "s.toml").write_text(CHEAP.replace("[0, 1, 2, 3, 4, 5, 6, 7]", "[0]"), encoding="utf-8")

    def driver(out):
        words = ["--study", str(tmp_path / "s.toml"), "--out", str(tmp_path / out), "--processes", "1"]
        return subprocess.Popen(
            [sys.executable, "-m", "costate", "validate", *words], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )

    assert driver("one").wait() == 0
    both = [driver("two"), driver("two")]
    assert [one.wait() for one in both] == [0, 0] and not any(one.stderr.read() for one in both)
    for room in ("cells", "predicted", "rows"):
        made = [{p.name: p.read_bytes() for p in (tmp_path / out / room).iterdir()} for out in ("one", "two")]
        assert made[0] == made[1]
    assert verify(tmp_path / "two")["cells"] == 7 and not list(tmp_path.rglob(".writing-*"))


def test_a_write_that_fails_leaves_the_file_that_was_there(tmp_path, monkeypatch):
    write_atomic(tmp_path / "a", b"before")
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space left on device"):
        write_atomic(tmp_path / "a", b"after")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"before"]
