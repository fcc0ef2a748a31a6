"""Peak resident memory of one gradient and of one curvature product, each in a process of its own.

`python -m bench.memory SPEC` prints bytes: what a process held at most, above what it held before the call.
Every way is run on one text first, so that code, threads and workspaces are not counted.
"""

from __future__ import annotations

import ctypes
import dataclasses
import gc
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from bench import curvature_peers as peers
from bench.subjects import Size, Subject, subject
from probes.curvature.hessian import hessian


def resident(calls: Sequence[dict], names: Sequence[str], size: Size) -> list[int]:
    """Return the bytes that each call takes at its peak, or keeps if its way is "held": our operator alone.

    A call has a way (gradient, ours, held, fresh, curvlinops, eigenthings, pyhessian), a count of texts and, if they are
    not the defaults, batches and memory. Raises RuntimeError, with the process's last words, when one fails.
    """
    spec = json.dumps({"calls": list(calls), "names": list(names), "size": dataclasses.astuple(size)})
    done = subprocess.run(
        [sys.executable, "-m", __name__, spec],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[1],
        check=False,
        encoding="utf-8",
    )
    if done.returncode:
        raise RuntimeError(f"measuring memory failed: {' '.join(done.stderr.strip().splitlines()[-1:])}")
    return [int(x) for x in done.stdout.split()]


def _status(key: str) -> int:
    """A field of this process's status, in bytes: VmRSS is what is resident, VmHWM its peak."""
    rows = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines())
    return int(rows[key].split()[0]) << 10


def _settle() -> None:
    """Give freed memory back to the system and start a new peak."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")


def _call(way: str, subject: Subject, memory: int | None) -> Callable[[], object]:
    """The call to measure, nothing of it done yet."""
    v = torch.ones(subject.dimension)
    options = {} if memory is None else {"memory": memory}
    if way == "gradient":
        return subject.gradient
    if way == "held":
        return lambda: hessian(subject.loss, subject.params, subject.batches, **options)
    makers = {
        "ours": lambda: hessian(subject.loss, subject.params, subject.batches, **options).__matmul__,
        "fresh": lambda: peers.fresh_product(subject),
        "pyhessian": lambda: peers.pyhessian_product(subject),
        "curvlinops": lambda: peers.curvlinops_operator(subject)().__matmul__,
        "eigenthings": lambda: peers.eigenthings_operator(subject)().__matmul__,
    }
    return lambda: makers[way]()(v)


def _measured(names: Sequence[str], size: Size, way: str, count: int, batches: int = 1, memory: int | None = None) -> int:
    small, whole = (subject(n, 2, names=names, size=size, steps=0, batches=b) for n, b in ((1, 1), (count, batches)))
    _call(way, small, None)()
    call = _call(way, whole, memory)
    _settle()
    before = _status("VmRSS")
    found = call()
    if way == "held":
        _settle()
    after = _status("VmRSS" if way == "held" else "VmHWM")
    del found
    return after - before


def _main(spec: dict) -> int:
    """Every call in a fork, before anything has been differentiated here."""
    torch.set_num_threads(1)
    for call in spec["calls"]:
        if (child := os.fork()) == 0:
            code = 1
            try:
                print(_measured(spec["names"], Size(*spec["size"]), **call), flush=True)
                code = 0
            finally:
                os._exit(code)
        if os.waitpid(child, 0)[1]:
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(_main(json.loads(sys.argv[1])))
