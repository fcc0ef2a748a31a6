"""Contests between calls that solve the same problem: interleaved CPU times in one process, and how far answers differ.

Where the cost is not time but memory or statistical error, `weigh` makes the same rows from amounts that are measured.
"""

from __future__ import annotations

import gc
import math
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

SHORTEST = 0.005  # seconds: shorter calls are repeated within a sample
PATIENCE = 5.0  # seconds that a peer's samples may take; after it, and two samples, the peer sits out
ENDURANCE = 20.0  # the same for ours; after it, and two rounds, the contest is over
LONG = 1.0  # seconds: a call whose first run took longer needs no run to find how often to repeat it


@dataclass(frozen=True)
class Peer:
    """A rival of ours: run() solves the same problem, answer(run()) is what is compared; run None: not installed.

    line is the least acceptable ratio of the peer's CPU time to ours, tolerance the relative error up to which its answer
    counts as the same (None: it answers another question), note says what a reader must know. share is the part of the
    problem that run solves, as when a slow peer makes two of ten equal probes: its time is divided by it.
    """

    name: str
    run: Callable[[], object] | None
    answer: Callable[[object], np.ndarray]
    tolerance: float | None = 1e-9
    line: float | None = None
    note: str = ""
    share: float = 1.0


@dataclass(frozen=True)
class Contest:
    """One problem, our call and its peers. reference: the answer errors are taken against; None: ours.

    clock is "process_time", or "perf_counter" for calls that wait for another device.
    """

    problem: str
    ours: str
    run: Callable[[], object]
    answer: Callable[[object], np.ndarray]
    peers: tuple[Peer, ...]
    reference: np.ndarray | None = None
    tolerance: float = 1e-9
    clock: str = "process_time"


@dataclass(frozen=True)
class Row:
    """One measured ratio: the peer's least CPU time over our least, and per round the median and the quartiles.

    Costs are in `unit`, seconds the least over the rounds; error is the peer's largest deviation from the reference (ours
    where there is none) over the reference's largest entry, own_error ours, both None where no answers are compared. status
    is "measured", "not installed" or why it failed.
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
    ours_cost: float | None = None
    peer_cost: float | None = None
    unit: str = "s"
    error: float | None = None
    own_error: float | None = None
    agrees: bool | None = None

    @property
    def met(self) -> bool | None:
        """Return whether the ratio of least times reaches the line; None without a line or a measurement."""
        return None if self.line is None or self.ratio is None else self.ratio >= self.line

    def least(self) -> str:
        """Return the line in words."""
        return f">= {self.line:g}" if self.line >= 1 else f"ours <= {1 / self.line:g} of them, costs {1 / self.ratio:.3g}"


def interleaved(
    calls: Mapping[str, Callable[[], object]], first: Mapping[str, float], *, rounds: int, clock: str = "process_time"
) -> dict[str, list[float]]:
    """Return CPU seconds per call in every round, nan where a call sat out; the order turns from round to round.

    Every call must have run once before, in `first` seconds. A call that is shorter than SHORTEST is repeated within a
    sample; one whose samples have taken more than PATIENCE seconds sits out after two, or after one when its first run
    took as long already. The first call, to which the others are compared, runs in every round; they end early when only
    it is left or it has taken more than ENDURANCE seconds.
    """
    names, spent, found = list(calls), dict.fromkeys(calls, 0.0), {name: [] for name in calls}
    enabled = gc.isenabled()
    gc.disable()
    try:
        count = {
            name: 1 if first[name] > LONG else max(1, math.ceil(SHORTEST / max(_seconds(call, 1, clock), 1e-7)))
            for name, call in calls.items()
        }
        for turn in range(rounds):
            for name in names[turn % len(names) :] + names[: turn % len(names)]:
                if name != names[0] and spent[name] > PATIENCE and turn >= (1 if first[name] > PATIENCE else 2):
                    found[name].append(math.nan)
                    continue
                took = _seconds(calls[name], count[name], clock)
                spent[name] += took
                found[name].append(took / count[name])
            gc.collect(0)  # what the round made; nothing is collected within a sample
            if len(names) > 1 and all(math.isnan(found[name][-1]) for name in names[1:]):
                break
            if turn >= 1 and spent[names[0]] > ENDURANCE:
                break
    finally:
        if enabled:
            gc.enable()
    return found


def _seconds(call: Callable[[], object], count: int, clock: str) -> float:
    now = getattr(time, clock)
    start = now()
    for _ in range(count):
        call()
    return now() - start


def contend(case: str, contest: Contest, *, rounds: int) -> Iterator[Row]:
    """Yield the rows of one contest, a row a peer, in the order given; a peer that is absent or fails has a status."""
    status, answers, took = {}, {}, {}

    def answered(name: str, run: Callable[[], object], answer: Callable[[object], np.ndarray]) -> np.ndarray:
        made = []
        took[name] = _seconds(lambda: made.append(run()), 1, contest.clock)
        return answer(made[0])

    own = answered("", contest.run, contest.answer)
    reference = own if contest.reference is None else contest.reference
    for peer in contest.peers:
        if peer.run is None:
            status[peer.name] = "not installed"
            continue
        try:
            answers[peer.name] = answered(peer.name, peer.run, peer.answer)
        except Exception as error:  # a peer is not ours to repair: its failure is a finding, and the others still run
            status[peer.name] = textwrap.shorten(f"failed: {type(error).__name__}: {error}", 90)
    calls = {"": contest.run} | {peer.name: peer.run for peer in contest.peers if peer.name in answers}
    samples = interleaved(calls, took, rounds=rounds, clock=contest.clock)
    times = {name: np.array(found) for name, found in samples.items()}
    mine, compared = times[""], any(peer.tolerance is not None for peer in contest.peers)
    for peer in contest.peers:
        shown = {"case": case, "problem": contest.problem, "ours": contest.ours, "peer": peer.name, "line": peer.line}
        if peer.name not in answers:
            yield Row(**shown, status=status[peer.name], note=peer.note)
            continue
        theirs = times[peer.name] / peer.share
        ran = np.isfinite(theirs)
        per_round = theirs[ran] / mine[ran]
        low, median, high = np.quantile(per_round, (0.25, 0.5, 0.75))
        error = None if peer.tolerance is None else gap(answers[peer.name], reference)
        yield Row(
            **shown,
            status="measured",
            note=peer.note,
            ratio=float(theirs[ran].min() / mine.min()),
            median=float(median),
            low=float(low),
            high=float(high),
            rounds=int(ran.sum()),
            ours_cost=float(mine.min()),
            peer_cost=float(theirs[ran].min()),
            error=error,
            own_error=gap(own, reference) if compared else None,
            agrees=None if error is None else error <= peer.tolerance and gap(own, reference) <= contest.tolerance,
        )


@dataclass(frozen=True)
class Amount:
    """What a peer costs in something other than time; None: not installed. error as in Row, where there is an answer."""

    name: str
    cost: float | None
    line: float | None = None
    error: float | None = None
    note: str = ""


def weigh(
    case: str, problem: str, ours: Amount, peers: Sequence[Amount], unit: str, tolerance: float = math.inf
) -> Iterator[Row]:
    """Yield the rows of one comparison of amounts in `unit`: the peer's over ours."""
    for peer in peers:
        shown = {"case": case, "problem": problem, "ours": ours.name, "peer": peer.name, "line": peer.line, "note": peer.note}
        if peer.cost is None:
            yield Row(**shown, status="not installed")
            continue
        ratio = peer.cost / ours.cost
        errors = [x for x in (ours.error, peer.error) if x is not None]
        yield Row(
            **shown,
            status="measured",
            ratio=ratio,
            median=ratio,
            low=ratio,
            high=ratio,
            rounds=1,
            unit=unit,
            ours_cost=ours.cost,
            peer_cost=peer.cost,
            error=peer.error,
            own_error=ours.error,
            agrees=None if peer.error is None else max(errors) <= tolerance,
        )


def gap(found: np.ndarray, reference: np.ndarray) -> float:
    """Return the largest deviation over the largest entry of the reference; inf for another shape."""
    found, reference = np.asarray(found, float), np.asarray(reference, float)
    if found.shape != reference.shape:
        return math.inf
    return float(np.abs(found - reference).max() / max(np.abs(reference).max(), np.finfo(float).tiny))
