"""How a command is stopped: SIGINT and SIGTERM end it with one sentence, soon, whatever it is doing."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass

GRACE = 1.0  # seconds for what is under way to end by itself
SIGNALS = (signal.SIGINT, signal.SIGTERM)


@dataclass
class Stop:
    """Whether the command was asked to stop, and by which signal."""

    by: int | None = None

    @property
    def code(self) -> int:
        """Return the exit code by which shells know the signal."""
        return 128 + (self.by or signal.SIGINT)

    def say(self, *words: str) -> int:
        """Print the sentence of a stopped command and return its exit code."""
        print("; ".join(["stopped", *map(str, words)]), file=sys.stderr, flush=True)
        return self.code


@contextlib.contextmanager
def stoppable() -> Iterator[Stop]:
    """Raise KeyboardInterrupt inside at the first signal, and end the process `GRACE` seconds later if it is still at work.

    Python hears a signal only between its own instructions: a thread hears it inside long calls of libraries too. Files are
    written whole or not at all, and processes of the pool follow the one that started them. Signals that the caller ignores, as
    under nohup, stay ignored.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def asked(number: int, _frame: object) -> None:
        first, stop.by = stop.by is None, stop.by or number
        if first:
            raise KeyboardInterrupt

    heard, said = os.pipe()
    os.set_blocking(said, False)
    ended = threading.Event()
    taken = {number: signal.getsignal(number) for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN}
    waking = signal.set_wakeup_fd(said, warn_on_full_buffer=False)
    for number in taken:
        signal.signal(number, asked)
    watch = threading.Thread(target=_watch, args=(heard, ended, tuple(taken), stop), daemon=True)
    watch.start()
    try:
        yield stop
    finally:
        for number, before in taken.items():
            signal.signal(number, before)
        signal.set_wakeup_fd(waking)
        ended.set()
        os.write(said, b"\0")
        watch.join()
        os.close(heard)
        os.close(said)


def _watch(heard: int, ended: threading.Event, signals: tuple[int, ...], stop: Stop) -> None:
    """End the process some time after a signal was heard, unless it ends by itself."""
    while not ended.is_set():
        (number,) = os.read(heard, 1)
        if number in signals and not ended.wait(GRACE):
            stop.by = stop.by or number
            os._exit(stop.say())
