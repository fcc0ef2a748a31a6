"""Runs the cells that are missing, one after the other or in a pool of processes; the results are the same bytes."""

import concurrent.futures
import dataclasses
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Sequence

THREADS = {name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}


@dataclasses.dataclass(frozen=True)
class Job:
    """One cell to run: `weight` is its expected cost, in any unit, and only orders and paces the run."""

    key: str
    label: str
    weight: float
    settings: dict


def _follow_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)


def _prepare(parent: int) -> None:
    """Make a worker single-threaded and let it die with its parent, so that a killed run leaves nothing behind."""
    threading.Thread(target=_follow_parent, args=(parent,), daemon=True).start()
    import torch

    torch.set_num_threads(1)


def run(jobs: Sequence[Job], execute: Callable[[Job], float], *, processes: int, report: Callable[[str], None]) -> None:
    """Run `execute(job)` for every job and report a line per finished cell with the time that remains.

    processes: 1 runs in this process, more in a spawned pool with one thread each. A failing cell stops the run with its
    own sentence; cells that are complete by then stay in the store and are not run again.
    """
    if not jobs:
        return
    ordered = sorted(jobs, key=lambda job: -job.weight)
    total, done, begun = sum(j.weight for j in ordered), 0.0, time.perf_counter()

    def finished(index: int, job: Job, seconds: float) -> None:
        nonlocal done
        done += job.weight
        left = (time.perf_counter() - begun) * (total - done) / done
        report(f"[{index:>3}/{len(ordered)}] {job.label}  {seconds:.1f} s, about {left / 60:.1f} min left")

    if processes == 1:
        import torch

        torch.set_num_threads(1)
        for index, job in enumerate(ordered, 1):
            finished(index, job, execute(job))
        return
    before = {name: os.environ.get(name) for name in THREADS}
    os.environ.update(THREADS)
    try:
        context = multiprocessing.get_context("spawn")
        with concurrent.futures.ProcessPoolExecutor(
            processes, mp_context=context, initializer=_prepare, initargs=(os.getpid(),)
        ) as pool:
            pending = {pool.submit(execute, job): job for job in ordered}
            try:
                for index, future in enumerate(concurrent.futures.as_completed(pending), 1):
                    finished(index, pending[future], future.result())
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    finally:
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.__setitem__(name, value)
