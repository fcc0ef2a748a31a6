"""What an experiment is given: subjects on one frozen backbone, their data, and the full-batch arm's settings."""

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
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
from tuning.training import Fit, fit, unflatten

from ..store import Measured

Params = dict[str, Tensor]


@dataclass(frozen=True)
class Setting:
    """One cell's inputs.

    `subjects` are named by their role in the experiment. The penalty r is `penalty` times the largest curvature, or, with a
    `regime`, the smallest on a grid whose predicted control stays linear (see `penalty`). `options` are the part's own.
    `perturbed` holds the task's perturbed test sets by name; `others` the settings of the study's other tasks, for an
    experiment that asks for them.
    """

    subjects: Mapping[str, Any]
    train: Any
    test: Any
    seed: int
    penalty: float
    tolerance: float
    evaluations: int
    regime: float | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    perturbed: Mapping[str, Any] = field(default_factory=dict)
    others: tuple["Setting", ...] = ()


@dataclass(frozen=True)
class Experiment:
    """One kind of cell: `predict` is written down before `measure` trains anything.

    roles: the names that the part's deltas take in `Setting.subjects`, in order; with `each`, every delta is a cell of its
    own in the one role; with `open`, further deltas keep their own names. others: give the settings of the other tasks too.
    weight: its expected cost relative to other kinds, which only orders and paces a run. An experiment with models and data of
    its own has `protocols` in the place of tasks, and `make(protocol, seed)`.
    """

    label: str
    roles: tuple[str, ...]
    predict: Callable[["Setting"], Measured]
    measure: Callable[["Setting", Measured], Measured]
    weight: float = 1.0
    each: bool = False
    open: bool = False
    others: bool = False
    protocols: tuple[str, ...] = ()
    make: Callable[[str, int], "Setting"] | None = None

    @property
    def module(self) -> str:
        """The module that makes the cells."""
        return self.predict.__module__

    def named(self, deltas: Sequence[str]) -> tuple[str, ...]:
        """Return the role of each delta of a cell; raises ValueError when their number does not fit."""
        if len(deltas) < len(self.roles) or (len(deltas) > len(self.roles) and not self.open):
            expected, found = ", ".join(self.roles), ", ".join(deltas)
            raise ValueError(f'expected deltas in the roles {expected} for cells of the kind "{self.label}", got {found}')
        return (*self.roles, *deltas[len(self.roles) :])


@dataclass(frozen=True)
class Linear:
    """The response of some logits to some numbers, y(z) ~ y0 + G z, at a reference point: G (N, C, M), y0 (N, C)."""

    G: np.ndarray
    y0: np.ndarray
    labels: np.ndarray
    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]

    @property
    def loss(self) -> CrossEntropy:
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


def own_rng(setting: Setting, *numbers: int) -> np.random.Generator:
    """Return random numbers of the cell's own text: tasks of one seed would otherwise share their draws, and err together."""
    text = zlib.crc32(np.ascontiguousarray(setting.train.tokens.cpu().numpy()).tobytes())
    return np.random.default_rng([setting.seed, text, *numbers])


def own_seed(setting: Setting, *numbers: int) -> int:
    """Return a seed of the cell's own text (see `own_rng`)."""
    return int(own_rng(setting, *numbers).integers(2**31))


def linearise(outputs: Callable[[Params, Any], Tensor], params: Params, batch: Any) -> Linear:
    """Return the exact first-order response of `outputs` at `params`, in float64."""
    measured = response(outputs, params, [batch])
    matrix = measured.matrix.detach().double().cpu().numpy()
    labels = batch.labels.cpu().numpy()
    return Linear(
        matrix,
        measured.outputs.detach().double().cpu().numpy(),
        labels,
        tuple(measured.names),
        tuple(tuple(measured.shapes[n]) for n in measured.names),
    )


MARGIN = 1.5
GRID = tuple(float(x) for x in 10.0 ** np.arange(0.0, -3.01, -0.5))


def departure(lin: Linear, control: Control, outputs: np.ndarray) -> float:
    """Return the median over examples of eta = |y(z) - y(0) - G z| / |G z|, the departure from linearity at a control."""
    return off(outputs - lin.y0, lin.G @ control.z)


def off(shift: np.ndarray, linear: np.ndarray) -> float:
    """Return eta, the median over examples of |shift - linear| / |linear|, for shifts of the logits (N, C)."""
    return float(np.median(np.linalg.norm(shift - linear, axis=1) / np.maximum(np.linalg.norm(linear, axis=1), 1e-12)))


def penalty(setting: Setting, lin: Linear, outputs: Callable[[Params, Any], Tensor], origin: Params) -> float:
    """Return the penalty r of a cell, from the frozen model alone.

    With a regime: the smallest r on a half-decade grid below the largest curvature whose linearised optimum keeps
    eta <= regime on the training text, found from the top, but no less than `MARGIN` times the most negative eigenvalue of
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
    chosen, floor, kernel = scale, MARGIN * max(0.0, -lowest), lin.kernel()
    for share in GRID:
        if share * scale < floor:
            break
        control = lin.optimum(share * scale, kernel=kernel)
        if departure(lin, control, logits(outputs, shifted(origin, control.z), setting.train)) > setting.regime:
            break
        chosen = share * scale
    return max(chosen, floor)


def shifted(params: Params, vector: np.ndarray) -> Params:
    """Return params + vector."""
    return {name: p + d for (name, p), d in zip(params.items(), unflatten(vector, params).values(), strict=True)}


def logits(outputs: Callable[[Params, Any], Tensor], params: Params, batch: Any) -> np.ndarray:
    """Return the outputs as float64 numpy, without a graph."""
    with torch.no_grad():
        return outputs(params, batch).double().cpu().numpy()


def cross_entropy(outputs: np.ndarray, labels: np.ndarray) -> float:
    """Return the mean cross-entropy of logits (N, C) in nats."""
    return float(CrossEntropy(labels).value(outputs).mean())


def steered_loss(subject: Any, signals: Params, batch: Any) -> Tensor:
    """Return the mean cross-entropy of the frozen backbone with additive signals at ports."""
    return torch.nn.functional.cross_entropy(subject.steered(signals, batch), batch.labels)


def train(setting: Setting, objective: Callable[[Params], Tensor], initial: Params) -> Fit:
    """Return the full-batch optimum of an objective with the study's tolerance and budget."""
    return fit(objective, initial, tolerance=setting.tolerance, max_evaluations=setting.evaluations)


def l2(params: Params, origin: Params) -> Tensor:
    """Return |params - origin|^2."""
    return sum(((p - origin[name]) ** 2).sum() for name, p in params.items())


def cost(fitted: Fit) -> dict:
    """Return a training's convergence as plain numbers (its durations go to the provenance, not here)."""
    return {
        "converged": bool(fitted.converged),
        "evaluations": int(fitted.evaluations),
        "gradient_ratio": float(fitted.gradient_norm / max(fitted.initial_gradient_norm, 1e-30)),
    }
