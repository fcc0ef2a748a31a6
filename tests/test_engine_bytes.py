"""Serial and pooled runs leave the same bytes, and a run that was killed goes on to the same bytes."""

import hashlib
import os
import pathlib
import signal
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).parents[1]
STUDY = """
name = "tiny"
title = "t"
question = "q"
backbone = "nano"
tasks = ["subject-number"]
seeds = [0, 1]
claims = ["linearised-optimum"]
[sizes]
train = 24
test = 24
length = 16
readout = 100
[solver]
evaluations = 20
[deltas]
port-bias = { kind = "PortBias" }
adapter = { kind = "Adapter", bottleneck = 1 }
"""


def _digests(folder: pathlib.Path) -> dict[str, str]:
    files = [p for room in ("cells", "predicted", "rows") for p in sorted((folder / room).iterdir())]
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def _command(tmp_path: pathlib.Path, out: str, processes: int) -> list[str]:
    study = tmp_path / "tiny.toml"
    study.write_text(STUDY, encoding="utf-8")
    words = ["--study", str(study), "--out", str(tmp_path / out), "--processes", str(processes)]
    return [sys.executable, "-m", "validations", "run", *words]


def test_serial_pooled_and_killed_runs_agree(tmp_path):
    subprocess.run(_command(tmp_path, "serial", 1), cwd=ROOT, check=True, capture_output=True)
    subprocess.run(_command(tmp_path, "pool", 2), cwd=ROOT, check=True, capture_output=True)
    assert _digests(tmp_path / "serial") == _digests(tmp_path / "pool")
    run = subprocess.Popen(_command(tmp_path, "killed", 2), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    cells = tmp_path / "killed" / "cells"
    deadline = time.monotonic() + 120
    while not (cells.is_dir() and any(cells.glob("*.json"))) and run.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    (cells / ".writing-left-behind").write_text("half a cell", encoding="utf-8")
    subprocess.run(_command(tmp_path, "killed", 2), cwd=ROOT, check=True, capture_output=True)
    assert _digests(tmp_path / "serial") == _digests(tmp_path / "killed")
    assert not list((tmp_path / "killed").rglob(".writing-*"))
