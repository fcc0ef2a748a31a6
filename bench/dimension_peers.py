"""The rivals of the bench "dimension": the Fastfood map as it was published, and estimators of other packages."""

from __future__ import annotations

import io
import json
import math
import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from bench.peers import installed

DADAPY = "DADAPY_PYTHON"  # names the Python of an environment that has dadapy: it needs numpy < 2


def chunked(x: Tensor) -> Tensor:
    """Return the unnormalised Walsh-Hadamard transform of (2^q,): per bit, the two halves' sum and difference are joined anew."""
    q = len(x).bit_length() - 1
    shaped = x.reshape((2,) * q)
    for axis in range(q):
        low, high = shaped.chunk(2, dim=axis)
        shaped = torch.cat((low + high, low - high), dim=axis)
    return shaped.reshape(-1)


def butterfly(x: Tensor) -> Tensor:
    """Return the same transform with every stage written over the last, on a copy of x and half as much again."""
    x, kept = x.clone(), torch.empty(len(x) // 2, dtype=x.dtype)
    half = len(x) // 2
    while half:
        low, high = x.view(-1, 2, half).unbind(1)
        difference = torch.sub(low, high, out=kept.view(low.shape))
        low += high
        high.copy_(difference)
        half //= 2
    return x


@dataclass(frozen=True, eq=False)
class Fastfood:
    """Per tensor of D_i numbers the first D_i rows of H G Pi H B / sqrt(D_i |G|^2), N = 2^q >= D_i (Le et al. 2013).

    That is how intrinsic dimensions have been measured since Aghajanyan et al. (2021): B holds random signs, Pi permutes, G
    is Gaussian, every tensor has blocks of its own, and theta is cut where it is longer than N. Columns have unit length on
    average, per tensor and not over all of them.
    """

    shapes: dict[str, tuple[int, ...]]
    dimension: int
    blocks: tuple[tuple[Tensor, Tensor, Tensor, float], ...]
    transform: Callable[[Tensor], Tensor]

    @classmethod
    def drawn(
        cls, shapes: Mapping[str, Sequence[int]], dimension: int, transform: Callable[[Tensor], Tensor], seed: int = 0
    ) -> Fastfood:
        """Return a random map from theta (d,) to the tensors."""
        generator, blocks = torch.Generator().manual_seed(seed), []
        for shape in shapes.values():
            size = math.prod(shape)
            n = 1 << (size - 1).bit_length()
            B = torch.randint(2, (n,), generator=generator) * 2 - 1
            G = torch.randn(n, generator=generator)
            blocks.append((B, torch.randperm(n, generator=generator), G, 1 / math.sqrt(size * float(G.square().sum()))))
        return cls({k: tuple(s) for k, s in shapes.items()}, dimension, tuple(blocks), transform)

    @property
    def state_bytes(self) -> int:
        """Return the bytes that it holds."""
        return sum(x.nbytes for block in self.blocks for x in block[:3])

    def apply(self, theta: Tensor) -> dict[str, Tensor]:
        """Return P theta."""
        made = {}
        for (name, shape), (B, Pi, G, scale) in zip(self.shapes.items(), self.blocks, strict=True):
            x = torch.zeros(len(B))
            x[: self.dimension] = theta[: len(B)]
            y = self.transform(self.transform(x * B)[Pi] * G)
            made[name] = (y[: math.prod(shape)] * scale).reshape(shape)
        return made

    def adjoint(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Return P' times the tensors: the true gradient, without the published factor 1 / N."""
        total = torch.zeros(self.dimension)
        for name, (B, Pi, G, scale) in zip(self.shapes, self.blocks, strict=True):
            y = torch.zeros(len(B))
            y[: tensors[name].numel()] = tensors[name].reshape(-1) * scale
            x = torch.empty(len(B))
            x[Pi] = self.transform(y) * G
            part = (self.transform(x) * B)[: self.dimension]
            total[: len(part)] += part
        return total


def skdim_two_nn(X: np.ndarray) -> Callable[[], float] | None:
    """Return the estimate of two nearest neighbours by maximum likelihood with nothing discarded."""
    if not installed("skdim"):
        return None
    from skdim.id import TwoNN

    return lambda: TwoNN(discard_fraction=0.0, method="mle").fit(X).dimension_


def skdim_mle(X: np.ndarray, k: int) -> Callable[[], float] | None:
    """Return Levina and Bickel's estimator, local estimates pooled by their harmonic mean."""
    if not installed("skdim"):
        return None
    from skdim.id import MLE

    return lambda: MLE().fit(X, n_neighbors=k, comb="mle").dimension_


def skdim_local_pca(X: np.ndarray, k: int, share: float) -> Callable[[], float] | None:
    """Return the mean number of components that hold a share of the variance of the k nearest points and the point itself."""
    if not installed("skdim"):
        return None
    from skdim.id import lPCA

    def run() -> float:
        near = NearestNeighbors(n_neighbors=k + 1).fit(X).kneighbors(X, return_distance=False)
        return lPCA(ver="ratio", alphaRatio=share).fit_pw(X, precomputed_knn=near, n_neighbors=k).dimension_pw_.mean()

    return run


_TWO_NN = """
import contextlib, io, json, sys, time
import numpy as np
from dadapy import Data
X = np.load(io.BytesIO(sys.stdin.buffer.read()))
took = []
with contextlib.redirect_stdout(io.StringIO()):
    for _ in range(int(sys.argv[1])):
        start = time.process_time()
        found = Data(coordinates=X, maxk=2, n_jobs=1).compute_id_2NN(algorithm="ml", mu_fraction=1.0)
        took.append(time.process_time() - start)
print(json.dumps([min(took), float(found[0])]))
"""


def dadapy_two_nn(X: np.ndarray, rounds: int = 3) -> tuple[float, float] | None:
    """Return (CPU seconds, dimension) of two nearest neighbours by likelihood, measured in an environment of its own.

    The environment variable DADAPY_PYTHON names that environment's Python; None where it is not set.
    """
    if not (python := os.environ.get(DADAPY)):
        return None
    given = io.BytesIO()
    np.save(given, X)
    kept = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    made = subprocess.run(
        [python, "-W", "ignore", "-c", _TWO_NN, str(rounds)], input=given.getvalue(), env=kept, capture_output=True, check=True
    )
    seconds, value = json.loads(made.stdout)
    return seconds, value
