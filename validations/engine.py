"""Runs the cells that are missing, one after the other or in a pool of processes; the results are the same bytes."""

import concurrent.futures
import contextlib
import dataclasses
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence

import threadpoolctl

LIBRARIES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "BLIS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
THREADS = {name: "1" for name in LIBRARIES}


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


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread inside, whatever the environment says: sums in another order have other last digits.

    Libraries that are loaded already are limited in place, later ones by their environment variables; both are put back.
    """
    import torch

    before, threads = {name: os.environ.get(name) for name in THREADS}, torch.get_num_threads()
    os.environ.update(THREADS)
    torch.set_num_threads(1)
    try:
        with threadpoolctl.threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(threads)
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.__setitem__(name, value)


def _prepare(parent: int) -> None:
    """Let a worker die with its parent alone, so that a killed run leaves nothing behind, and load torch while it waits."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group: the parent says what it comes to
    threading.Thread(target=_follow_parent, args=(parent,), daemon=True).start()
    import torch

    torch.set_num_threads(1)


def _alone(execute: Callable[[Job], float], job: Job) -> float:
    with one_thread():
        return execute(job)


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
        for index, job in enumerate(ordered, 1):
            finished(index, job, _alone(execute, job))
        return
    with (
        one_thread(),
        concurrent.futures.ProcessPoolExecutor(
            processes, mp_context=multiprocessing.get_context("spawn"), initializer=_prepare, initargs=(os.getpid(),)
        ) as pool,
    ):
        pending = {pool.submit(_alone, execute, job): job for job in ordered}
        try:
            for index, future in enumerate(concurrent.futures.as_completed(pending), 1):
                finished(index, pending[future], future.result())
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for worker in multiprocessing.active_children():  # in the midst of cells, which are made anew
                worker.kill()
            raise
