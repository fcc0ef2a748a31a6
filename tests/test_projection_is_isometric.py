"""Random subspaces keep lengths over all tensors together, and their two directions are adjoint."""

import math

import pytest
import torch

from probes.dimension import random_subspace

SHAPES = {"weight": (40, 37), "bias": (37,), "scalar": (), "deep": (3, 16, 20)}
SIZE = sum(math.prod(s) for s in SHAPES.values())
EXACT = ("sorf", "dense", "onehot")


@pytest.mark.parametrize("dtype, bound", [(torch.float32, 3e-6), (torch.float64, 1e-13)])
@pytest.mark.parametrize("dimension", [1, 5, 256, 300, 1500])
@pytest.mark.parametrize("kind", EXACT)
def test_columns_are_orthonormal(kind, dimension, dtype, bound):
    """Rounding of the norm of D = 2478 numbers: sqrt(D) eps = 6e-6 in float32, less by pairwise sums."""
    p = random_subspace(SHAPES, dimension, kind=kind, seed=0, dtype=dtype)
    assert p.size == SIZE and p.orthonormality_error() < bound
    theta = torch.randn(dimension, dtype=dtype, generator=torch.Generator().manual_seed(1))
    moved = p.apply(theta)
    assert {k: tuple(v.shape) for k, v in moved.items()} == SHAPES
    length = torch.cat([v.reshape(-1) for v in moved.values()]).norm()
    assert abs(length / theta.norm() - 1) < bound


def test_sparse_is_isometric_on_average():
    """Two unit columns share a row of each of m strata with probability m/D, and overlap by +-1/m there."""
    p = random_subspace(SHAPES, 200, kind="sparse", seed=0, dtype=torch.float64)
    gram = torch.stack([p.adjoint(p.apply(e)) for e in torch.eye(200, dtype=torch.float64)])
    assert (gram.diagonal() - 1).abs().max() < 1e-12
    off = gram[~torch.eye(200, dtype=torch.bool)]
    # so the mean square overlap is m (m/D) / m^2 = 1/D; 19900 pairs give it to 1.5 %
    assert abs(float((off**2).mean()) * SIZE - 1) < 0.08
    assert p.orthonormality_error() == pytest.approx(float((gram - torch.eye(200)).abs().max()))


@pytest.mark.parametrize("dimension", [3, 300])
@pytest.mark.parametrize("kind", [*EXACT, "sparse"])
def test_adjoint_and_derivatives(kind, dimension):
    p = random_subspace(SHAPES, dimension, kind=kind, seed=2, dtype=torch.float64)
    g = torch.Generator().manual_seed(3)
    theta = torch.randn(dimension, dtype=torch.float64, generator=g, requires_grad=True)
    y = {k: torch.randn(s, dtype=torch.float64, generator=g) for k, s in SHAPES.items()}
    inner = sum((v * y[k]).sum() for k, v in p.apply(theta).items())
    pulled = p.adjoint(y)
    torch.testing.assert_close(inner, theta @ pulled, rtol=1e-12, atol=1e-11)
    torch.testing.assert_close(torch.autograd.grad(inner, theta)[0], pulled, rtol=1e-12, atol=1e-12)
    # twice differentiable: the Hessian of |P theta|^2 / 2 times v is P'P v
    half = sum((v**2).sum() for v in p.apply(theta).values()) / 2
    slope, = torch.autograd.grad(half, theta, create_graph=True)
    second, = torch.autograd.grad(slope @ pulled.detach(), theta)
    torch.testing.assert_close(second, p.adjoint(p.apply(pulled)), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", [*EXACT, "sparse"])
def test_leading_axes_vmap_and_forward_mode(kind):
    p = random_subspace(SHAPES, 12, kind=kind, seed=4, dtype=torch.float64)
    theta = torch.randn(2, 3, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    each = torch.stack([torch.stack([p.apply(t)["deep"] for t in row]) for row in theta])
    torch.testing.assert_close(p.apply(theta)["deep"], each)
    torch.testing.assert_close(torch.func.vmap(torch.func.vmap(p.apply))(theta)["deep"], each)
    torch.testing.assert_close(p.adjoint(p.apply(theta))[1, 2], p.adjoint(p.apply(theta[1, 2])))
    _, tangent = torch.func.jvp(lambda t: p.apply(t)["weight"], (theta[0, 0],), (theta[0, 1],))
    torch.testing.assert_close(tangent, p.apply(theta[0, 1])["weight"])


@pytest.mark.parametrize("kind", [*EXACT, "sparse"])
def test_seed_reproduces_and_every_parameter_moves(kind):
    same = [random_subspace(SHAPES, 200, kind=kind, seed=s).apply(torch.ones(200)) for s in (0, 0, 1)]
    assert torch.equal(same[0]["weight"], same[1]["weight"])
    assert not torch.equal(same[0]["weight"], same[2]["weight"])
    still = sum(int((v == 0).sum()) for v in same[0].values())
    # onehot and sums of an odd number of signs never vanish; +-1 entries may cancel in sorf and sparse
    assert still <= {"dense": 0, "onehot": 0, "sorf": 0.1 * SIZE, "sparse": 0.25 * SIZE}[kind]


def test_bad_input_is_a_sentence():
    with pytest.raises(ValueError, match="dimension must lie between"):
        random_subspace(SHAPES, SIZE + 1, seed=0)
    with pytest.raises(ValueError, match="GiB"):
        random_subspace({"w": (10**8,)}, 1000, kind="dense", seed=0)
    with pytest.raises(ValueError, match="kind must be one of"):
        random_subspace(SHAPES, 2, kind="fastfood", seed=0)
    with pytest.raises(ValueError, match="theta must end in"):
        random_subspace(SHAPES, 2, seed=0).apply(torch.ones(3))
