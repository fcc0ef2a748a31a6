"""The curvature of a delta's loss before and after training: outlying eigenvalues, and what Gauss-Newton leaves out."""

import numpy as np
import torch
from scipy.special import softmax
from torch import Tensor

from probes.curvature.hessian import hessian
from probes.curvature.operators import Operator
from probes.curvature.spectrum import top_eigenpairs

from ...store import Record
from ..shared.linearisation import Linearisation, departure, linearise, penalty
from ..shared.setting import Experiment, Params, Setting, own_rng
from ..shared.training import at_start, cost, logits, penalised, shifted, train

LEADING = 16  # eigenvalues among which the gap is looked for, whatever the number of classes
FLOOR = 1e-4  # eigenvalues below this share of the largest count as zero in the gap rule
PROBES, PERMUTATIONS, DRAWS = 12, 24, 16


def outliers(values: np.ndarray) -> int:
    """Return how many eigenvalues stand out, argmax_{k < 16} lambda_k / lambda_(k+1): the place of the widest gap.

    values: in decreasing order, zeros appended where fewer are known. Raises ValueError unless the first is positive.
    """
    if not len(values) or not values[0] > 0:
        raise ValueError(f"expected eigenvalues in decreasing order, the first positive, got {values[:3]}")
    top = np.zeros(LEADING)
    top[: len(values)] = values[:LEADING]
    top = np.maximum(top, FLOOR * top[0])
    return int(np.argmax(top[:-1] / top[1:])) + 1


def factor(G: np.ndarray, outputs: np.ndarray) -> np.ndarray:
    """Return X (N C, M) with X'X the Gauss-Newton matrix of the mean cross-entropy.

    Rows are sqrt(p_ic / N) g_ic with g_ic = G_i'(e_c - p_i) the gradient of example i's loss were its label c (Papyan 2020,
    section 3). G: (N, C, M), outputs: (N, C).
    """
    p = softmax(outputs, axis=-1)
    g = G - np.einsum("nc,ncm->nm", p, G)[:, None]
    return (np.sqrt(p / len(p))[..., None] * g).reshape(-1, G.shape[-1])


def class_means(G: np.ndarray, outputs: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the between-class factor (K C, M) and the within-class factor (N C, M) of the Gauss-Newton matrix.

    For class k and logit c let w_kc = sum_{i in k} p_ic / N and m_kc = sum_{i in k} p_ic g_ic / (N w_kc). Then
    X'X = B'B + W'W exactly, with rows sqrt(w_kc) m_kc of B and sqrt(p_ic / N) (g_ic - m_kc) of W (the class and cross-class
    means of Papyan 2020, section 3, without leaving out c = k). K counts the labels that occur.
    """
    root = np.sqrt(softmax(outputs, axis=-1) / len(outputs))
    x = factor(G, outputs).reshape(G.shape)
    kinds, own = np.unique(labels, return_inverse=True)
    member = np.eye(len(kinds))[own]
    size = np.sqrt(member.T @ root**2)  # (K, C)
    inverse = 1.0 / np.maximum(size, 1e-150)[..., None]  # a probability may underflow to nothing, and its gradient with it
    between = inverse * np.einsum("nk,nc,ncm->kcm", member, root, x, optimize=True)
    within = x - root[..., None] * (inverse * between)[own]
    return between.reshape(-1, G.shape[-1]), within.reshape(-1, G.shape[-1])


def spectrum(rows: np.ndarray) -> np.ndarray:
    """Return the eigenvalues of rows' rows, largest first, as many as there are rows or columns."""
    gram = rows @ rows.T if rows.shape[0] <= rows.shape[1] else rows.T @ rows
    return np.maximum(np.linalg.eigvalsh(gram)[::-1], 0.0)


def directions(rows: np.ndarray, count: int) -> np.ndarray:
    """Return the leading `count` eigenvectors (M, count) of rows' rows."""
    return np.linalg.svd(rows, full_matrices=False)[2][:count].T


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Return |A'B|^2 / k of two orthonormal bases (M, k): 1 for the same subspace, k / M for random ones."""
    return float(np.sum((a.T @ b) ** 2) / b.shape[1])


def residual(setting: Setting, params: Params, slope: np.ndarray) -> Operator:
    """Return R = (1/N) sum_ic s_ic d2 y_ic / dz2 at `params`, the Hessian's part beside Gauss-Newton for slopes s = dl/dy."""
    subject = setting.subjects["delta"]
    first = next(iter(params.values()))
    weight = torch.as_tensor(slope, dtype=first.dtype, device=first.device)

    def weighted(z: Params, batch) -> Tensor:
        return (weight * subject.outputs(z, batch)).sum(1).mean()

    return hessian(weighted, {name: p.detach() for name, p in params.items()}, [setting.train], allow_unused=True)


def probes(setting: Setting, size: int) -> np.ndarray:
    """Return the random signs (M, 12) that a cell's Frobenius norms are estimated with, the same before and after training."""
    return own_rng(setting, 105).choice([-1.0, 1.0], size=(size, PROBES))


def apply(operator: Operator, columns: np.ndarray) -> np.ndarray:
    """Return the operator's product with columns (M, k) in float64."""
    return (operator @ torch.as_tensor(columns, dtype=operator.dtype, device=operator.device)).double().cpu().numpy()


def _compare(setting: Setting, params: Params, lin: Linearisation) -> dict:
    """Return Hessian minus Gauss-Newton at a point, along the C - 1 leading Gauss-Newton eigenvectors, the next, and off them.

    along: mean of |v'Rv| / v'Gv; off: |P R P|_F / |P G P|_F with P the projection off the leading eigenvectors, where
    |P R P|^2 = |R|^2 - 2 |R V|^2 + |V'R V|^2 and |R|^2 is the mean of |R s|^2 over random signs s.
    """
    count, x = lin.y0.shape[1] - 1, factor(lin.G, lin.y0)
    values, v = spectrum(x), directions(x, 2 * count)
    rest = residual(setting, params, lin.loss.gradient(lin.y0))
    moved, noise = apply(rest, v), apply(rest, probes(setting, len(v)))
    relative = np.abs(np.sum(v * moved, axis=0)) / values[: 2 * count]
    square = float(np.mean(np.sum(noise**2, axis=0)))
    top = v[:, :count]
    off = square - 2 * np.sum(moved[:, :count] ** 2) + np.sum((top.T @ moved[:, :count]) ** 2)
    return {
        "along": float(np.mean(relative[:count])),
        "next": float(np.mean(relative[count:])),
        "off": float(np.sqrt(max(off, 0.0) / np.sum(values[count:] ** 2))),
        "residual": float(np.sqrt(square)),
        "misfit": float(np.linalg.norm(lin.loss.gradient(lin.y0))),
        "count": outliers(values),
    }


def predict(setting: Setting) -> Record:
    """Return what the frozen model says of the curvature after training.

    The class structure of its Gauss-Newton matrix: how many between-class eigenvalues exceed the within-class bulk, and
    their directions; rivals: the means over all classes (logit clustering), the matrix's own eigenvectors; nulls: permuted
    labels, Gaussian gradients of the same lengths. The residual after training: R at the frozen model with the slopes
    softmax(y0 + G z) - onehot of the linearised optimum z.
    """
    subject, origin = setting.subjects["delta"], at_start(setting.subjects["delta"])
    lin = linearise(subject.outputs, subject.initial, setting.train)
    r = penalty(setting, lin, subject.outputs, subject.initial)
    control = lin.optimum(r)
    count, x = lin.y0.shape[1] - 1, factor(lin.G, lin.y0)
    between, within = class_means(lin.G, lin.y0, lin.labels)
    rng = own_rng(setting, 106)
    lengths = np.linalg.norm(x, axis=1, keepdims=True)
    gaussian = [outliers(spectrum(lengths * _unit(rng.standard_normal(x.shape)))) for _ in range(DRAWS)]
    permuted = [directions(class_means(lin.G, lin.y0, rng.permutation(lin.labels))[0], count) for _ in range(PERMUTATIONS)]
    slope = lin.loss.gradient(lin.y0 + lin.G @ control.z)
    after = apply(residual(setting, origin, slope), probes(setting, lin.G.shape[-1]))
    moved = logits(subject.outputs, shifted(subject.initial, control.z), setting.train)
    return Record(
        {
            "r": r,
            "eta": departure(lin, control, moved),
            "classes": count + 1,
            "size": int(lin.G.shape[-1]),
            "ports": len(subject.ports),
            "structure": int(np.sum(spectrum(between) > spectrum(within)[0])),
            "gaussian": gaussian,
            "start": _compare(setting, origin, lin),
            "residual": float(np.sqrt(np.mean(np.sum(after**2, axis=0)))),
            "misfit": float(np.linalg.norm(slope)),
        },
        {
            name: np.asarray(basis, np.float32)
            for name, basis in (
                ("between", directions(between, count)),
                ("logit", directions(class_means(lin.G, lin.y0, np.zeros_like(lin.labels))[0], count)),
                ("frozen", directions(x, count)),
                ("permuted", permuted),
            )
        },
    )


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def measure(setting: Setting, predicted: Record) -> Record:
    """Return the trained delta's leading Hessian eigenvalues, where their vectors lie, and the Hessian against Gauss-Newton."""
    subject, origin = setting.subjects["delta"], at_start(setting.subjects["delta"])
    fitted = train(setting, penalised(subject.loss, setting.train, predicted.values["r"], origin), origin)
    lin = linearise(subject.outputs, fitted.params, setting.train)
    operator = hessian(subject.loss, fitted.params, [setting.train], allow_unused=True)
    pairs = top_eigenpairs(operator, min(LEADING, operator.shape[0]), which="largest", tol=1e-2)
    values = pairs.values.double().cpu().numpy()
    found, count = pairs.vectors.double().cpu().numpy(), lin.y0.shape[1] - 1
    a = {name: basis.astype(float) for name, basis in predicted.arrays.items()}
    shares = {f"overlap_{name}": overlap(a[name], found[:, :count]) for name in ("between", "logit", "frozen")}
    permuted = [overlap(basis, found[:, :count]) for basis in a["permuted"]]
    return Record(
        {
            **cost(fitted),
            **shares,
            "overlap_permuted": float(np.quantile(permuted, 0.975)),
            "overlap_random": count / len(found),
            "resolved": bool(pairs.converged.all()),
            "products": int(pairs.products),
            "count": outliers(values),
            "values": values.tolist(),
            "gauss_newton": spectrum(factor(lin.G, lin.y0))[:LEADING].tolist(),
            "end": _compare(setting, fitted.params, lin),
        },
        {},
    )


EXPERIMENT = Experiment(
    "curvature", "curvature of one delta before and after training", ("delta",), predict, measure, weight=8.0, per_delta=True
)
