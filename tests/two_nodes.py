"""Runs 202 cells on a Ray cluster of two nodes while a worker is killed and a node is removed, and compares them with the pool's.

python tests/two_nodes.py [--seeds 40] [--sleepers 12]: then cells that sleep for 5 s, for what an engine adds to a cell.
"""

import argparse
import functools
import os
import pathlib
import signal
import statistics
import sys
import tempfile
import threading
import time

import ray
from kills import STUDY, digests
from ray.cluster_utils import Cluster

import costate
from validations.engine import ENGINES, Done, Engine, Job
from validations.engine import run as run_cells

NODE = {"num_cpus": 1, "include_dashboard": False}


def validate(study: pathlib.Path, out: pathlib.Path, *more: str) -> None:
    """Run the study into a folder, or stop."""
    if code := costate.main(["validate", "--study", str(study), "--out", str(out), "--processes", "2", *more]):
        raise SystemExit(code)


def harm(cluster: Cluster, node, out: pathlib.Path, cells: int) -> None:
    """Kill a worker in the middle of a cell after a quarter of the cells, and remove a node after half of them."""
    until = lambda share: len(list((out / "cells").glob("*.json"))) >= share * cells  # noqa: E731
    while not until(0.25):
        time.sleep(0.05)
    worker = next(pid for pid, words in processes() if words.startswith(b"ray::bounds"))
    os.kill(worker, signal.SIGKILL)
    print(f"worker {worker} killed", flush=True)
    while not until(0.5):
        time.sleep(0.05)
    cluster.remove_node(node, allow_graceful=False)
    print("a node removed", flush=True)


def processes() -> list[tuple[int, bytes]]:
    """The processes of this machine with their words."""
    found = []
    for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append((int(path.parent.name), path.read_bytes()))
        except OSError:  # gone meanwhile
            continue
    return found


def sleeper(job: Job, seconds: float) -> Done:
    """A cell that takes its time and no processor."""
    time.sleep(seconds)
    return Done(seconds)


def overhead(address: str, count: int, seconds: float) -> dict[str, float]:
    """What a cell that sleeps takes above its own seconds, from the first to the last that ends, by engine."""
    jobs, found = [Job(str(k), f"sleeper {k}", 1.0, {}) for k in range(count)], {}
    for name in ENGINES:
        ends: list[float] = []
        engine = Engine(name, 2, address=address if name == "ray" else None)
        run_cells(
            jobs, functools.partial(sleeper, seconds=seconds), engine, report=lambda line, e=ends: e.append(time.monotonic())
        )
        gaps = [ends[k + 2] - ends[k] for k in range(2, count - 2)]  # two at a time, once both processes are there
        found[name] = statistics.median(gaps) - seconds
    return found


def main(arguments: list[str] | None = None) -> int:
    """0 where the bytes are the same and an engine of tasks adds at most a twentieth of 5 s to a cell."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=40, help="for each of five tasks")
    parser.add_argument("--sleepers", type=int, default=12)
    options = parser.parse_args(arguments)
    cluster = Cluster(initialize_head=True, head_node_args=NODE)
    second = cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    try:
        added = overhead(cluster.address, options.sleepers, 5.0)
        print("added to a cell of 5 s: " + ", ".join(f"{name} {1000 * s:.0f} ms" for name, s in added.items()), flush=True)
        with tempfile.TemporaryDirectory(prefix="two-nodes-") as place:
            room = pathlib.Path(place)
            study = room / "cheap.toml"
            seeds = f"seeds = {list(range(options.seeds))}"
            study.write_text(
                STUDY.read_text(encoding="utf-8").replace("seeds = [0, 1, 2, 3, 4, 5, 6, 7]", seeds), encoding="utf-8"
            )
            cells = 5 * options.seeds + 2
            threading.Thread(target=harm, args=(cluster, second, room / "ray", cells), daemon=True).start()
            validate(study, room / "ray", "--engine", "ray", "--address", cluster.address)

            validate(study, room / "pool")
            same = digests(room / "ray") == digests(room / "pool")
        print(f"{cells} cells: {'identical' if same else 'DIFFERENT'} bytes", flush=True)
    finally:
        ray.shutdown()
        cluster.shutdown()
    return int(not same or added["ray"] - added["pool"] > 0.05 * 5.0)


if __name__ == "__main__":
    sys.exit(main())
