"""Ratios of CPU time: the lab's solvers and instruments beside the general-purpose ones, on the same problems."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version

from bench.timing import Contest, Row, contend

NAMES = ("control", "curvature", "dimension", "practice", "desk")
_SHOWN = (
    "numpy",
    "scipy",
    "torch",
    "transformers",
    "peft",
    "cvxpy",
    "clarabel",
    "osqp",
    "scs",
    "mpc",
    "pypose",
    "control",
    "curvlinops-for-pytorch",
    "hessian-eigenthings",
    "pyhessian",
    "scikit-dimension",
)
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def cases(name: str) -> dict[str, Callable[[], Iterable[Contest | Row]]]:
    """Return the cases of one bench, by name: contests to hold, or rows of amounts. Raises ValueError for an unknown bench."""
    if name not in NAMES:
        raise ValueError(f"expected a bench among {', '.join(NAMES)}, got {name!r}")
    return import_module(f"bench.{name}").CASES  # here: it loads torch


def run(name: str, chosen: Sequence[str] = (), *, rounds: int = 9) -> Iterator[Row]:
    """Yield the rows of a bench as they are measured, of all its cases or the chosen ones.

    Raises ValueError for an unknown bench or case, fewer than two rounds, and when the numerical libraries were told to
    use several threads: CPU time would then count their waiting.
    """
    import torch

    known = cases(name)
    if unknown := sorted(set(chosen) - set(known)):
        raise ValueError(f"expected cases among {', '.join(known)}, got {', '.join(unknown)}")
    if rounds < 2:
        raise ValueError(f"expected at least two rounds, got {rounds}")
    if several := [key for key in _THREADS if os.environ.get(key) != "1"]:
        raise ValueError(f"CPU times compare at one thread: set {', '.join(several)} to 1 before starting Python")
    torch.set_num_threads(1)
    for case in chosen or known:
        for found in known[case]():
            yield from [found] if isinstance(found, Row) else contend(case, found, rounds=rounds)


def provenance() -> dict:
    """Return what the ratios depend on: the processor, its load and the versions of the libraries that are installed."""
    found = {}
    for package in _SHOWN:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return {"machine": platform.machine(), "cores": os.cpu_count(), "load": os.getloadavg()[0], "versions": found}


HEADER = (
    f"{'problem':<34} {'ours':<24} {'against':<26} {'ratio':>7} {'quartiles':>13} {'ours':>11} {'own err':>7} {'error':>7}  line"
)


def line(row: Row) -> str:
    """Return one row as text; the ratio is the peer's CPU time, or other cost, over ours."""
    start = f"{row.problem:<34} {row.ours:<24} {row.peer:<26} "
    if row.status != "measured":
        return f"{start}{row.status}{', ' * bool(row.note)}{row.note}"
    wanted = "" if row.line is None else f"{'met' if row.met else 'MISSED'}, {row.least()}"
    own = "" if row.own_error is None else f"{row.own_error:.0e}"
    error = "" if row.error is None else f"{row.error:.0e}{'' if row.agrees else '!'}"
    cost = f"{1e3 * row.ours_cost:.3g} ms" if row.unit == "s" else f"{row.ours_cost:.3g} {row.unit}"
    return (
        f"{start}{row.ratio:7.3g} {f'{row.low:.3g}-{row.high:.3g}':>13} {cost:>11} {own:>7} {error:>7}  "
        f"{wanted}{', ' * bool(wanted and row.note)}{row.note}"
    ).rstrip()
