"""The ends of a low-rank update's Hessian: in closed form from the frozen model, by Lanczos at the trained delta."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from probes.curvature.hessian import hessian
from probes.curvature.spectrum import top_eigenpairs
from theory.ensemble import roots

from ...store import Record
from ..shared.linearisation import Linearisation, linearise
from ..shared.setting import Experiment, Setting, own_rng
from ..shared.training import at_start, cost, cross_entropy, loss_at, penalised, train

OWN = 2  # modules, the last ones, whose own block is looked at as well
ENDS = 2  # multiplets compared at either end
TOLERANCE = 0.02  # residual over eigenvalue at which an eigenpair counts as found
SHARES = (0.85, 0.7)  # penalties over the size of the lowest eigenvalue at the start, at which the start stops being stable


@dataclass(frozen=True)
class StartHessian:
    """The Hessian of B A at B = 0 in the Gauss-Newton approximation, a symmetric operator on (every A, every B).

    H = [[0, s G' (x) I], [s G (x) I, X X']] with G = dL/dW of each adapted map and X X' the Gauss-Newton matrix in all the B
    at once. Between modules only the B interact, for at B = 0 no A moves the outputs. gradients: s G of each module, (m, n);
    X: (sum of m r, rows).
    """

    gradients: tuple[Tensor, ...]
    rank: int
    X: Tensor
    dtype: torch.dtype = torch.float64

    @property
    def shape(self) -> tuple[int, int]:
        """Return (D, D), D the numbers of every A and B."""
        size = self.rank * sum(sum(g.shape) for g in self.gradients)
        return size, size

    def __matmul__(self, v: Tensor) -> Tensor:
        columns = v.reshape(len(v), -1)
        a, b = columns.split([len(v) - len(self.X), len(self.X)])
        left = a.split([self.rank * g.shape[1] for g in self.gradients])
        right = b.split([self.rank * g.shape[0] for g in self.gradients])
        up, down = [], []
        for g, x, y in zip(self.gradients, left, right, strict=True):
            up.append(torch.einsum("mn,rnk->mrk", g, x.reshape(self.rank, g.shape[1], -1)).flatten(0, 1))
            down.append(torch.einsum("mn,mrk->rnk", g, y.reshape(g.shape[0], self.rank, -1)).flatten(0, 1))
        return torch.cat([*down, torch.cat(up) + self.X @ (self.X.T @ b)]).reshape(v.shape)

    def cut(self, r: float) -> "StartHessian":
        """Return the same with the singular values of every s G cut at r."""
        parts = [torch.linalg.svd(g, full_matrices=False) for g in self.gradients]
        return replace(self, gradients=tuple(u * sigma.clamp_max(r) @ vt for u, sigma, vt in parts))

    def alone(self, module: int) -> "StartHessian":
        """Return the block of one module's A and B."""
        sizes = [self.rank * len(g) for g in self.gradients]
        return StartHessian((self.gradients[module],), self.rank, self.X.split(sizes)[module])


def modules(params: Mapping[str, Tensor]) -> list[str]:
    """Return the names of the adapted maps; raises ValueError for parameters that are not pairs NAME.A (r, n), NAME.B (m, r)."""
    names = [name.removesuffix(".A") for name in params if name.endswith(".A")]
    if not names or set(params) != {f"{name}.{factor}" for name in names for factor in "AB"}:
        raise ValueError(f"expected the factors A and B of low-rank updates, got {', '.join(params)}: give the part a LoRA")
    return names


def weight_gradients(subject, names: list[str], batch) -> tuple[Tensor, ...]:
    """Return s dL/dW (m, n) of each module at W itself: the gradient in B where A is the identity and B zero."""
    params = {}
    for name in names:
        (m, _), (_, n) = subject.initial[f"{name}.B"].shape, subject.initial[f"{name}.A"].shape
        params |= {f"{name}.A": torch.eye(n, dtype=subject.dtype), f"{name}.B": torch.zeros(m, n, dtype=subject.dtype)}
    leaves = [params[f"{name}.B"].requires_grad_() for name in names]
    return tuple(g.double() for g in torch.autograd.grad(subject.loss(params, batch), leaves))


def half_curvature(lin: Linearisation) -> np.ndarray:
    """Return X (M, N (C - 1)) with X X' = (1/N) sum_i G_i' H_i G_i, H the softmax curvature at the frozen logits."""
    n, c, size = lin.G.shape
    E = lin.loss.basis(c)
    S = E @ roots(E.T @ lin.loss.hessian(lin.y0) @ E / n)
    return np.einsum("ncm,ncd->mnd", lin.G, S).reshape(size, -1)


def ends(op, k: int) -> dict[str, list[float]]:
    """Return the k most negative and the k most positive eigenvalues of an operator, both from the outside in."""
    return {which: top_eigenpairs(op, k, which=which, tol=TOLERANCE).values.tolist() for which in ("smallest", "largest")}


def _rivals(start: StartHessian, k: int) -> dict[str, dict[str, list[float]]]:
    """Return the ends that the gradient alone gives, with multiplicity and without, and those of the Gauss-Newton part alone."""
    sigma = torch.cat([torch.linalg.svdvals(g) for g in start.gradients]).sort(descending=True).values.numpy()
    repeated, once = np.repeat(sigma, start.rank)[:k], sigma[:k]
    gauss = torch.linalg.eigvalsh(start.X.T @ start.X).flip(0)[:k].clamp_min(0.0).numpy()
    pairs = {
        "multiplets": (-repeated, repeated),
        "once": (-once, once),
        "gauss_newton": (np.zeros(k), np.pad(gauss, (0, k - len(gauss)))),
    }
    return {name: {"smallest": low.tolist(), "largest": high.tolist()} for name, (low, high) in pairs.items()}


def predict(setting: Setting) -> Record:
    """Return the outermost `ENDS` times rank eigenvalues at either end, all modules together, and the last `OWN` modules alone.

    The penalties are `SHARES` of the size of the lowest eigenvalue at the start. At an optimum with the penalty
    (r/2)(|A|^2 + |B|^2), which is a nuclear norm on B A (Srebro et al. 2005), the singular values of s dL/dW do not exceed r;
    so the prediction is the end of `StartHessian` with its gradients' singular values cut at r. Rivals: the same uncut, the
    cut multiplets alone, each cut singular value once, the Gauss-Newton part alone. Null: permuted labels, cut as well.
    """
    subject = setting.subjects["lora"]
    origin = at_start(subject)
    names = modules(origin)
    rank = len(origin[f"{names[0]}.A"])
    k = ENDS * rank
    free = {f"{name}.B": origin[f"{name}.B"] for name in names}
    lin = linearise(lambda b, batch: subject.outputs({**origin, **b}, batch), free, setting.train)
    start = StartHessian(weight_gradients(subject, names, setting.train), rank, torch.from_numpy(half_curvature(lin)))
    order = own_rng(setting, 131).permutation(len(lin.labels))
    permuted = setting.train._replace(labels=setting.train.labels[torch.as_tensor(order)])
    null = replace(start, gradients=weight_gradients(subject, names, permuted))
    uncut = ends(start, k)
    levels = []
    for share in setting.options.get("shares", SHARES):
        r = share * abs(uncut["smallest"][0])
        cut = start.cut(r)
        levels.append(
            {
                "share": share,
                "r": r,
                "predicted": ends(cut, k) if share < 1 else uncut,
                "start": uncut,
                **_rivals(cut, k),
                "permuted": ends(null.cut(r), k),
                "modules": [ends(cut.alone(i), rank) for i in range(len(names))[-OWN:]],
            }
        )
    loss = cross_entropy(lin.y0, lin.labels)
    return Record({"rank": rank, "modules": names, "loss": loss, "levels": levels}, {})


def measure(setting: Setting, predicted: Record) -> Record:
    """Return the same ends of the exact Hessian of the training loss at the delta trained with each penalty.

    Of the last modules' own blocks it is one multiplet at either end.
    """
    subject, rank = setting.subjects["lora"], predicted.values["rank"]
    origin = at_start(subject)
    levels = []
    for level in predicted.values["levels"]:
        fitted = train(setting, penalised(subject.loss, setting.train, level["r"], origin), origin)
        curvature = hessian(subject.loss, fitted.params, [setting.train])
        blocks = [curvature.block([f"{n}.A", f"{n}.B"]) for n in predicted.values["modules"][-OWN:]]
        levels.append(
            {
                "all": ends(curvature, ENDS * rank),
                "modules": [ends(block, rank) for block in blocks],
                "loss": loss_at(subject.outputs, fitted.params, setting.train),
                **cost(fitted),
            }
        )
    return Record({"levels": levels}, {})


EXPERIMENT = Experiment(
    "multiplets", "both ends of a low-rank update's Hessian", ("lora",), predict, measure, weight=6.0, per_delta=True
)
