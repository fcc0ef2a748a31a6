"""Runs the cells that are missing, in this process, in a pool or on a Ray cluster; the results are the same bytes."""

import contextlib
import dataclasses
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import threadpoolctl

ENGINES = ("pool", "ray")
LIBRARIES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "BLIS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
THREADS = {name: "1" for name in LIBRARIES}
TRIES = 3  # of a cell whose process was killed
PATIENCE = 20.0  # seconds after its limit for a cell that is deaf to it, inside a library


@dataclasses.dataclass(frozen=True)
class Job:
    """One cell to run: `weight` is its expected cost, in any unit, and only orders and paces the run; `cpus` and `gpus` are the
    shares of a machine that it takes on a cluster."""

    key: str
    label: str
    weight: float
    settings: dict
    cpus: float = 1.0
    gpus: float = 0.0


@dataclasses.dataclass(frozen=True)
class Engine:
    """Where cells run: "pool" on this machine, one process in place or several; "ray" as tasks of a Ray cluster at `address`, or
    of one that is started here. limit: the seconds after which a cell is given up; None for no limit."""

    name: str = ENGINES[0]
    processes: int = 1
    limit: float | None = None
    address: str | None = None

    def __post_init__(self):
        if self.name not in ENGINES:
            raise ValueError(f"expected an engine among {', '.join(ENGINES)}, got {self.name!r}")
        if self.address is not None and self.name != "ray":
            raise ValueError(
                f"an address is of a Ray cluster, got {self.address!r} with the engine {self.name}: add --engine ray"
            )


@dataclasses.dataclass(frozen=True)
class Done:
    """What a cell came to: its seconds, files to keep where it could not reach the store, why it failed; the memory, in bytes,
    that its process holds."""

    seconds: float
    files: Mapping[str, bytes] = dataclasses.field(default_factory=dict)
    failed: str = ""
    resident: int = 0


Execute = Callable[[Job], Done]


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


class _Late(BaseException):
    """Raised in a cell at its limit; no cell catches it by mistake."""


def _late(*_) -> None:
    raise _Late


def alone(execute: Execute, job: Job, limit: float | None) -> Done:
    """Return what a cell came to on one thread, given up after `limit` seconds."""
    with one_thread():
        if limit is None or threading.current_thread() is not threading.main_thread():
            return execute(job)
        before = signal.signal(signal.SIGALRM, _late)
        signal.setitimer(signal.ITIMER_REAL, limit)
        try:
            return execute(job)
        except _Late:
            return Done(limit, failed=f"did not end within {limit:g} s, its limit")
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)


def apart(execute: Execute, job: Job, limit: float | None) -> Done:
    """Return what a cell came to in a process that is there for cells alone, and ends when one does not hear its limit."""
    deaf = threading.Timer(limit + PATIENCE, os._exit, (1,)) if limit is not None else None
    if deaf:
        deaf.daemon = True
        deaf.start()
    try:
        return dataclasses.replace(alone(execute, job, limit), resident=resident())
    finally:
        if deaf:
            deaf.cancel()


def resident() -> int:
    """Return the bytes of memory that this process holds, 0 where the system does not say."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return 0


def _in_place(jobs: Sequence[Job], execute: Execute, engine: Engine) -> Iterator[tuple[Job, Done]]:
    for job in jobs:
        yield job, alone(execute, job, engine.limit)


def _outcomes(engine: Engine) -> Callable[[Sequence[Job], Execute, Engine], Iterator[tuple[Job, Done]]]:
    """Return what runs the cells of an engine, imported when it is needed."""
    if engine.name == "ray":
        from .cluster import outcomes
    elif engine.processes > 1:
        from .pool import outcomes
    else:
        return _in_place
    return outcomes


def run(
    jobs: Sequence[Job],
    execute: Execute,
    engine: Engine,
    *,
    report: Callable[[str], None],
    keep: Callable[[Mapping[str, bytes]], None] = lambda files: None,
) -> None:
    """Run `execute(job)` for every job and report a line per finished cell with the time that remains.

    keep: takes the files of a cell that could not reach the store. A cell whose process is killed is tried `TRIES` times, one
    that is over the limit once; the others go on, and at the end ValueError names those that were lost. A cell that raises stops
    the run with its own sentence. Cells that are complete by then stay in the store and are not run again.
    """
    if not jobs:
        return
    ordered = sorted(jobs, key=lambda job: -job.weight)
    total, gone, begun, lost = sum(j.weight for j in ordered), 0.0, time.perf_counter(), []
    with contextlib.closing(_outcomes(engine)(ordered, execute, engine)) as outcomes:
        for index, (job, done) in enumerate(outcomes, 1):
            keep(done.files)
            gone += job.weight
            left = (time.perf_counter() - begun) * (total - gone) / gone
            said = done.failed or f"{done.seconds:.1f} s"
            report(f"[{index:>3}/{len(ordered)}] {job.label}  {said}, about {left / 60:.1f} min left")
            if done.failed:
                lost.append(f"{' '.join(job.label.split())} {done.failed}")
    if lost:
        more = f" and {len(lost) - 3} more" if len(lost) > 3 else ""
        said = f"{len(lost)} of {len(ordered)} cells were lost ({'; '.join(lost[:3])}{more})"
        raise ValueError(f"{said}: the others are kept, run the study again")
