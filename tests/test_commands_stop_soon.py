"""SIGINT and SIGTERM end a study in every phase within three seconds, with one sentence and nothing half-written."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from validations.commands import stopping

ROOT = pathlib.Path(__file__).parents[1]
WITHIN = 3.0
STUDY = (pathlib.Path(__file__).with_name("cheap.toml")).read_text(encoding="utf-8")


def heard():
    """Let a process hear SIGINT, which is ignored where the tests themselves were started in the background."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def started(tmp_path, processes):
    (tmp_path / "cheap.toml").write_text(STUDY, encoding="utf-8")
    words = ["--study", str(tmp_path / "cheap.toml"), "--out", str(tmp_path / "out"), "--processes", str(processes)]
    return subprocess.Popen(
        [sys.executable, "-m", "costate", "validate", *words],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        start_new_session=True,
        preexec_fn=heard,
    )


def until(run, there):
    """Wait until something is there, or the run has ended."""
    deadline = time.monotonic() + 240
    while not there() and run.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "phase", "processes"),
    [
        (signal.SIGINT, "imports", 1),
        (signal.SIGTERM, "a cell in a pool", 2),
        (signal.SIGINT, "a cell in a pool", 2),
        (signal.SIGINT, "a cell in place", 1),
    ],
)
def test_a_study_stops_soon_in_every_phase(tmp_path, number, phase, processes):
    run = started(tmp_path, processes)
    if phase == "imports":
        until(run, lambda: "libtorch" in pathlib.Path(f"/proc/{run.pid}/maps").read_text(encoding="utf-8"))
    else:
        until(run, lambda: any((tmp_path / "out" / "predicted").glob("*.json")))
    children = pathlib.Path(f"/proc/{run.pid}/task/{run.pid}/children")
    workers = [int(pid) for pid in children.read_text(encoding="utf-8").split()] if children.is_file() else []
    begun = time.monotonic()
    if number == signal.SIGTERM:
        run.send_signal(number)
    else:
        os.killpg(run.pid, number)  # as a terminal does
    _, said = run.communicate(timeout=60)
    assert time.monotonic() - begun < WITHIN
    assert run.returncode == 128 + number and said.count("\n") == 1
    kept = "" if phase == "imports" else "; finished cells are kept and the next run goes on from them"
    assert said == f"stopped{kept}\n"
    assert not list(tmp_path.rglob(".writing-*"))
    deadline = time.monotonic() + 10
    while any(pathlib.Path(f"/proc/{pid}").exists() for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not [pid for pid in workers if pathlib.Path(f"/proc/{pid}").exists()]


AT_WORK = """
import hashlib, sys
from validations.commands.stopping import stoppable
with stoppable() as stop:
    try:
        print("ready", flush=True)
        while True:
            if sys.argv[1] == "library":
                hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)
    except KeyboardInterrupt:
        sys.exit(stop.say())
"""


@pytest.mark.parametrize("where", ["library", "python"])
@pytest.mark.parametrize("number", stopping.SIGNALS)
def test_a_long_call_of_a_library_does_not_keep_a_command(where, number):
    words, pipe = [sys.executable, "-c", AT_WORK, where], subprocess.PIPE
    run = subprocess.Popen(words, cwd=ROOT, stdout=pipe, stderr=pipe, encoding="utf-8", preexec_fn=heard)
    try:
        assert run.stdout.readline() == "ready\n"
        begun = time.monotonic()
        run.send_signal(number)
        _, said = run.communicate(timeout=30)
        assert time.monotonic() - begun < WITHIN
    finally:
        run.kill()  # where it did not stop, it would work for ever
    assert run.returncode == 128 + number and said == "stopped\n"


def test_handlers_are_put_back():
    before = [signal.getsignal(number) for number in stopping.SIGNALS]
    with stopping.stoppable() as stop:
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
        assert stop.by == signal.SIGTERM and stop.code == 143
    assert [signal.getsignal(number) for number in stopping.SIGNALS] == before
