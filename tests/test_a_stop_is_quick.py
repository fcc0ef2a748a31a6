"""Ctrl-C ends a study within three seconds, with one sentence, the finished cells kept and no process left behind."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

ROOT = pathlib.Path(__file__).parents[1]
FLAGS = ["--deltas", "lora", "--tasks", "agreement", "--seeds", "6", "--claim", "linearised-optimum", "--examples", "48"]


@pytest.mark.slow
@pytest.mark.parametrize("processes", ["1", "2"])
def test_a_stopped_study_ends_at_once(tmp_path, processes):
    words = [sys.executable, "-m", "costate", "validate", *FLAGS, "--out", str(tmp_path / "out"), "--processes", processes]
    run = subprocess.Popen(
        words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8", start_new_session=True
    )
    for line in run.stdout:
        if "already measured" in line:
            break
    time.sleep(4)  # into the first cells
    pressed = time.monotonic()
    os.killpg(run.pid, signal.SIGINT)  # as a terminal does: to every process of the group
    _, said = run.communicate()
    assert time.monotonic() - pressed < 3 and run.returncode == 130
    assert said.splitlines()[-1] == "stopped; finished cells are kept and the next run goes on from them"
    assert "Traceback" not in said
    with pytest.raises(ProcessLookupError):  # the group is empty
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            os.killpg(run.pid, 0)
            time.sleep(0.1)
