"""Cells in processes of this machine: one pool of one process for each place, so that a killed one takes one cell with it."""

import collections
import concurrent.futures
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import resource_tracker

from .engine import TRIES, Done, Engine, Execute, Job, apart, one_thread

HOPELESS = 4 * TRIES  # processes killed one after the other, and not one cell done


def _follow_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def _prepare(parent: int) -> None:
    """Let a worker die with its parent, so that a killed run leaves nothing behind, and load torch while it waits for work."""
    threading.Thread(target=_follow_parent, args=(parent,), daemon=True).start()
    import torch

    torch.set_num_threads(1)


class _Place:
    """One process, made again when it was killed or has grown; an interrupt at the terminal is left to the driver."""

    def __init__(self):
        self._renew()

    def _renew(self) -> None:
        context, others = multiprocessing.get_context("spawn"), set(multiprocessing.active_children())
        self.pool = concurrent.futures.ProcessPoolExecutor(1, context, initializer=_prepare, initargs=(os.getpid(),))
        resource_tracker.ensure_running()  # it would unblock what is blocked here
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # which the process inherits
        try:
            self.pool.submit(os.getpid)
        finally:
            self.processes = set(multiprocessing.active_children()) - others
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def submit(self, *call) -> concurrent.futures.Future:
        """Return the future of a call."""
        try:
            return self.pool.submit(*call)
        except BrokenProcessPool:  # killed while it waited
            self.renew()
            return self.pool.submit(*call)

    def renew(self) -> None:
        """Set a fresh process in this place."""
        self.end()
        self._renew()

    def end(self) -> None:
        """End the process, whatever it is doing: a cell is written whole or not at all."""
        self.pool.shutdown(wait=False, cancel_futures=True)
        for process in self.processes:
            process.kill()
            process.join(1.0)


def outcomes(jobs: Sequence[Job], execute: Execute, engine: Engine) -> Iterator[tuple[Job, Done]]:
    """Yield every job with what it came to, as they end, on `engine.processes` processes of one thread each.

    A process that holds more than its share of half the memory after a cell is replaced before the next one.
    """
    waiting, tries, running, killed = collections.deque(jobs), collections.Counter(), {}, 0
    share = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (2 * engine.processes)
    with one_thread():
        places = []
        try:
            for _ in range(min(engine.processes, len(jobs))):
                places.append(_Place())
            idle = list(places)
            while waiting or running:
                while idle and waiting:
                    place, job = idle.pop(), waiting.popleft()
                    running[place.submit(apart, execute, job, engine.limit)] = place, job
                for future in concurrent.futures.wait(running, return_when=concurrent.futures.FIRST_COMPLETED).done:
                    place, job = running.pop(future)
                    try:
                        done, killed = future.result(), 0
                    except BrokenProcessPool:
                        tries[job.key], killed, done = tries[job.key] + 1, killed + 1, None
                    if done is None or done.resident > share:
                        place.renew()
                    idle.append(place)
                    if done is None and killed >= HOPELESS:
                        raise ValueError(
                            f"{killed} processes were killed one after the other: free memory or give fewer --processes"
                        )
                    if done is None and tries[job.key] < TRIES:
                        waiting.append(job)
                        continue
                    yield job, done or Done(0.0, failed=f"lost its process {TRIES} times (killed, or out of memory)")
        finally:
            for place in places:
                place.end()
