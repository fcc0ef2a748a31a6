"""Contests between calls that solve the same problem: interleaved CPU times in one process, and how far answers differ."""

from __future__ import annotations

import gc
import math
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

SHORTEST = 0.005            # seconds: shorter calls are repeated within a sample
PATIENCE = 5.0              # seconds that a peer's samples may take; after it, and two samples, the peer sits out


@dataclass(frozen=True)
class Peer:
    """A rival of ours: run() solves the same problem, answer(run()) is what is compared; run None: not installed.

    line is the least acceptable ratio of the peer's CPU time to ours, tolerance the relative error up to which its answer
    counts as the same (None: it answers another question), note says what a reader must know.
    """

    name: str
    run: Callable[[], object] | None
    answer: Callable[[object], np.ndarray]
    tolerance: float | None = 1e-9
    line: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Contest:
    """One problem, our call and its peers. reference: the answer errors are taken against; None: ours."""

    problem: str
    ours: str
    run: Callable[[], object]
    answer: Callable[[object], np.ndarray]
    peers: tuple[Peer, ...]
    reference: np.ndarray | None = None
    tolerance: float = 1e-9


@dataclass(frozen=True)
class Row:
    """One measured ratio: the peer's least CPU time over our least, and per round the median and the quartiles.

    Seconds are the least over the rounds; error is the peer's largest deviation from the reference (ours where there is
    none) over the reference's largest entry, own_error ours. status is "measured", "not installed" or why it failed.
    """

    case: str
    problem: str
    ours: str
    peer: str
    status: str
    line: float | None = None
    note: str = ""
    ratio: float | None = None
    median: float | None = None
    low: float | None = None
    high: float | None = None
    rounds: int = 0
    ours_seconds: float | None = None
    peer_seconds: float | None = None
    error: float | None = None
    own_error: float | None = None
    agrees: bool | None = None

    @property
    def met(self) -> bool | None:
        """Whether the ratio of least times reaches the line; None without a line or a measurement."""
        return None if self.line is None or self.ratio is None else self.ratio >= self.line

    def least(self) -> str:
        """The line in words."""
        return f">= {self.line:g}" if self.line >= 1 else f"ours <= {1 / self.line:g} of them, costs {1 / self.ratio:.1f}"


def interleaved(calls: Mapping[str, Callable[[], object]], *, rounds: int, patience: float = PATIENCE) -> dict[str, list[float]]:
    """CPU seconds per call in every round, nan where a call sat out; the order turns from round to round.

    Every call must have run once before. A call that is shorter than SHORTEST is repeated within a sample; one whose
    samples have taken more than `patience` seconds sits out after two, except the first, to which the others are compared.
    """
    names, spent, found = list(calls), dict.fromkeys(calls, 0.0), {name: [] for name in calls}
    enabled = gc.isenabled()
    gc.disable()
    try:
        count = {name: max(1, math.ceil(SHORTEST / max(_seconds(call, 1), 1e-7))) for name, call in calls.items()}
        for turn in range(rounds):
            for name in names[turn % len(names):] + names[: turn % len(names)]:
                if name != names[0] and turn >= 2 and spent[name] > patience:
                    found[name].append(math.nan)
                    continue
                took = _seconds(calls[name], count[name])
                spent[name] += took
                found[name].append(took / count[name])
            gc.collect(0)                                       # what the round made; nothing is collected within a sample
            if len(names) > 1 and all(math.isnan(found[name][-1]) for name in names[1:]):
                break
    finally:
        if enabled:
            gc.enable()
    return found


def _seconds(call: Callable[[], object], count: int) -> float:
    start = time.process_time()
    for _ in range(count):
        call()
    return time.process_time() - start


def contend(case: str, contest: Contest, *, rounds: int) -> Iterator[Row]:
    """The rows of one contest, a row a peer, in the order given; a peer that is absent or fails has a status."""
    own = contest.answer(contest.run())
    reference = own if contest.reference is None else contest.reference
    status, answers = {}, {}
    for peer in contest.peers:
        if peer.run is None:
            status[peer.name] = "not installed"
            continue
        try:
            answers[peer.name] = peer.answer(peer.run())
        except Exception as error:  # a peer is not ours to repair: its failure is a finding, and the others still run
            status[peer.name] = textwrap.shorten(f"failed: {type(error).__name__}: {error}", 90)
    calls = {"": contest.run} | {peer.name: peer.run for peer in contest.peers if peer.name in answers}
    times = {name: np.array(samples) for name, samples in interleaved(calls, rounds=rounds).items()}
    mine = times[""]
    for peer in contest.peers:
        shown = {"case": case, "problem": contest.problem, "ours": contest.ours, "peer": peer.name, "line": peer.line}
        if peer.name not in answers:
            yield Row(**shown, status=status[peer.name], note=peer.note)
            continue
        theirs = times[peer.name]
        took = np.isfinite(theirs)
        per_round = theirs[took] / mine[took]
        low, median, high = np.quantile(per_round, (0.25, 0.5, 0.75))
        error = None if peer.tolerance is None else gap(answers[peer.name], reference)
        yield Row(
            **shown, status="measured", note=peer.note,
            ratio=float(theirs[took].min() / mine.min()), median=float(median), low=float(low), high=float(high),
            rounds=int(took.sum()), ours_seconds=float(mine.min()), peer_seconds=float(theirs[took].min()),
            error=error, own_error=gap(own, reference),
            agrees=None if error is None else error <= peer.tolerance and gap(own, reference) <= contest.tolerance,
        )


def gap(found: np.ndarray, reference: np.ndarray) -> float:
    """The largest deviation over the largest entry of the reference; inf for another shape."""
    found, reference = np.asarray(found, float), np.asarray(reference, float)
    if found.shape != reference.shape:
        return math.inf
    return float(np.abs(found - reference).max() / max(np.abs(reference).max(), np.finfo(float).tiny))
