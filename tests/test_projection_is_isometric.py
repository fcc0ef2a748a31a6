"""Random subspaces keep lengths over all tensors together, and their two directions are adjoint."""

import math

import pytest
import torch
from seeds import shifted

from probes.dimension.projection import FEW, layer_scaled_subspace, random_subspace

SHAPES = {"weight": (40, 37), "bias": (37,), "scalar": (), "deep": (3, 16, 20)}
SIZE = sum(math.prod(s) for s in SHAPES.values())
LARGE = {"weight": (90, 111), "bias": (13,)}  # 39 blocks of 256 and 19 numbers
EXACT = ("sorf", "dense", "onehot")
KINDS = (*EXACT, "sparse")


def flat(tensors):
    """The last axis joined over all tensors without leading axes."""
    return torch.cat([x.reshape(-1) for x in tensors.values()])


def matrix(p):
    """P (D, d), column by column."""
    return torch.stack([flat(p.apply(e)) for e in torch.eye(p.dimension, dtype=p.dtype)], 1)


@pytest.mark.parametrize("dtype, bound", [(torch.float32, 3e-6), (torch.float64, 1e-13)])
@pytest.mark.parametrize("dimension", [1, 5, 256, 300, 1500])
@pytest.mark.parametrize("kind", EXACT)
def test_columns_are_orthonormal(kind, dimension, dtype, bound):
    """Rounding of the norm of D = 2478 numbers: sqrt(D) eps = 6e-6 in float32, less by pairwise sums."""
    p = random_subspace(SHAPES, dimension, kind=kind, seed=shifted(0), dtype=dtype)
    assert p.size == SIZE and p.orthonormality_error() < bound
    theta = torch.randn(dimension, dtype=dtype, generator=torch.Generator().manual_seed(1))
    moved = p.apply(theta)
    assert {k: tuple(v.shape) for k, v in moved.items()} == SHAPES
    length = torch.cat([v.reshape(-1) for v in moved.values()]).norm()
    assert abs(length / theta.norm() - 1) < bound


def test_sparse_is_isometric_on_average():
    """Two unit columns share a row of each of m strata with probability m/D, and overlap by +-1/m there."""
    p = random_subspace(SHAPES, 200, kind="sparse", seed=shifted(0), dtype=torch.float64)
    gram = torch.stack([p.adjoint(p.apply(e)) for e in torch.eye(200, dtype=torch.float64)])
    assert (gram.diagonal() - 1).abs().max() < 1e-12
    off = gram[~torch.eye(200, dtype=torch.bool)]
    # so the mean square overlap is m (m/D) / m^2 = 1/D; 19900 pairs give it to 1.5 %
    assert abs(float((off**2).mean()) * SIZE - 1) < 0.08
    assert p.orthonormality_error() == pytest.approx(float((gram - torch.eye(200)).abs().max()))


@pytest.mark.parametrize("dimension", [3, 300])
@pytest.mark.parametrize("kind", KINDS)
def test_adjoint_and_derivatives(kind, dimension):
    p = random_subspace(SHAPES, dimension, kind=kind, seed=shifted(2), dtype=torch.float64)
    g = torch.Generator().manual_seed(3)
    theta = torch.randn(dimension, dtype=torch.float64, generator=g, requires_grad=True)
    y = {k: torch.randn(s, dtype=torch.float64, generator=g) for k, s in SHAPES.items()}
    inner = sum((v * y[k]).sum() for k, v in p.apply(theta).items())
    pulled = p.adjoint(y)
    torch.testing.assert_close(inner, theta @ pulled, rtol=1e-12, atol=1e-11)
    torch.testing.assert_close(torch.autograd.grad(inner, theta)[0], pulled, rtol=1e-12, atol=1e-12)
    # twice differentiable: the Hessian of |P theta|^2 / 2 times v is P'P v
    half = sum((v**2).sum() for v in p.apply(theta).values()) / 2
    (slope,) = torch.autograd.grad(half, theta, create_graph=True)
    (second,) = torch.autograd.grad(slope @ pulled.detach(), theta)
    torch.testing.assert_close(second, p.adjoint(p.apply(pulled)), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_leading_axes_vmap_and_forward_mode(kind):
    p = random_subspace(SHAPES, 12, kind=kind, seed=shifted(4), dtype=torch.float64)
    theta = torch.randn(2, 3, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    each = torch.stack([torch.stack([p.apply(t)["deep"] for t in row]) for row in theta])
    torch.testing.assert_close(p.apply(theta)["deep"], each)
    torch.testing.assert_close(torch.func.vmap(torch.func.vmap(p.apply))(theta)["deep"], each)
    torch.testing.assert_close(p.adjoint(p.apply(theta))[1, 2], p.adjoint(p.apply(theta[1, 2])))
    _, tangent = torch.func.jvp(lambda t: p.apply(t)["weight"], (theta[0, 0],), (theta[0, 1],))
    torch.testing.assert_close(tangent, p.apply(theta[0, 1])["weight"])


@pytest.mark.parametrize("kind", KINDS)
def test_seed_reproduces_and_every_parameter_moves(kind):
    same = [random_subspace(SHAPES, 200, kind=kind, seed=shifted(s)).apply(torch.ones(200)) for s in (0, 0, 1)]
    assert torch.equal(same[0]["weight"], same[1]["weight"])
    assert not torch.equal(same[0]["weight"], same[2]["weight"])
    still = sum(int((v == 0).sum()) for v in same[0].values())
    # onehot and sums of an odd number of signs never vanish; +-1 entries may cancel in sorf and sparse
    assert still <= {"dense": 0, "onehot": 0, "sorf": 0.1 * SIZE, "sparse": 0.25 * SIZE}[kind]


@pytest.mark.parametrize("dimension", [3, 200, 256])
def test_a_rest_that_fills_no_block_keeps_lengths(dimension):
    """With many blocks the rest repeats rows of the last one; all columns stay orthonormal and all rows move."""
    p = random_subspace(LARGE, dimension, seed=shifted(0), dtype=torch.float64)
    assert p.size // 256 > FEW and p.size % 256 > 0
    P = matrix(p)
    assert (P.mT @ P - torch.eye(dimension)).abs().max() < 1e-13
    if dimension == 256:
        # rows of whole orthogonal blocks have equal norms, and the 19 rows that occur twice sqrt(1/2) of that
        share = P.norm(dim=1) * math.sqrt(39)
        assert (share - 1).abs().lt(1e-12).sum() == p.size - 38 and (share - math.sqrt(0.5)).abs().lt(1e-12).sum() == 38
    y = torch.randn(2, p.size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    parts = {"weight": y[:, :9990].reshape(2, 90, 111), "bias": y[:, 9990:]}
    torch.testing.assert_close(p.adjoint(parts), y @ P, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_adjoint_identity_in_float32(kind):
    """<P theta, y> = <theta, P'y> to 1e-6 of a value that does not cancel: y is P theta and noise of equal length."""
    p = random_subspace({"w": (700, 60), "b": (301,)}, 100, kind=kind, seed=shifted(0))
    generator = torch.Generator().manual_seed(1)
    theta, noise = torch.randn(100, generator=generator), torch.randn(p.size, generator=generator)
    moved = flat(p.apply(theta))
    y = moved / moved.norm() + noise / noise.norm()
    pulled = p.adjoint({"w": y[:-301].reshape(700, 60), "b": y[-301:]})
    here, there = theta.double() @ pulled.double(), moved.double() @ y.double()
    assert abs(here / there - 1) < 1e-6


@pytest.mark.parametrize("shapes", [SHAPES, LARGE])
@pytest.mark.parametrize("kind", ["sorf", "dense", "sparse"])
def test_first_columns_are_nested(kind, shapes):
    whole = random_subspace(shapes, 60, kind=kind, seed=shifted(6), dtype=torch.float64)
    part = whole.first(40).first(7)
    theta = torch.randn(7, dtype=torch.float64, generator=torch.Generator().manual_seed(7))
    long = torch.cat([theta, torch.zeros(53, dtype=torch.float64)])
    moved = part.apply(theta)
    assert all(torch.equal(x, y) for x, y in zip(moved.values(), whole.apply(long).values(), strict=True))
    assert torch.equal(part.adjoint(moved), whole.adjoint(moved)[:7])
    assert part.dimension == 7 and part.drawn == 60 and (kind == "sparse" or part.orthonormality_error() < 1e-13)


def test_said_scales_layers_and_counts_them():
    shapes = {"layer.0.w": (30, 20), "layer.0.b": (20,), "layer.1.w": (30, 20), "head.w": (5,)}
    made = layer_scaled_subspace(shapes, 23, seed=shifted(0), dtype=torch.float64)
    assert list(made.layers) == ["layer.0", "layer.1", "head"]
    assert made.dimension == 23 and made.projection.dimension == 20 and made.size == made.projection.size == 1225
    generator = torch.Generator().manual_seed(8)
    theta = torch.randn(2, 23, dtype=torch.float64, generator=generator)
    moved, plain = made.apply(theta), made.projection.apply(theta[:, 3:])
    for name, place in {"layer.0.w": 0, "layer.0.b": 0, "layer.1.w": 1, "head.w": 2}.items():
        for one in range(2):
            torch.testing.assert_close(moved[name][one], (1 + theta[one, place]) * plain[name][one])
    # at the start nothing moves, the scales have no gradient and the coordinates have that of P
    y = {k: torch.randn(s, dtype=torch.float64, generator=generator) for k, s in shapes.items()}
    start = torch.zeros(23, dtype=torch.float64, requires_grad=True)
    inner = sum((v * y[k]).sum() for k, v in made.apply(start).items())
    (slope,) = torch.autograd.grad(inner, start)
    assert inner == 0 and (slope[:3] == 0).all()
    torch.testing.assert_close(slope[3:], made.projection.adjoint(y))
    torch.testing.assert_close(
        torch.autograd.gradcheck(lambda t: made.apply(t)["layer.0.w"][:2], (theta[0].clone().requires_grad_(),)), True
    )


def test_state_is_a_byte_per_number():
    p = random_subspace({"w": (3_000_000,)}, 1000, seed=shifted(0))
    assert p.state_bytes < 1.01 * p.size


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("kind", KINDS)
def test_the_same_map_on_a_gpu(kind):
    here, there = (random_subspace(LARGE, 200, kind=kind, seed=shifted(0), device=d) for d in ("cpu", "cuda"))
    theta = torch.randn(200, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(flat(there.apply(theta.cuda())).cpu(), flat(here.apply(theta)), rtol=1e-4, atol=1e-5)
    assert there.orthonormality_error() < 1e-5 or kind == "sparse"


def test_bad_input_is_a_sentence():
    with pytest.raises(ValueError, match="dimension must lie between"):
        random_subspace(SHAPES, SIZE + 1, seed=0)
    with pytest.raises(ValueError, match="GiB"):
        random_subspace({"w": (10**8,)}, 1000, kind="dense", seed=0)
    with pytest.raises(ValueError, match="kind must be one of"):
        random_subspace(SHAPES, 2, kind="fastfood", seed=0)
    with pytest.raises(ValueError, match="theta must end in"):
        random_subspace(SHAPES, 2, seed=0).apply(torch.ones(3))
    for wrong in (0, -1):
        with pytest.raises(ValueError, match="dimension must lie between"):
            random_subspace(SHAPES, wrong, seed=0)
    with pytest.raises(ValueError, match="kind='onehot'"):
        random_subspace({"w": (10_000,)}, 9000, seed=0)
    with pytest.raises(ValueError, match="leave parameters unmoved"):
        random_subspace(SHAPES, 5, kind="onehot", seed=0).first(2)
    with pytest.raises(ValueError, match="between 1 and the projection's 5"):
        random_subspace(SHAPES, 5, seed=0).first(6)
    with pytest.raises(ValueError, match="must exceed the 4 layer scales"):
        layer_scaled_subspace(SHAPES, 4, seed=0)
    with pytest.raises(ValueError, match="exactly one layer"):
        layer_scaled_subspace(SHAPES, 9, layers=lambda names: {"a": names, "b": names[:1]}, seed=0)
    with pytest.raises(ValueError, match="theta must end in 9"):
        layer_scaled_subspace(SHAPES, 9, seed=0).apply(torch.ones(5))


@pytest.mark.parametrize(
    "size, d",
    [
        (4870, 2100),
        (300, 290),
        (200, 3),
        pytest.param(4870, 4383, marks=pytest.mark.slow),
        pytest.param(5000, 4096, marks=pytest.mark.slow),
    ],
)
def test_a_sorf_is_exact_whatever_is_left_of_a_block(size, d):
    found = random_subspace({"a": (size,)}, d, seed=shifted(0))
    assert found.orthonormality_error() < 2e-6
