"""Serial and pooled runs leave the same bytes, and a run that was killed goes on to the same bytes."""

import hashlib
import json
import os
import pathlib
import platform
import signal
import subprocess
import sys
import time

import pytest
import threadpoolctl
import torch

from validations import dictionary, engine, measurements, results
from validations.verify import verify

ROOT = pathlib.Path(__file__).parents[1]
STUDY = """
name = "tiny"
title = "t"
question = "q"
backbone = "nano"
tasks = ["subject-number"]
seeds = [0, 1]
claims = ["published-bound"]
[sizes]
train = 24
test = 24
length = 16
readout = 100
[solver]
evaluations = 20
[deltas]
full = { kind = "Full", patterns = ["3.*"] }
mlp = { kind = "Full", patterns = ["3.mlp.*"] }
"""


def _digests(folder: pathlib.Path) -> dict[str, str]:
    files = [p for room in ("cells", "predicted", "rows") for p in sorted((folder / room).iterdir())]
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def _command(tmp_path: pathlib.Path, out: str, processes: int) -> list[str]:
    study = tmp_path / "tiny.toml"
    study.write_text(STUDY, encoding="utf-8")
    words = ["--study", str(study), "--out", str(tmp_path / out), "--processes", str(processes)]
    return [sys.executable, "-m", "costate", "validate", *words]


@pytest.mark.slow
def test_serial_pooled_and_killed_runs_agree(tmp_path):
    many = os.environ | {name: "4" for name in engine.THREADS}  # more threads sum in another order: cells must not use them
    subprocess.run(_command(tmp_path, "serial", 1), cwd=ROOT, check=True, capture_output=True, env=many)
    assert (dictionary(measurements(tmp_path / "serial"))["meaning"] != "not described").all()
    forged_rows_are_found(tmp_path / "serial")
    subprocess.run(_command(tmp_path, "pool", 2), cwd=ROOT, check=True, capture_output=True)
    assert _digests(tmp_path / "serial") == _digests(tmp_path / "pool")
    run = subprocess.Popen(_command(tmp_path, "killed", 2), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    cells = tmp_path / "killed" / "cells"
    deadline = time.monotonic() + 120
    while not (cells.is_dir() and any(cells.glob("*.json"))) and run.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    (cells / f".writing-{run.pid}-{platform.node()}-left-behind").write_text("half a cell", encoding="utf-8")
    damaged = next((tmp_path / "killed" / "cells").glob("*.json"))
    damaged.write_text(damaged.read_text(encoding="utf-8")[:-40], encoding="utf-8")
    again = subprocess.run(_command(tmp_path, "killed", 2), cwd=ROOT, check=True, capture_output=True, encoding="utf-8")
    assert again.stdout.count(f"{damaged} ") == 1
    assert _digests(tmp_path / "serial") == _digests(tmp_path / "killed")
    assert not list((tmp_path / "killed").rglob(".writing-*"))


def forged_rows_are_found(folder: pathlib.Path):
    """A number that was changed and sealed again, as the lab itself seals, is not what the cells give."""
    assert verify(folder)["computed_again"].startswith("computed again")
    whole = {path: path.read_bytes() for path in (folder / "verdicts.json", folder / "rows" / "published-bound.json")}
    record, rows = results.read_verdicts(folder), json.loads(whole[folder / "rows" / "published-bound.json"])
    for change, says in (
        (lambda: rows[0].update(gap=rows[0]["gap"] + 1), "the table published-bound"),
        (lambda: record["claims"][0]["verdicts"][0].update(verdict="supported"), "the verdict on published-bound"),
    ):
        change()
        results.write_verdicts(folder, record, tables={("published-bound", "rows"): rows}, cells=record["tied"]["order"])
        assert results.read_verdicts(folder)
        with pytest.raises(ValueError, match=says):
            verify(folder)
        rows[:] = json.loads(whole[folder / "rows" / "published-bound.json"])
    for path, data in whole.items():
        path.write_bytes(data)
    assert verify(folder)["cells"]


def _threads(job: engine.Job) -> engine.Done:
    """Say in the job's file how many threads every library of numbers has, one that is loaded in the cell included."""
    import numpy as np
    import scipy.linalg
    import torch

    scipy.linalg.solve(np.eye(3), np.ones(3))
    counts = {torch.get_num_threads(), *(library["num_threads"] for library in threadpoolctl.threadpool_info())}
    pathlib.Path(job.settings["out"]).write_text(" ".join(map(str, sorted(counts))), encoding="utf-8")
    return engine.Done(0.0)


@pytest.mark.parametrize("processes", [1, 2])
def test_a_cell_has_one_thread_whatever_the_environment_says(tmp_path, monkeypatch, processes):
    for name in engine.THREADS:
        monkeypatch.setenv(name, "3")
    torch.set_num_threads(3)
    try:
        with threadpoolctl.threadpool_limits(3):
            jobs = [engine.Job(str(k), f"cell {k}", 1.0, {"out": str(tmp_path / str(k))}) for k in range(2)]
            engine.run(jobs, _threads, engine.Engine(processes=processes), report=lambda line: None)
            assert {path.read_text(encoding="utf-8") for path in tmp_path.iterdir()} == {"1"}
            assert torch.get_num_threads() == 3 and all(os.environ[name] == "3" for name in engine.THREADS)
    finally:
        torch.set_num_threads(1)
