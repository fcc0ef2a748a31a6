"""Peak resident memory of one gradient and of one curvature product, each in a process of its own.

`python -m bench.memory SPEC` prints bytes: what a process held at most, above what it held before the call.
Every way is run on one text first, so that code, threads and workspaces are not counted. `alive` counts large tensors here.
"""

from __future__ import annotations

import ctypes
import dataclasses
import gc
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from bench import curvature_peers as peers
from bench import language
from bench.subjects import Size, Subject, subject
from probes.curvature.hessian import hessian


def resident(calls: Sequence[dict], names: Sequence[str] = (), size: Size | None = None) -> list[int]:
    """Return the bytes that each call takes at its peak, or keeps if its way is "held": our operator alone.

    A call has a way (gradient, ours, held, fresh, curvlinops, eigenthings, pyhessian), a count of texts and, if they are
    not the defaults, batches and memory; or, of a language model, a way of `bench.language`, the model as described there,
    its rows and length and the kind of matrix. Raises RuntimeError, with the process's last words, when one fails.
    """
    spec = json.dumps({"calls": list(calls), "names": list(names), "size": dataclasses.astuple(size or Size())})
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


def alive(make: Callable[[], Callable[[Tensor], Tensor]], v: Tensor, least: int, known: Iterable[Tensor]) -> tuple[int, int, int]:
    """Return how many tensors of at least so many bytes are alive at once: while a product is made, in use, and after it.

    Counted are storages that torch's operations return in Python's sight, without those of the known tensors.
    """
    counter = _Counter(least, frozenset(x.untyped_storage().data_ptr() for x in known))
    with counter:
        product = make()
        making, counter.most = counter.most, 0
        product(v)
        return making, counter.most, counter.count()


class _Counter(TorchDispatchMode):
    """Remembers, without keeping them, large storages that operations return."""

    def __init__(self, least: int, known: frozenset[int]):
        super().__init__()
        self.least, self.known, self.found, self.most = least, known, {}, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for x in tree_leaves(result):
            if isinstance(x, Tensor) and x.untyped_storage().nbytes() >= self.least:
                storage = x.untyped_storage()
                if storage.data_ptr() not in self.known:
                    ref = StorageWeakRef(storage)
                    self.found[ref.cdata] = ref
        self.most = max(self.most, self.count())
        return result

    def count(self) -> int:
        """Return how many are alive."""
        self.found = {key: ref for key, ref in self.found.items() if not ref.expired()}
        return len(self.found)


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
    return _taken(_call(way, small, None), _call(way, whole, memory), way == "held")


def _spoken(way: str, model: dict | str, kind: str, rows: int, length: int) -> int:
    whole = language.spoken(language.revived(model), rows, length)
    small = language.Spoken(whole.model, [language.cut(whole.batches[0], rows)])

    def call(s: language.Spoken) -> Callable[[], object]:
        if way == "gradient":
            return s.gradient
        return lambda: language.ways(s, kind)[way]()(torch.ones(s.dimension))

    return _taken(call(small), call(whole), False)


def _taken(first: Callable[[], object], call: Callable[[], object], held: bool) -> int:
    """The bytes of a call after one like it, at its peak or kept."""
    first()
    _settle()
    before = _status("VmRSS")
    found = call()
    if held:
        _settle()
    after = _status("VmRSS" if held else "VmHWM")
    del found
    return after - before


def _main(spec: dict) -> int:
    """Every call in a fork, before anything has been differentiated here."""
    torch.set_num_threads(1)
    for call in spec["calls"]:
        if (child := os.fork()) == 0:
            code = 1
            try:
                measured = _spoken(**call) if "model" in call else _measured(spec["names"], Size(*spec["size"]), **call)
                print(measured, flush=True)
                code = 0
            finally:
                os._exit(code)
        if os.waitpid(child, 0)[1]:
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(_main(json.loads(sys.argv[1])))
