"""Training reaches the optimum where it is known, says when it does not, and costs what it says."""

import dataclasses
import math

import numpy as np
import pytest
import torch
import zoo
from seeds import shifted

from tuning import Batch, LoRA, PortBias, Readout, features, fit, fit_readout, gradient_descent, minibatch, penalized, subject
from tuning.training import flatten, penalized_signals, penalized_weights, unflatten


def quadratic(n: int = 12, condition: float = 100.0):
    """1/2 x'Ax - b'x over two tensors, with its minimiser."""
    generator = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=torch.float64)).Q
    matrix = basis @ torch.diag(torch.logspace(0, math.log10(condition), n, dtype=torch.float64)) @ basis.T
    right = torch.randn(n, generator=generator, dtype=torch.float64)

    def objective(params):
        x = torch.cat([params["a"].reshape(-1), params["b"]])
        return x @ matrix @ x / 2 - right @ x

    start = {"a": torch.zeros(2, 3, dtype=torch.float64), "b": torch.zeros(n - 6, dtype=torch.float64)}
    return objective, start, torch.linalg.solve(matrix, right).numpy()


@pytest.mark.parametrize(("method", "tolerance"), [(fit, 1e-12), (gradient_descent, 1e-8)])
def test_a_quadratic_is_solved(method, tolerance):
    objective, start, solution = quadratic()
    run = method(objective, start, tolerance=tolerance, max_evaluations=5000)
    assert run.converged and run.gradient_norm <= tolerance * run.initial_gradient_norm
    # |x - x*| <= |g| / smallest eigenvalue, which is one.
    assert np.linalg.norm(flatten(run.params) - solution) <= 1.001 * run.gradient_norm
    assert run.evaluations >= run.history[-1][0] and run.cpu_seconds > 0 and run.wall_seconds > 0
    assert [name for name in run.params] == ["a", "b"] and run.params["a"].shape == (2, 3)


def test_a_run_that_is_cut_short_says_so():
    objective, start, _ = quadratic(condition=1e6)
    run = fit(objective, start, tolerance=1e-12, max_evaluations=5)
    assert not run.converged and run.evaluations <= 8, "a line search in progress may finish"
    assert run.value <= run.history[0][1]


def test_starting_at_the_optimum_costs_one_evaluation():
    start = {"a": torch.zeros(3, dtype=torch.float64)}
    run = fit(lambda p: p["a"].square().sum(), start)
    assert run.converged and run.evaluations == 1


def test_flat_vectors_invert():
    _, start, _ = quadratic()
    vector = np.arange(12.0)
    assert np.array_equal(flatten(unflatten(vector, start)), vector)


@pytest.mark.parametrize("penalty", [penalized, penalized_signals])
@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_a_port_bias_is_trained_to_its_regularised_optimum(kind, penalty):
    """At the optimum of loss + r/2 |b|^2, b = -grad(loss)/r; both arms find the same point."""
    backbone, batch, r = zoo.backbone_of(kind), zoo.batch_of(size=8), 0.5
    made = zoo.subject_of(backbone, PortBias())
    objective = penalty(made, [batch], r)
    run = fit(objective, made.initial, tolerance=1e-8)
    assert run.converged
    leaves = {name: value.requires_grad_() for name, value in run.params.items()}
    slopes = torch.autograd.grad(made.loss(leaves, batch), list(leaves.values()))
    for value, slope in zip(leaves.values(), slopes, strict=True):
        assert (value.detach() + slope / r).abs().max() < 1e-7, "the port bias's energy is its squared norm"
    slow = gradient_descent(objective, made.initial, tolerance=1e-6)
    assert slow.converged and np.linalg.norm(flatten(slow.params) - flatten(run.params)) < 1e-5


def test_batches_are_averaged_by_their_sizes():
    backbone, batch = zoo.backbone_of("bert"), zoo.batch_of(size=7)
    made = zoo.subject_of(backbone, LoRA(2))
    params = zoo.moved(made.initial)
    parts = [Batch(*(x[rows] for x in batch)) for rows in (slice(0, 2), slice(2, 7))]
    for penalty in (penalized, penalized_signals, penalized_weights):
        whole, pieces = (penalty(made, some, 0.3)(params) for some in ([batch], parts))
        assert abs(whole - pieces) < 1e-12
    changes = made.delta.weight_changes(backbone, params).values()
    expected = made.loss(params, batch) + 0.15 * sum(change.square().sum() for change in changes)
    assert abs(penalized_weights(made, [batch], 0.3)(params) - expected) < 1e-12


def test_a_heavier_penalty_keeps_the_control_smaller():
    backbone, batch = zoo.backbone_of("bert"), zoo.batch_of(size=8)
    made = zoo.subject_of(backbone, LoRA(1))
    runs = [fit(penalized(made, [batch], r), made.initial, tolerance=1e-6) for r in (0.01, 0.1, 10.0)]
    sizes = [np.linalg.norm(flatten(run.params) - flatten(made.initial)) for run in runs]
    assert all(run.converged for run in runs) and sizes[0] > sizes[1] > sizes[2]


def test_minibatches_learn_reproducibly():
    backbone, batch = zoo.backbone_of("bert"), zoo.batch_of(size=12)
    made = zoo.subject_of(backbone, LoRA(2))
    runs = [minibatch(made, batch, steps=40, batch_size=5, lr=0.03, seed=shifted(seed)) for seed in (1, 1, 2)]
    losses = [made.loss(run.params, batch).item() for run in runs]
    assert losses[0] == losses[1] != losses[2]
    assert max(losses) < 0.7 * made.loss(made.initial, batch).item()
    assert not runs[0].converged and len(runs[0].history) == 40
    seen = {}
    run = minibatch(made, batch, steps=4, seed=shifted(0), visit=seen.__setitem__, visited=(1, 4))
    assert list(seen) == [1, 4]
    assert all(torch.equal(seen[4][name], value) and not torch.equal(seen[1][name], value) for name, value in run.params.items())


def test_a_loss_that_is_not_finite_stops_both_arms():
    backbone, batch = zoo.backbone_of("bert"), zoo.batch_of()
    made = zoo.subject_of(backbone, PortBias())
    broken = dataclasses.replace(made, readout=Readout(made.readout.weight * float("inf"), made.readout.bias))
    with pytest.raises(ValueError, match="expected a finite loss"):
        fit(penalized(broken, [batch], 0.1), broken.initial)
    with pytest.raises(ValueError, match="expected a finite loss"):
        minibatch(broken, batch, steps=2, seed=0)


def test_wrong_requests_are_refused():
    backbone, batch = zoo.backbone_of("bert"), zoo.batch_of()
    made = zoo.subject_of(backbone, PortBias())
    outside = batch._replace(labels=batch.labels + 3)
    for make, words in [
        (lambda: penalized(made, [outside], 0.1), "expected labels between 0 and 2"),
        (lambda: minibatch(made, outside, steps=1, seed=0), "expected labels between 0 and 2"),
        (lambda: fit_readout(backbone, outside, 3), "expected labels between 0 and 2"),
        (lambda: fit_readout(backbone, batch._replace(labels=batch.labels * 0), 3), "at least two classes"),
        (lambda: penalized_weights(made, [batch], 0.1), "expected a delta that changes weights"),
        (
            lambda: subject(backbone, PortBias(), Readout(torch.zeros(3, 5), torch.zeros(3)), 0),
            "expected a readout over 16",
        ),
    ]:
        with pytest.raises(ValueError, match=words):
            make()


@pytest.mark.parametrize("classes", [2, 3])
def test_the_readout_is_the_penalised_logistic_optimum(classes):
    """Stationarity of sum CE + |W_z|^2 / (2 C) in the standardised coordinates that the fold has to undo."""
    backbone = zoo.backbone_of("bert")
    batch = zoo.batch_of(size=40, classes=classes)
    readout = fit_readout(backbone, batch, classes, C=0.5)
    x = features(backbone, batch)
    deviation = x.std(0, unbiased=False)
    weight = readout.weight.clone().requires_grad_()
    loss = torch.nn.functional.cross_entropy(x @ weight.T + readout.bias, batch.labels, reduction="sum")
    # In the two-class case the library penalises the difference vector w = 2 W_1 once: |w|^2/2C = |W_z|^2/C.
    share = 1.0 if classes > 2 else 2.0
    (loss + share * (weight * deviation).square().sum() / (2 * 0.5)).backward()
    assert weight.grad.abs().max() < 1e-3 * len(batch.labels)
    assert weight.shape == (classes, 16)
