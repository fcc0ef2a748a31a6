"""The rivals of the curvature bench: the packages' own operators and algorithms on one subject, each in its usual way.

A maker returns None where its package is absent, so that a row can say "not installed".
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable, Sequence

import numpy as np
import torch
from scipy.sparse.linalg import eigsh
from torch import Tensor, nn

from bench.peers import installed
from bench.subjects import Subject


def host(x) -> np.ndarray:
    """Return numbers as an array, off whatever device and graph they are on."""
    return np.asarray(x.detach().cpu().numpy() if isinstance(x, Tensor) else x)


def fresh_product(subject: Subject) -> Callable[[Tensor], Tensor]:
    """Return v -> H v by a new double backward for every product: what one writes down without a package."""
    params = list(subject.params.values())

    def product(v: Tensor) -> Tensor:
        total, items = torch.zeros_like(v), sum(len(batch[1]) for batch in subject.batches)
        parts = _parts(v, params)
        for batch in subject.batches:
            slopes = torch.autograd.grad(subject.criterion(subject.model(batch[0]), batch), params, create_graph=True)
            total += _flat(torch.autograd.grad(slopes, params, parts)) * (len(batch[1]) / items)
        return total

    return product


def kept_product(subject: Subject) -> Callable[[Tensor], Tensor]:
    """Return v -> H v by double backward through the kept graph of one gradient, of a subject with one batch."""
    params, (batch,) = list(subject.params.values()), subject.batches
    slopes = torch.autograd.grad(subject.criterion(subject.model(batch[0]), batch), params, create_graph=True)

    def product(v: Tensor) -> Tensor:
        return _flat(torch.autograd.grad(slopes, params, _parts(v, params), retain_graph=True))

    return product


def fresh_gauss_newton(subject: Subject) -> Callable[[Tensor], Tensor]:
    """Return v -> J'(d2L/dy2) J v by the graphs of `kept_gauss_newton`, new for every product."""
    return lambda v: kept_gauss_newton(subject)(v)


def kept_gauss_newton(subject: Subject) -> Callable[[Tensor], Tensor]:
    """Return v -> J'(d2L/dy2) J v through kept graphs, J v as the derivative of J'u in u, of a subject with one batch."""
    params, (batch,) = list(subject.params.values()), subject.batches
    y = subject.model(batch[0])
    leaf, u = y.detach().requires_grad_(), torch.zeros_like(y, requires_grad=True)
    (slope,) = torch.autograd.grad(subject.criterion(leaf, batch), leaf, create_graph=True)
    pulled = torch.autograd.grad(y, params, u, create_graph=True)

    def product(v: Tensor) -> Tensor:
        (pushed,) = torch.autograd.grad(pulled, u, _parts(v, params), retain_graph=True)
        (bent,) = torch.autograd.grad(slope, leaf, pushed, retain_graph=True)
        return _flat(torch.autograd.grad(y, params, bent, retain_graph=True))

    return product


def _parts(v: Tensor, params: list[Tensor]) -> list[Tensor]:
    return [x.view_as(p) for x, p in zip(v.split([p.numel() for p in params]), params, strict=True)]


def _flat(rows: Sequence[Tensor]) -> Tensor:
    return torch.cat([row.reshape(-1) for row in rows])


def curvlinops_operator(subject: Subject, kind: str = "Hessian", check: bool = True) -> Callable[[], object] | None:
    """Return the call that makes curvlinops' Hessian or GGN operator."""
    if not installed("curvlinops"):
        return None
    import curvlinops

    make = getattr(curvlinops, f"{kind}LinearOperator")
    criterion = nn.CrossEntropyLoss()
    return lambda: make(subject.model, criterion, list(subject.params.values()), subject.batches, check_deterministic=check)


def curvlinops_eigsh(subject: Subject, k: int, tol: float, kind: str = "Hessian") -> Callable[[], np.ndarray] | None:
    """Return the k eigenvalues largest in magnitude of its operator by scipy's ARPACK, as its documentation does."""
    make = curvlinops_operator(subject, kind)
    return None if make is None else lambda: _arpack(make().to_scipy(), k, tol)


def _arpack(operator, k: int, tol: float) -> np.ndarray:
    start = np.random.default_rng(0).standard_normal(operator.shape[0]).astype(operator.dtype)
    return eigsh(operator, k, which="LM", tol=tol, v0=start, return_eigenvectors=False)


def curvlinops_nodes(
    subject: Subject, probes: int, steps: int, bounds: tuple[float, float]
) -> Callable[[], tuple[np.ndarray, np.ndarray]] | None:
    """Return its Lanczos quadrature, with the ends of the spectrum given to it: (nodes, weights)."""
    make = curvlinops_operator(subject)
    if make is None:
        return None
    from curvlinops import LanczosApproximateSpectrumCached

    def run() -> tuple[np.ndarray, np.ndarray]:
        torch.manual_seed(0)
        spectrum = LanczosApproximateSpectrumCached(make(), steps, boundaries=bounds)
        spectrum.approximate_spectrum(num_repeats=probes)
        rules = spectrum._get_lanczos_iters(probes)  # kept by now: what its smoothed curve is made of
        return np.stack([host(values) for values, _ in rules]), np.stack([host(v[0]) ** 2 for _, v in rules])

    return run


def wrapped(op, size: int, dtype: torch.dtype):
    """Return any operator as one of curvlinops', so that its trace estimators can be given exact products."""
    from curvlinops._torch_base import PyTorchLinearOperator

    class Wrapped(PyTorchLinearOperator):
        SELF_ADJOINT = True
        device, dtype = torch.device("cpu"), None

        def _matmat(self, X):
            return [op @ X[0]]

    made = Wrapped([(size,)], [(size,)])
    made.dtype = dtype
    return made


def curvlinops_trace(op, size: int, dtype: torch.dtype, method: str, budget: int) -> Callable[[int], float] | None:
    """Return seed -> an estimate of the trace by "hutchinson_trace", "hutchpp_trace" or "xtrace" from `budget` products."""
    if not installed("curvlinops"):
        return None
    import curvlinops

    estimate, operator = getattr(curvlinops, method), wrapped(op, size, dtype)

    def run(seed: int) -> float:
        torch.manual_seed(seed)
        return float(estimate(operator, budget))

    return run


def _loss(model: nn.Module, batch) -> Tensor:
    return Subject.criterion(model(batch[0]), batch)


def eigenthings_operator(subject: Subject, kind: str = "hessian") -> Callable[[], object] | None:
    """Return the call that makes hessian-eigenthings' Hessian or GGN operator."""
    if not installed("hessian_eigenthings"):
        return None
    from hessian_eigenthings import GGNOperator, HessianOperator

    if kind == "hessian":
        return lambda: HessianOperator(subject.model, subject.batches, _loss)
    return lambda: GGNOperator(subject.model, subject.batches, lambda model, batch: model(batch[0]), Subject.criterion)


def eigenthings_language(net: nn.Module, batch: dict[str, Tensor], kind: str) -> Callable[[], object] | None:
    """Return the call that makes its operator of a causal language model, by its own loss and fused product, if it has one."""
    if not installed("hessian_eigenthings"):
        return None
    import hessian_eigenthings as package

    if kind == "hessian":
        return lambda: package.HessianOperator(net, [batch], package.hf_lm_loss())
    return lambda: package.GGNOperator(net, [batch], package.hf_lm_forward(), package.hf_lm_loss_of_output())


def eigenthings_is_fused() -> bool:
    """Return whether the installed release multiplies by the cross entropy's second derivative in closed form."""
    from hessian_eigenthings import hf_lm_loss_of_output

    return hasattr(hf_lm_loss_of_output(), "hvp")


def eigenthings_lanczos(
    subject: Subject, k: int, tol: float, steps: int | None = None, kind: str = "hessian"
) -> Callable[[], np.ndarray] | None:
    """Return k eigenvalues of its Lanczos after `steps` steps, by default 2 k."""
    make = eigenthings_operator(subject, kind)
    if make is None:
        return None
    from hessian_eigenthings import lanczos

    return lambda: host(lanczos(make(), k=k, tol=tol, max_iter=steps, seed=0).eigenvalues)


def eigenthings_nodes(subject: Subject, probes: int, steps: int) -> Callable[[], tuple[np.ndarray, np.ndarray]] | None:
    """Return its stochastic Lanczos quadrature: (nodes, weights)."""
    make = eigenthings_operator(subject)
    if make is None:
        return None
    from hessian_eigenthings import spectral_density

    def run() -> tuple[np.ndarray, np.ndarray]:
        made = spectral_density(make(), num_runs=probes, lanczos_steps=steps, seed=0)
        return host(made.raw_eigenvalues), host(made.raw_weights)

    return run


def eigenthings_trace(op, size: int, dtype: torch.dtype, budget: int) -> Callable[[int], float] | None:
    """Return seed -> its Hutch++ estimate from `budget` products with the given operator."""
    if not installed("hessian_eigenthings"):
        return None
    from hessian_eigenthings import LambdaOperator, trace

    made = LambdaOperator(lambda v: op @ v, size, dtype=dtype)
    return lambda seed: trace(made, num_matvecs=budget, method="hutch++", seed=seed).estimate


def pyhessian_object(subject: Subject) -> Callable[[], object] | None:
    """Return the call that makes PyHessian's object on one batch, whose gradient graph it keeps.

    It leaves the gradients, with their graphs, on the parameters; they are taken off, or every object would leak.
    """
    if not installed("pyhessian") or len(subject.batches) != 1:
        return None
    with contextlib.redirect_stdout(io.StringIO()):
        from pyhessian import hessian

    def make():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the leak
            made = hessian(subject.model, nn.CrossEntropyLoss(), data=subject.batches[0], cuda=subject.batches[0][0].is_cuda)
        subject.model.zero_grad()
        return made

    return make


def pyhessian_product(subject: Subject) -> Callable[[Tensor], Tensor] | None:
    """Return v -> H v by PyHessian's kept graph."""
    make = pyhessian_object(subject)
    if make is None:
        return None
    from pyhessian.utils import hessian_vector_product

    made = make()

    def product(v: Tensor) -> Tensor:
        return _flat(hessian_vector_product(made.gradsH, made.params, _parts(v, made.params)))

    return product


def pyhessian_eigenvalues(subject: Subject, k: int, tol: float) -> Callable[[], np.ndarray] | None:
    """Return the eigenvalues of its power iteration with deflation."""
    make = pyhessian_object(subject)
    if make is None:
        return None

    def run() -> np.ndarray:
        torch.manual_seed(0)
        return np.array(make().eigenvalues(tol=tol, top_n=k)[0])

    return run


def pyhessian_nodes(subject: Subject, probes: int, steps: int) -> Callable[[], tuple[np.ndarray, np.ndarray]] | None:
    """Return its density: (nodes, weights)."""
    make = pyhessian_object(subject)
    if make is None:
        return None

    def run() -> tuple[np.ndarray, np.ndarray]:
        torch.manual_seed(0)
        nodes, weights = make().density(iter=steps, n_v=probes)
        return np.real(np.array(nodes)), np.real(np.array(weights))

    return run


def pyhessian_trace(subject: Subject, budget: int) -> Callable[[int], float] | None:
    """Return seed -> its Hutchinson estimate from at most `budget` products of its own, its stopping rule at its default."""
    make = pyhessian_object(subject)
    if make is None:
        return None
    made = make()

    def run(seed: int) -> float:
        torch.manual_seed(seed)
        return float(np.mean(made.trace(maxIter=budget)))

    return run
