"""What the curvature claims compute from the frozen model: a LoRA's Hessian at its start, and the pace of gradient descent."""

import numpy as np
import pytest
import torch

from probes.curvature.hessian import gauss_newton, hessian
from validations.claims.convergence.experiment import LIMIT, SHARE, crossing, descend, energies, linear_descent
from validations.claims.convergence.plants import pace_setting
from validations.claims.multiplets.experiment import StartHessian, half_curvature, modules, weight_gradients
from validations.claims.multiplets.plants import RANK, low_rank_setting
from validations.claims.shared.linearisation import Linearisation, linearise
from validations.claims.shared.training import cross_entropy, logits
from validations.claims.sharpness.experiment import Scaled


@pytest.fixture(scope="module")
def low_rank():
    setting = low_rank_setting(1, 0, readout=0.1, shares=())
    subject = setting.subjects["lora"]
    names = modules(subject.initial)
    free = {f"{n}.B": subject.initial[f"{n}.B"] for n in names}
    lin = linearise(lambda b, batch: subject.outputs({**subject.initial, **b}, batch), free, setting.train)
    start = StartHessian(weight_gradients(subject, names, setting.train), RANK, torch.from_numpy(half_curvature(lin)))
    return setting, subject, names, start


def test_off_the_diagonal_the_start_is_the_gradient_and_a_pair_of_a_module_is_zero(low_rank):
    setting, subject, names, start = low_rank
    order = [f"{n}.A" for n in names] + [f"{n}.B" for n in names]
    exact = hessian(subject.loss, {n: subject.initial[n] for n in order}, [setting.train]).dense()
    model = start @ torch.eye(start.shape[0], dtype=torch.float64)
    cut = start.shape[0] - len(start.X)
    assert torch.allclose(model, model.T, atol=1e-14)
    assert torch.allclose(model[cut:, :cut], exact[cut:, :cut], atol=1e-12) and exact[cut:, :cut].abs().max() > 1e-3
    assert exact[:cut, :cut].abs().max() < 1e-14


def test_the_part_in_B_is_the_gauss_newton_matrix(low_rank):
    setting, subject, names, start = low_rank
    free = {f"{n}.B": subject.initial[f"{n}.B"] for n in names}
    expected = gauss_newton(
        lambda b, batch: subject.outputs({**subject.initial, **b}, batch),
        lambda y, batch: torch.nn.functional.cross_entropy(y, batch.labels),
        free,
        [setting.train],
    ).dense()
    assert torch.allclose(start.X @ start.X.T, expected, atol=1e-12)


def test_without_the_gauss_newton_part_every_singular_value_comes_with_both_signs_and_rank_times(low_rank):
    start = low_rank[3]
    bare = StartHessian(start.gradients, RANK, torch.zeros_like(start.X))
    values = torch.linalg.eigvalsh(bare @ torch.eye(bare.shape[0], dtype=torch.float64))
    sigma = torch.cat([torch.linalg.svdvals(g) for g in start.gradients]).repeat_interleave(RANK).sort().values
    assert torch.allclose(values[values > 1e-9], sigma[sigma > 1e-9], atol=1e-10)
    assert torch.allclose(values, -values.flip(0), atol=1e-10)


def test_a_cut_bounds_the_gradients_and_one_module_is_its_block(low_rank):
    start = low_rank[3]
    r = 0.5 * float(torch.linalg.svdvals(start.gradients[0])[0])
    assert max(float(torch.linalg.svdvals(g)[0]) for g in start.cut(r).gradients) <= r * (1 + 1e-12)
    whole, one = start @ torch.eye(start.shape[0], dtype=torch.float64), start.alone(0)
    a, b = (RANK * n for n in reversed(start.gradients[0].shape))
    rows = [*range(a), *range(start.shape[0] - len(start.X), start.shape[0] - len(start.X) + b)]
    assert torch.allclose(one @ torch.eye(one.shape[0], dtype=torch.float64), whole[rows][:, rows], atol=1e-14)


def test_other_parameters_than_pairs_of_factors_are_refused():
    with pytest.raises(ValueError, match="factors A and B"):
        modules({"0.mlp.bias": torch.zeros(2)})


def test_energies_are_the_gradients_square_in_the_eigenbasis():
    rng = np.random.default_rng(0)
    lin = Linearisation(rng.standard_normal((6, 3, 40)), rng.standard_normal((6, 3)), rng.integers(3, size=6), ("z",), ((40,),))
    curvatures, energy, square = energies(lin)
    X = half_curvature(lin)
    values, vectors = np.linalg.eigh(X @ X.T)
    gradient = np.einsum("nc,ncm->m", lin.loss.gradient(lin.y0), lin.G) / 6
    assert np.allclose(curvatures, values[::-1][:12], rtol=1e-8) and len(curvatures) == 12
    assert np.allclose(energy, ((vectors.T @ gradient) ** 2)[::-1][:12], rtol=1e-6)
    assert np.isclose(energy.sum(), square) and np.isclose(square, gradient @ gradient)


def test_descent_on_an_affine_network_is_descent_on_its_linear_model():
    setting = pace_setting(1, 0, readout=0.3)
    subject = next(iter(setting.subjects.values()))
    lin = linearise(subject.outputs, subject.initial, setting.train)
    r = 0.1 * float(lin.curvatures(lin.y0)[0])
    rate = 0.2 / (lin.curvatures(lin.y0)[0] + r)
    control = lin.optimum(r)
    start, least = cross_entropy(lin.y0, lin.labels), control.value
    origin = {n: p.detach() for n, p in subject.initial.items()}
    values = descend(
        lambda p: subject.loss(p, setting.train) + 0.5 * r * sum((x**2).sum() for x in p.values()),
        origin, rate, start - SHARE * (start - least),
    )  # fmt: skip
    counted = crossing((start - np.array(values)) / (start - least))
    assert np.isclose(counted, linear_descent(lin, r, rate), rtol=1e-8) and 1 < counted < LIMIT
    assert np.isclose(cross_entropy(logits(subject.outputs, origin, setting.train), lin.labels), start)


def test_the_crossing_is_interpolated_and_may_not_come():
    assert crossing(np.array([0.0, 0.5, 1.0])) == pytest.approx(1 + (SHARE - 0.5) / 0.5)
    assert crossing(np.array([0.0, 0.1])) is None


def test_a_scaled_operator_is_the_product_with_the_diagonal():
    rng = torch.Generator().manual_seed(0)
    A, d = torch.randn(5, 5, generator=rng), torch.rand(5, generator=rng)
    eye = torch.eye(5)
    assert torch.allclose(Scaled(A, d) @ eye, d[:, None] * A * d, atol=1e-6)
    assert torch.allclose(Scaled(A, d) @ eye[:, 2], (d[:, None] * A * d)[:, 2], atol=1e-6)
