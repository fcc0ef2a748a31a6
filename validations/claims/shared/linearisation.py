"""The response of the logits to some numbers at a reference point, how far it holds, and the penalty that keeps it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from probes.curvature.hessian import hessian
from probes.curvature.spectrum import top_eigenpairs
from probes.reach.response import response
from theory.ensemble import Control, ensemble_lq
from theory.kernel import curvature_eigenvalues
from theory.loss import CrossEntropy

from .regime import MARGIN
from .setting import Params, Setting
from .training import logits, shifted


@dataclass(frozen=True)
class Linearisation:
    """The response of some logits to some numbers, y(z) ~ y0 + G z, at a reference point: G (N, C, M), y0 (N, C)."""

    G: np.ndarray
    y0: np.ndarray
    labels: np.ndarray
    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]

    @property
    def loss(self) -> CrossEntropy:
        """Return the cross-entropy of these examples' labels."""
        return CrossEntropy(self.labels)

    def kernel(self) -> np.ndarray:
        """Return G G' as an (N C, N C) matrix."""
        flat = self.G.reshape(-1, self.G.shape[-1])
        return flat @ flat.T

    def columns(self, prefix: str) -> np.ndarray:
        """Return the columns of G that belong to parameters whose name starts with `prefix`."""
        edges = np.cumsum([0, *(int(np.prod(s)) for s in self.shapes)])
        return np.concatenate(
            [self.G[..., a:b] for n, a, b in zip(self.names, edges, edges[1:], strict=False) if n.startswith(prefix)],
            axis=-1,
        )

    def curvatures(self, outputs: np.ndarray) -> np.ndarray:
        """Return the nonzero eigenvalues of (1/N) G' H G, H the softmax curvature at `outputs`, largest first."""
        return curvature_eigenvalues(self.kernel(), outputs, self.loss)

    def optimum(self, r: float, *, kernel: np.ndarray | None = None, labels: np.ndarray | None = None) -> Control:
        """Return the ensemble LQ optimum for penalty r, for other labels if given; `kernel` is G G' if known."""
        loss = self.loss if labels is None else CrossEntropy(labels)
        return ensemble_lq(self.G, self.y0, loss, r, kernel=None if kernel is None else kernel / r)


def linearise(outputs: Callable[[Params, Any], Tensor], params: Params, batch: Any) -> Linearisation:
    """Return the exact first-order response of `outputs` at `params`, in float64."""
    measured = response(outputs, params, [batch])
    matrix = measured.matrix.detach().double().cpu().numpy()
    labels = batch.labels.cpu().numpy()
    return Linearisation(
        matrix,
        measured.outputs.detach().double().cpu().numpy(),
        labels,
        tuple(measured.names),
        tuple(tuple(measured.shapes[n]) for n in measured.names),
    )


GRID = tuple(float(x) for x in 10.0 ** np.arange(0.0, -3.01, -0.5))


def kernel_ranks(kernel: np.ndarray) -> dict[str, float]:
    """Return two cheap counts of the directions of a kernel: its participation ratio, and its trace over its largest eigenvalue."""
    values = np.linalg.eigvalsh(kernel)
    return {"participation": float(values.sum() ** 2 / np.sum(values**2)), "trace_rank": float(values.sum() / values.max())}


def departure(lin: Linearisation, control: Control, outputs: np.ndarray) -> float:
    """Return the median over examples of eta = |y(z) - y(0) - G z| / |G z|, the departure from linearity at a control."""
    return off(outputs - lin.y0, lin.G @ control.z)


def off(shift: np.ndarray, linear: np.ndarray) -> float:
    """Return eta, the median over examples of |shift - linear| / |linear|, for shifts of the logits (N, C)."""
    return float(np.median(np.linalg.norm(shift - linear, axis=1) / np.maximum(np.linalg.norm(linear, axis=1), 1e-12)))


def penalty(setting: Setting, lin: Linearisation, outputs: Callable[[Params, Any], Tensor], origin: Params) -> float:
    """Return the penalty r of a cell, from the frozen model alone.

    With a regime: the smallest r on a half-decade grid below the largest curvature whose linearised optimum keeps
    eta <= regime on the training text, found from the top, but no less than `regime.MARGIN` times the most negative eigenvalue of
    the loss's Hessian at the reference point: below that the reference is a saddle of the penalised objective (as it is for
    LoRA, whose A-B block has eigenvalues +-sigma(dL/dW)) and no optimum need lie near. Every delta is thus given as much
    freedom as its own linear regime allows. Without a regime: `setting.penalty` times the largest curvature.
    """
    scale = float(lin.curvatures(lin.y0)[0])
    if setting.regime is None:
        return setting.penalty * scale

    def loss(params: Params, batch: Any) -> Tensor:
        return torch.nn.functional.cross_entropy(outputs(params, batch), batch.labels)

    curvature = hessian(loss, {name: p.detach() for name, p in origin.items()}, [setting.train], allow_unused=True)
    lowest = float(top_eigenpairs(curvature, 1, which="smallest", tol=0.1, max_products=10).values[0])
    kernel = lin.kernel()

    def eta(r: float) -> float:
        control = lin.optimum(r, kernel=kernel)
        return departure(lin, control, logits(outputs, shifted(origin, control.z), setting.train))

    return least_price(scale, lowest, eta, setting.regime)


def least_price(largest: float, lowest: float, eta: Callable[[float], float], regime: float) -> float:
    """Return the smallest r on `GRID` below the largest curvature whose eta(r) is within the regime, found from the top.

    It is no less than MARGIN times the most negative curvature.
    """
    chosen, floor = largest, MARGIN * max(0.0, -lowest)
    for share in GRID:
        if share * largest < floor or eta(share * largest) > regime:
            break
        chosen = share * largest
    return max(chosen, floor)
