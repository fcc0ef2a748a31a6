"""Problems of known dimension: Li's toy needs as many directions as its solution set leaves, a planted teacher its own."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import ks_2samp
from seeds import shifted

from probes.dimension.projection import random_subspace
from probes.dimension.threshold import threshold_dimension
from theory.kernel import gradient_components
from theory.loss import CrossEntropy
from theory.subspace import projected_block, projected_gain
from tuning import fit
from validations.claims.dimension.claim import BRACKETED
from validations.claims.dimension.experiment import measure, predict
from validations.claims.dimension.plants import subspace_setting
from validations.claims.shared.claim import Cell
from validations.claims.shared.subspaces import crossing
from validations.store import Record


def _least(objective, subspace):
    """What L-BFGS reaches in a subspace, from theta = 0."""
    theta = {"theta": torch.zeros(subspace.dimension, dtype=torch.float64)}
    return fit(lambda p: objective(subspace.apply(p["theta"])["z"]), theta, tolerance=1e-7, max_evaluations=300).value


def _drawn(size, d, seed):
    return random_subspace({"z": (size,)}, d, kind="dense", seed=shifted(seed), dtype=torch.float64)


def test_li_s_toy_has_dimension_ten():
    """Li et al. 2018, section 2: 1000 numbers in ten groups, group i to sum to i: a solution set of 990 dimensions.

    What nine random dimensions leave is the square of one entry of a random unit vector in ten: below 1e-5 in one draw of
    150, so in all three once in 3e6.
    """
    goal = torch.arange(1.0, 11.0, dtype=torch.float64)
    objective = lambda z: (z.unflatten(-1, (10, 100)).sum(-1) - goal).square().mean()  # noqa: E731
    dimensions, start = [1, 3, 6, 8, 9, 10, 11, 14], float(goal.square().mean())
    left = np.array([[_least(objective, _drawn(1000, d, 10 * d + s)) / start for s in range(3)] for d in dimensions])
    solved = (left < 1e-6).all(1)
    assert dimensions[int(np.argmax(solved))] == 10 and solved[5:].all() and (left[:5].max(1) > 1e-5).all()


@pytest.mark.slow
def test_a_planted_teacher_lies_within_the_interval():
    """A linear teacher in k of D directions, all alike: d directions make d / k of the gain on average, so d90 = 0.9 k.

    Of 24 nominal intervals at 0.9 fewer than 13 hold it with probability 1e-6 (binomial). Three of four are within two
    octaves, so fewer than 7 are once in 4e6; where no draw lies just below the threshold the upper end is open.
    """
    size, k, dimensions, inside, narrow = 64, 6, [1, 2, 3, 4, 5, 6, 8, 12], 0, 0
    for seed in range(24):
        generator = torch.Generator().manual_seed(seed)
        basis = torch.linalg.qr(torch.randn(size, k, generator=generator, dtype=torch.float64))[0]
        goal = torch.randn(k, generator=generator, dtype=torch.float64)

        def gained(d, draw, seed=seed, basis=basis, goal=goal):
            """The share of |goal|^2 that the least of |z'basis - goal|^2 over the subspace takes away, by least squares."""
            part = _drawn(size, d, 1000 * seed + 10 * d + draw)
            seen = part.apply(torch.eye(d, dtype=torch.float64))["z"] @ basis
            return 1 - float((goal - torch.linalg.pinv(seen.T) @ goal @ seen).square().sum() / goal.square().sum())

        gain = [gained(d, s) for d in dimensions for s in range(3)]
        low, high = threshold_dimension(np.repeat(dimensions, 3), gain, baseline=[1.0, 1.0], chance=0.0).interval
        inside += low <= 0.9 * k <= high
        narrow += high <= 4 * low
    assert inside >= 13 and narrow >= 7


def test_the_quadratic_s_gain_is_that_of_drawn_subspaces():
    """Means to six standard errors, and the whole distribution by Kolmogorov and Smirnov's two samples at 1e-8."""
    rng = np.random.default_rng(0)
    values, g, size, r = np.array([4.0, 1.0, 0.2, 0.05]), np.array([1.0, -2.0, 0.3, 0.5]), 12, 0.1
    dimensions = [1, 3, 8, 11, 12]
    drawn = projected_gain(values, g, size, dimensions, ridge=r, draws=1500)
    H, wide = np.diag(np.append(values, np.zeros(size - 4))) + r * np.eye(size), np.append(g, np.zeros(size - 4))
    full = wide @ np.linalg.solve(H, wide)
    for j, d in enumerate(dimensions):
        direct = []
        for _ in range(1500):
            P = np.linalg.qr(rng.standard_normal((size, d)))[0]
            direct.append(wide @ P @ np.linalg.solve(P.T @ H @ P, P.T @ wide) / full)
        error = math.hypot(np.std(direct), drawn[:, j].std()) / math.sqrt(1500)
        assert abs(drawn[:, j].mean() - np.mean(direct)) <= 6 * error + 1e-12
        if d < size:  # of all directions every draw is the whole gain, to rounding
            assert ks_2samp(drawn[:, j], direct).pvalue > 1e-8
    flat = projected_gain(np.zeros(4), g, size, [3], ridge=r, draws=3000)
    assert abs(flat.mean() - 3 / size) <= 6 * flat.std() / math.sqrt(3000)  # no curvature: the share of |g|^2 that P keeps
    with pytest.raises(ValueError, match="between 1 and 12"):
        projected_gain(values, g, size, [13], ridge=r)
    with pytest.raises(ValueError, match="not be negative"):
        projected_gain(-values, g, size, [3], ridge=r)


def test_gradient_components_are_those_of_the_dense_curvature():
    rng = np.random.default_rng(1)
    G, y, loss = rng.standard_normal((5, 3, 20)), rng.standard_normal((5, 3)), CrossEntropy(np.arange(5) % 3)
    flat = G.reshape(15, 20)
    values, components = gradient_components(flat @ flat.T, y, loss)
    gradient = np.einsum("nc,ncm->m", loss.gradient(y) / 5, G)
    dense, V = np.linalg.eigh(np.einsum("ncm,ncd,ndk->mk", G, loss.hessian(y) / 5, G))
    np.testing.assert_allclose(values, dense[::-1][: len(values)], rtol=1e-9)
    np.testing.assert_allclose(np.abs(components), np.abs(V.T @ gradient)[::-1][: len(values)], rtol=1e-8)
    assert components @ components == pytest.approx(gradient @ gradient)  # the gradient lies in the curvature's range


def test_directions_seen_from_a_random_subspace_are_those_of_drawn_ones():
    """Forty means to six standard errors: a false alarm once in 1e7."""
    rng, size, k = np.random.default_rng(2), 10, 3
    V = np.linalg.qr(rng.standard_normal((size, k)))[0]
    for d in (1, 2, 5, 10):
        seen = np.array([B @ B.T for B in (projected_block(k, size, d, rng) for _ in range(4000))])
        drawn = np.array([V.T @ P @ P.T @ V for P in (np.linalg.qr(rng.standard_normal((size, d)))[0] for _ in range(4000))])
        spread = np.hypot(seen.std(0), drawn.std(0)) / math.sqrt(4000)
        assert (np.abs(seen.mean(0) - drawn.mean(0)) <= 6 * spread + 1e-12).all()
        # distribution, not only mean: the largest eigenvalue too
        tops = [np.linalg.eigvalsh(x)[:, -1] for x in (seen, drawn)]
        assert abs(tops[0].mean() - tops[1].mean()) <= 6 * math.hypot(*(t.std() for t in tops)) / math.sqrt(4000) + 1e-12
    with pytest.raises(ValueError, match="between 1 and 10"):
        projected_block(3, 10, 11, rng)


def test_a_predicted_curve_crosses_where_it_is_read():
    assert crossing([4, 16], [0.5, 0.7], 64) == pytest.approx(2 ** (4 + 2 * 0.2 / 0.3))
    assert crossing([4, 16], [0.5, 0.95], 64) == pytest.approx(2 ** (2 + 2 * 0.4 / 0.45))
    assert crossing([4, 16], [0.95, 0.99], 64) == pytest.approx(4 * 0.9 / 0.95)


def test_a_threshold_beyond_the_dimensions_tried_lies_below_all_numbers():
    plant = subspace_setting(0, 0)
    setting = replace(plant, options=dict(plant.options) | {"dimensions": [1, 2, 3]})
    before = predict(setting)
    after = measure(setting, before)
    assert max(after.values["scores"]) < 0.8 and json.dumps([before.values, after.values], allow_nan=False)
    for found in (before.values["curve"], after.values["measured"], after.values["high"]):
        assert 3 < found <= after.values["parameters"]
    assert not BRACKETED.passes(Cell("plant", "bias", 0, before, after))


@pytest.mark.parametrize(
    ("dimensions", "measured", "holds"),
    [
        ([512, 768, 896], 850.0, True),
        ([512, 768, 896], 1000.0, True),
        ([512, 768], 1000.0, False),
        ([512, 896], 850.0, False),
        ([896, 960], 896.0, False),
    ],
)
def test_a_threshold_is_bracketed_by_near_dimensions_or_not_at_all(dimensions, measured, holds):
    record = Record({"dimensions": dimensions, "measured": measured, "parameters": 1024}, {})
    assert BRACKETED.passes(Cell("task", "delta", 0, record, record)) is holds
