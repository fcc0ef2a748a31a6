"""Found subspaces are orthonormal, nested and ordered, hold what they were found in, and train as random ones do."""

import pytest
import torch

from probes.curvature.hessian import gauss_newton
from probes.dimension.found_subspaces import gauss_newton_directions, principal_directions, reachable_directions
from probes.layout import flatten
from probes.reach.response import response

DOUBLE = torch.float64
G = torch.Generator().manual_seed(0)
POINT = {"w": torch.randn(3, 6, generator=G, dtype=DOUBLE), "b": torch.randn(3, generator=G, dtype=DOUBLE)}
BATCH = (torch.randn(5, 6, generator=G, dtype=DOUBLE), torch.tensor([0, 1, 2, 0, 1]))


def outputs(p, batch):
    return torch.tanh(batch[0] @ p["w"].T + p["b"])


def criterion(y, batch):
    return torch.nn.functional.cross_entropy(y, batch[1])


def walk(count):
    g = torch.Generator().manual_seed(1)
    steps = [{k: 0.3 * torch.randn(v.shape, generator=g, dtype=DOUBLE) for k, v in POINT.items()} for _ in range(count)]
    return [{k: v + sum(s[k] for s in steps[: i + 1]) for k, v in POINT.items()} for i in range(count)]


KINDS = {
    "tasks": lambda d: principal_directions(walk(6), d, origin=POINT),
    "gauss-newton": lambda d: gauss_newton_directions(outputs, criterion, POINT, [BATCH], d),
    "reachable": lambda d: reachable_directions(response(outputs, POINT, [BATCH]), d),
}


@pytest.mark.parametrize("kind", KINDS)
def test_orthonormal_nested_and_ordered(kind):
    whole = KINDS[kind](None)
    d = whole.dimension
    assert whole.orthonormality_error() < 1e-10 and whole.size == 21 and d >= 6
    assert whole.share == pytest.approx(1, abs=1e-9) and (whole.values.diff() <= 1e-12).all()
    theta = torch.randn(2, d, generator=torch.Generator().manual_seed(2), dtype=DOUBLE)
    moved = whole.apply(theta)
    assert moved["w"].shape == (2, 3, 6) and moved["b"].shape == (2, 3)
    torch.testing.assert_close(whole.adjoint(moved), theta, rtol=1e-9, atol=1e-10)
    for few in (1, 3, d - 1):
        alone, cut = KINDS[kind](few), whole.first(few)
        assert alone.dimension == cut.dimension == few
        for name in POINT:  # the projectors agree, whatever the signs of the columns
            x = {k: torch.ones_like(v) for k, v in POINT.items()}
            torch.testing.assert_close(alone.apply(alone.adjoint(x))[name], cut.apply(cut.adjoint(x))[name], rtol=1e-7, atol=1e-8)
        assert 0 < cut.share < 1 and cut.share == pytest.approx(float(whole.values[:few].sum()) / whole.total)


def test_points_lie_in_their_span_and_leading_directions_hold_most():
    points = walk(6)
    found = principal_directions(points, origin=POINT)
    away = [{k: p[k] - POINT[k] for k in POINT} for p in points]
    for x in away:
        back = found.apply(found.adjoint(x))
        torch.testing.assert_close(back, x, rtol=1e-9, atol=1e-9)
    energy = sum(float(flatten(x).square().sum()) for x in away)
    for d in (1, 2, 4):
        held = sum(float(found.first(d).adjoint(x).square().sum()) for x in away)
        assert held == pytest.approx(found.first(d).share * energy, rel=1e-9)
        assert held >= d / 6 * energy * (1 - 1e-9)  # of six directions the leading; random ones hold d / 21 on average
    assert principal_directions(points).dimension == 5  # the mean takes one direction


def test_gauss_newton_and_reachable_directions_are_the_matrices_eigenvectors():
    matrix = gauss_newton(outputs, criterion, POINT, [BATCH]).dense()
    found = gauss_newton_directions(outputs, criterion, POINT, [BATCH], 4)
    columns = torch.stack([flatten(found.apply(e)) for e in torch.eye(4, dtype=DOUBLE)], 1)
    torch.testing.assert_close(matrix @ columns, columns * found.values, rtol=1e-7, atol=1e-9)
    g = response(outputs, POINT, [BATCH]).matrix.reshape(15, -1)
    reach = reachable_directions(response(outputs, POINT, [BATCH]), 4)
    columns = torch.stack([flatten(reach.apply(e)) for e in torch.eye(4, dtype=DOUBLE)], 1)
    torch.testing.assert_close(g.T @ (g @ columns), columns * reach.values, rtol=1e-7, atol=1e-9)
    assert reach.kind == "reachable" and found.kind == "gauss-newton"


def test_the_same_training_takes_them():
    """A few steps of gradient descent in theta lower the loss, by the gradient P' g."""

    def loss(p):
        return criterion(outputs(p, BATCH), BATCH)

    for kind, make in KINDS.items():
        found = make(3)
        theta = torch.zeros(3, dtype=DOUBLE, requires_grad=True)
        value = loss({k: POINT[k] + step for k, step in found.apply(theta).items()})
        (slope,) = torch.autograd.grad(value, theta)
        leaves = {k: v.clone().requires_grad_() for k, v in POINT.items()}
        full = dict(zip(leaves, torch.autograd.grad(loss(leaves), leaves.values()), strict=True))
        torch.testing.assert_close(slope, found.adjoint(full), rtol=1e-9, atol=1e-10)
        with torch.no_grad():
            later = loss({k: POINT[k] + step for k, step in found.apply(-0.1 * slope).items()})
        assert later < value, kind


def test_bad_input_is_a_sentence():
    with pytest.raises(ValueError, match="at least 2 points"):
        principal_directions([POINT])
    with pytest.raises(ValueError, match="between 1 and the 6 directions that the points span, got 7"):
        principal_directions(walk(6), 7, origin=POINT)
    with pytest.raises(ValueError, match="between 1 and the 0 directions"):
        principal_directions([POINT, POINT])
    with pytest.raises(ValueError, match="same tensors"):
        principal_directions([POINT, {"w": POINT["w"]}])
    with pytest.raises(ValueError, match="the Gauss-Newton matrix has"):
        gauss_newton_directions(outputs, criterion, POINT, [BATCH], 21)
    with pytest.raises(ValueError, match="the response has"):
        reachable_directions(response(outputs, POINT, [BATCH]), 16)
