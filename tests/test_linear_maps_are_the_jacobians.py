"""Views of a network as a linear system are those of its dense Jacobian, and say by themselves where they end."""

import math

import pytest
import torch
import zoo
from torch.func import jacrev

from probes.reach.linear_maps import block_svd, jacobian_map, linear_regime, output_map
from probes.reach.response import response
from tuning import Adapter, PortBias
from tuning.backbones import frame, hidden
from tuning.jacobians import layer_jacobians


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def matrix(m, n, values):
    """A dense m by n matrix with the given singular values."""
    u, _ = torch.linalg.qr(draw(m, len(values), seed=1))
    v, _ = torch.linalg.qr(draw(n, len(values), seed=2))
    return (u * values) @ v.T


class Counted:
    """The products of a dense matrix, counted column by column."""

    def __init__(self, K):
        self.K, self.columns = K, 0

    def matvec(self, x):
        self.columns += x.shape[1]
        return self.K @ x

    def rmatvec(self, x):
        self.columns += x.shape[1]
        return self.K.T @ x


SPECTRA = {
    "flat": torch.linspace(53, 35, 60, dtype=torch.float64),
    "nearly constant": torch.linspace(1.01, 1.0, 60, dtype=torch.float64),
    "decaying": 0.7 ** torch.arange(60, dtype=torch.float64),
    "repeated": torch.tensor([3.0] * 4 + [2.0] * 10 + [1.0] * 46, dtype=torch.float64),
}


@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize("m, n", [(90, 200), (200, 90)])
def test_leading_triples_are_those_of_the_dense_matrix(spectrum, m, n):
    values, k, tol = SPECTRA[spectrum], 8, 1e-6
    map_ = Counted(matrix(m, n, values))
    found = block_svd(map_.matvec, map_.rmatvec, (m, n), k, tol=tol)
    assert found.status == "converged" and found.converged.all()
    assert found.products == map_.columns
    # every value lies within its residual, which is at most tol s, of a singular value; and it is the right one
    assert ((found.values - values[:k]).abs() <= found.residuals + 1e-13 * values[0]).all()
    assert (found.residuals <= tol * found.values).all()
    K, u, v, s = map_.K, found.left, found.right, found.values
    assert (torch.linalg.vector_norm(K @ v - s * u, dim=0) - found.residuals).abs().max() < 1e-12 * values[0]
    assert (K.T @ u - s * v).abs().max() < 1e-12 * values[0]
    for basis in (u, v):
        assert (basis.T @ basis - torch.eye(k, dtype=torch.float64)).abs().max() < 1e-12


def test_a_budget_that_is_too_small_is_said():
    """Two sweeps do not resolve a flat spectrum: the record says so, and its residuals still bound the error."""
    values = torch.linspace(53, 35, 300, dtype=torch.float64)
    K = matrix(300, 400, values)
    found = block_svd(lambda x: K @ x, lambda x: K.T @ x, (300, 400), 4, tol=1e-6, max_sweeps=2)
    assert "not converged" in found.status and not found.converged.any() and found.sweeps == 2
    for s, residual in zip(found.values, found.residuals, strict=True):
        assert (values - s).abs().min() <= residual
    more = block_svd(lambda x: K @ x, lambda x: K.T @ x, (300, 400), 4, tol=1e-6)
    assert more.status == "converged" and (more.values - values[:4]).abs().max() < 1e-4
    assert more.products > found.products


def test_tolerance_sets_the_cost():
    K = matrix(150, 150, SPECTRA["flat"])
    loose, tight = (block_svd(lambda x: K @ x, lambda x: K.T @ x, (150, 150), 4, tol=tol) for tol in (1e-1, 1e-8))
    assert loose.products < tight.products and loose.residuals.max() > tight.residuals.max()


@pytest.mark.parametrize("rank", [0, 1, 3])
def test_a_map_of_lower_rank_has_zero_values(rank):
    K = matrix(20, 30, torch.arange(rank, 0, -1, dtype=torch.float64)) if rank else torch.zeros(20, 30, dtype=torch.float64)
    found = block_svd(lambda x: K @ x, lambda x: K.T @ x, (20, 30), 5)
    assert found.values.tolist()[:rank] == pytest.approx(list(range(rank, 0, -1)))
    assert found.values[rank:].abs().max() < 1e-12 and found.converged.all()
    assert found.products <= 13 + 4 * rank + 5, "nothing is multiplied once the space is invariant"
    for basis in (found.left, found.right):
        assert (basis.T @ basis - torch.eye(5, dtype=torch.float64)).abs().max() < 1e-12


def test_the_whole_spectrum_and_the_smallest_maps():
    K = matrix(6, 9, torch.tensor([4.0, 2, 1, 1e-3, 1e-5, 1e-9], dtype=torch.float64))
    found = block_svd(lambda x: K @ x, lambda x: K.T @ x, (6, 9), 6, tol=1e-8)
    assert (found.values - torch.linalg.svdvals(K)).abs().max() < 1e-12
    assert found.converged.all(), "a value at the rounding of the largest one is as good as it gets"
    one = block_svd(lambda x: 3 * x, lambda x: 3 * x, (1, 1), 1)
    assert float(one.values) == pytest.approx(3.0)
    for k, options in ((7, {}), (0, {}), (2, {"tol": 0.0}), (2, {"max_sweeps": 0}), (2, {"block": 0})):
        with pytest.raises(ValueError, match="must"):
            block_svd(lambda x: K @ x, lambda x: K.T @ x, (6, 9), k, **options)


def test_single_precision_keeps_its_digits():
    values = 10 ** torch.linspace(0, -4, 60, dtype=torch.float64)
    K = matrix(80, 100, values).float()
    found = block_svd(lambda x: K @ x, lambda x: K.T @ x, (80, 100), 6, tol=1e-4, dtype=torch.float32)
    assert found.values.dtype == torch.float32 and found.converged.all()
    assert ((found.values.double() - values[:6]).abs() <= found.residuals.double() + 1e-6).all()


@pytest.fixture(scope="module", params=["bert", "gpt2", "llama"])
def system(request):
    """A tiny model, one text, signals at all ports and tokens, the final states as their function, the dense Jacobian."""
    backbone, batch = zoo.backbone_of(request.param), zoo.batch_of(1, 5)

    def states(signals):
        return hidden(backbone, batch, frame(backbone, signals=signals))

    at = {port.key: 0.1 * draw(1, 5, 16, seed=i) for i, port in enumerate(backbone.ports)}
    whole = jacrev(states)(at)
    return backbone, batch, at, states, torch.cat([whole[key].reshape(5 * 16, -1) for key in at], dim=1)


def test_products_are_those_of_the_dense_jacobian(system):
    *_, at, states, dense = system
    found = jacobian_map(states, at)
    assert found.shape == dense.shape == (80, 320)
    v, w = draw(320, 3), draw(80, 3)
    scale = dense.abs().max()
    assert (found.matvec(v) - dense @ v).abs().max() < 1e-11 * scale
    assert (found.rmatvec(w) - dense.T @ w).abs().max() < 1e-11 * scale
    assert (found.matvec(v[:, 0]) - dense @ v[:, 0]).abs().max() < 1e-11 * scale
    chunked = jacobian_map(states, at, chunk=2)
    assert (chunked.matvec(v) - found.matvec(v)).abs().max() < 1e-12 * scale
    assert (chunked.rmatvec(w) - found.rmatvec(w)).abs().max() < 1e-12 * scale
    columns = {key: part.view(1, 5, 16) for key, part in zip(at, v[:, 0].split(80), strict=True)}
    forward = torch.func.jvp(states, (at,), (columns,))[1].reshape(-1)
    assert (found.matvec(v[:, 0]) - forward).abs().max() < 1e-11 * scale
    with pytest.raises(ValueError, match=r"expected a vector \(320,\)"):
        found.matvec(w)


def test_the_reach_map_of_the_whole_sequence(system):
    """Signals at all ports and tokens to the final states of all tokens, by products only, against the dense map."""
    *_, at, states, dense = system
    map_, k = jacobian_map(states, at), 6
    found = block_svd(map_.matvec, map_.rmatvec, map_.shape, k, tol=1e-8, dtype=map_.dtype)
    s = torch.linalg.svdvals(dense)
    assert found.status == "converged" and (found.values - s[:k]).abs().max() < 1e-8 * s[0]
    image = dense @ found.right
    assert (image - found.values * found.left).abs().max() < 1e-7 * s[0]
    left_over = torch.linalg.matrix_norm(dense - image @ found.right.T, 2)
    assert (left_over - s[k]).abs() < 1e-6 * s[0], "nothing else of rank k leaves less"


def test_signals_after_the_last_mixing_act_where_they_are(system):
    """The last mlp's signal at one token moves that token by B of the closed form and no other token."""
    backbone, batch, at, _, dense = system
    last = dense.reshape(5, 16, len(at), 5, 16)[:, :, -1]  # (token, d, token, d)
    found = layer_jacobians(backbone, batch, "last", signals=at)
    assert last[:4, :, 4].abs().max() < 1e-12 and last[4, :, 4].abs().max() > 0.1
    B = found.B["mlp"][-1][0]
    if backbone.layout.final is not None:  # what follows the last block is the last normalisation
        final = backbone.model.get_submodule(backbone.layout.final)
        B = jacrev(final)(found.states[-1][0]) @ B
    assert (last[4, :, 4] - B).abs().max() < 1e-12


def signals_of(made, params, batch):
    return {key: signal.detach() for key, signal in made.rollout(params, batch).signals.items()}


@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_output_maps_about_three_trajectories(kind):
    """G about the frozen, a reference and a tuned trajectory, against dense Jacobians; loops open and closed differ."""
    backbone, batches = zoo.backbone_of(kind), [zoo.batch_of(3), zoo.batch_of(2, seed=1)]
    made = zoo.subject_of(backbone, Adapter(3, ports=("0.mlp", "1.attention")))
    params = zoo.moved(made.initial)
    nothing = {key: torch.zeros(16, dtype=torch.float64) for key in made.ports}
    reference = {key: draw(16, seed=i) for i, key in enumerate(made.ports)}
    held = [signals_of(made, params, batch) for batch in batches]

    def dense(function):
        parts = []
        for batch, fixed in zip(batches, held, strict=True):
            jacobian = jacrev(lambda u, b=batch, f=fixed: function(u, b, f))(nothing)
            parts.append(torch.cat([jacobian[key] for key in nothing], dim=-1))
        return torch.cat(parts)

    frozen = output_map(made.steered, nothing, batches)
    assert (frozen.matrix - dense(lambda u, b, f: made.steered(u, b))).abs().max() < 1e-10
    moved = output_map(made.steered, reference, batches)
    expected = dense(lambda u, b, f: made.steered({key: reference[key] + u[key] for key in u}, b))
    assert (moved.matrix - expected).abs().max() < 1e-10
    tuned = output_map(made.steered, nothing, batches, held=held)
    expected = dense(lambda u, b, f: made.steered({key: f[key] + u[key] for key in u}, b))
    assert (tuned.matrix - expected).abs().max() < 1e-10
    whole = torch.cat([made.outputs(params, batch) for batch in batches])
    assert (tuned.outputs - whole).abs().max() < 1e-10, "the held signals lead along the tuned trajectory"
    closed = response(lambda u, batch: made.disturbed(u, params, batch), nothing, batches)
    assert (closed.outputs - whole).abs().max() < 1e-10
    for a, b in ((frozen, moved), (frozen, tuned), (tuned, closed)):
        assert (a.matrix - b.matrix).abs().max() > 1e-2 * a.matrix.abs().max()
    some = output_map(made.steered, {"0.mlp": nothing["0.mlp"]}, batches, held=held)
    place = made.ports.index("0.mlp")
    assert (some.matrix - tuned.matrix[..., 16 * place : 16 * place + 16]).abs().max() < 1e-12
    with pytest.raises(ValueError, match="held signals for each of 2 batches"):
        output_map(made.steered, nothing, batches, held=held[:1])


def test_without_feedback_open_and_closed_loop_are_one():
    backbone, batch = zoo.backbone_of("gpt2"), zoo.batch_of(3)
    made = zoo.subject_of(backbone, PortBias())
    params = zoo.moved(made.initial)
    nothing = {key: torch.zeros(16, dtype=torch.float64) for key in made.ports}
    held = output_map(made.steered, nothing, [batch], held=[signals_of(made, params, batch)])
    closed = response(lambda u, b: made.disturbed(u, params, b), nothing, [batch])
    assert (held.matrix - closed.matrix).abs().max() < 1e-10 * held.matrix.abs().max()


INPUTS = [{"x": draw(n, 4, seed=n)} for n in (3, 5)]
SCALES = [0.001, 0.01, 0.1, 1.0, 10.0]


def test_a_linear_map_has_no_departure():
    """Small whole numbers at scales that are powers of two are added without rounding: eta is exactly zero."""
    weight = {"w": torch.tensor([[1.0, -2, 3, 0], [2, 1, 0, -1]], dtype=torch.float64)}
    step = {"w": torch.tensor([[2.0, 1, -1, 3], [0, -2, 1, 1]], dtype=torch.float64)}
    batches = [{"x": draw(n, 4, seed=n).mul(3).round()} for n in (3, 5)]
    found = linear_regime(lambda p, b: b["x"] @ p["w"].T + 2.0, weight, step, batches, [2.0**i for i in range(-8, 9)])
    assert (found.eta == 0).all() and found.largest == 256.0 and (found.share == 1).all() and found.status == "ok"
    assert found.eta.shape == (17, 8) and found.quantiles.shape == (17, 5)


def test_a_quadratic_remainder_has_slope_one():
    """y = a z + b z^2 / 2 leaves eta = s |b| |u| / (2 |a|), for every example by itself."""
    a, b = draw(6, seed=3), draw(6, seed=4)
    batches = [{"a": a[:4], "b": b[:4]}, {"a": a[4:], "b": b[4:]}]

    def outputs(p, batch):
        return (batch["a"] * p["z"] + batch["b"] * p["z"] ** 2 / 2)[:, None]

    at, u = {"z": torch.tensor(0.0, dtype=torch.float64)}, {"z": torch.tensor(-1.7, dtype=torch.float64)}
    found = linear_regime(outputs, at, u, batches, SCALES)
    expected = torch.tensor(SCALES, dtype=torch.float64)[:, None] * (1.7 * b.abs() / (2 * a.abs()))
    torch.testing.assert_close(found.eta, expected, rtol=1e-9, atol=0)
    slopes = found.median.log10().diff() / found.scales.log10().diff()
    assert (slopes - 1).abs().max() < 1e-9
    torch.testing.assert_close(found.shift, 1.7 * a.abs())
    inside = [s for s, median in zip(SCALES, expected.quantile(0.5, dim=1), strict=True) if median <= 0.3]
    assert found.largest == max(inside) and 0 < len(inside) < len(SCALES)
    assert torch.equal(found.share, (expected <= 0.3).double().mean(1))
    torch.testing.assert_close(found.quantiles[:, 2], found.median)


def test_the_regime_of_a_network_ends():
    """Through a transformer the remainder is quadratic at small scales, and large controls leave the regime."""
    backbone, batch = zoo.backbone_of("bert"), zoo.batch_of(6)
    made = zoo.subject_of(backbone, PortBias())
    at = {key: torch.zeros(16, dtype=torch.float64) for key in made.ports}
    u = {key: draw(16, seed=i) / 8 for i, key in enumerate(made.ports)}
    found = linear_regime(made.steered, at, u, [batch], [1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0])
    slopes = found.eta[:3].log10().diff(dim=0)
    assert (slopes - 1).abs().max() < 0.1  # the cubic remainder at 1e-2 is 1 % of the quadratic one
    assert 1e-2 <= found.largest < 10 and found.share[0] == 1 and found.share[-1] < 1
    G = output_map(made.steered, at, [batch])
    linear = G.matvec(u)
    for s, eta in zip(found.scales, found.eta, strict=True):
        y = made.steered({key: float(s) * value for key, value in u.items()}, batch)
        expected = (y - G.outputs - s * linear).norm(dim=1) / (s * linear).norm(dim=1)
        torch.testing.assert_close(eta, expected, rtol=1e-6, atol=1e-9)
    each = {key: value.expand(6, -1).clone() for key, value in at.items()}
    own = linear_regime(made.steered, each, {key: u[key].expand(6, -1) for key in u}, [batch], [1e-2, 1.0])
    torch.testing.assert_close(own.eta, found.eta[[2, 4]], rtol=1e-9, atol=1e-12)


def test_what_has_no_first_order_is_infinite():
    at, u = {"z": torch.zeros(1, dtype=torch.float64)}, {"z": torch.ones(1, dtype=torch.float64)}
    batch = {"x": torch.tensor([1.0, 0.0], dtype=torch.float64)}
    found = linear_regime(lambda p, b: (b["x"] * p["z"] ** 2)[:, None], at, u, [batch], [0.5, 1.0])
    assert found.eta[:, 0].tolist() == [math.inf] * 2 and found.eta[:, 1].tolist() == [0.0] * 2
    assert found.largest == 0.0 and found.share.tolist() == [0.5, 0.5]
    alone = linear_regime(lambda p, b: (b["x"] * p["z"] ** 2)[:, None], at, u, [{"x": batch["x"][:1]}] * 2, [0.5, 1.0])
    assert alone.median.tolist() == [math.inf] * 2 and alone.status == "ok"
    broken = linear_regime(lambda p, b: (b["x"] + p["z"] + torch.sqrt(0.7 - p["z"]))[:, None], at, u, [batch], [1e-3, 1.0])
    assert broken.status == "not finite" and broken.largest == 1e-3 and broken.median.isnan().tolist() == [False, True]


def test_a_return_to_the_line_is_not_the_linear_regime():
    """y = z + 5 z^2 (2 - z) is on its tangent again at z = 2, and the median did not stay below the limit before."""
    at, u = {"z": torch.zeros(1, dtype=torch.float64)}, {"z": torch.ones(1, dtype=torch.float64)}
    found = linear_regime(
        lambda p, b: (b["x"] * (p["z"] + 5 * p["z"] ** 2 * (2 - p["z"])))[:, None],
        at,
        u,
        [{"x": torch.ones(3, dtype=torch.float64)}],
        [0.01, 1.0, 2.0],
    )
    assert found.median.tolist() == pytest.approx([0.0995, 5.0, 0.0]) and found.largest == 0.01


@pytest.mark.parametrize("scales", [[], [0.0, 1.0], [1.0, 0.5], [1.0, math.inf]])
def test_scales_that_make_no_sense_are_refused(scales):
    at = {"z": torch.zeros(1, dtype=torch.float64)}
    with pytest.raises(ValueError, match="positive, finite and increasing"):
        linear_regime(lambda p, b: b["x"] * p["z"], at, at, INPUTS, scales)
    with pytest.raises(ValueError, match="names and shapes"):
        linear_regime(lambda p, b: b["x"] * p["z"], at, {"y": at["z"]}, INPUTS, [1.0])
