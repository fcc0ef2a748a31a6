"""Local learning coefficients that are known in closed form lie in their reported intervals; bad chains are refused."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from seeds import shifted

from probes.dimension.learning_coefficient import local_learning_coefficient

DOUBLE = torch.float64
ALL = [torch.zeros(1)]  # the losses are known functions: one batch holds everything


def squares(p, _):
    return (p["w"] ** 2).sum(-1)


def measured(loss, point, nbeta, step, **options):
    chosen = {"gamma": 1.0, "route": "leading", "chains": 64, "seed": shifted(0)} | options
    return local_learning_coefficient(loss, point, ALL, n=nbeta, beta=1.0, step=step, **chosen)


def holds(found, truth):
    """Within six standard errors of the chains' mean: of 32 or more chains once in 1e6 not."""
    return abs(found.value - truth) < 6 * found.stderr


def raised(found, truth):
    """Whether six standard errors, with what a multiplicity of two lacks above, hold the truth; interval has two of them."""
    return found.value - 6 * found.tempered.stderr < truth < found.interval[1] + 4 * found.tempered.stderr


def test_bowl():
    """d/2, and at a finite temperature exactly d t / (2 t + gamma)."""
    d, t = 6, 1000
    found = measured(squares, {"w": torch.zeros(d, dtype=DOUBLE)}, t, 1e-4, draws=1500, burn=200)
    assert raised(found, d / 2) and found.status == "ok" and holds(found.tempered, d * t / (2 * t + 1))
    assert found.tempered.stderr < 0.02 * d and abs(found.equipartition.value - 1) < 0.02 and found.rhat < 1.02
    assert holds(found.slope, 0)  # a bowl has no multiplicity
    assert (found.nbeta, found.gamma, found.step, found.chains, found.draws, found.burn) == (t, 1.0, 1e-4, 64, 1500, 200)


def test_quartic():
    point = {"w": torch.zeros((), dtype=DOUBLE)}
    found = measured(lambda p, _: p["w"] ** 4, point, 10_000, 1e-4, chains=256, draws=3000, burn=500)
    assert raised(found, 1 / 4) and found.status == "ok" and found.tempered.stderr < 0.01


def test_crossing_of_two_valleys():
    """(w1 w2)^2 has 1/2 with multiplicity 2, so lambda(t) approaches it only as 1 / log t: both are in their intervals."""
    t = 30

    def free_energy(s):
        # -log of the mean of exp(-s w1^2 w2^2) over w ~ N(0, I), w1 integrated by hand
        value = quad(lambda w: 2 * math.exp(-w * w / 2) / math.sqrt(2 * math.pi * (1 + 2 * s * w * w)), 0, 12, limit=400)[0]
        return -math.log(value)

    exact = (free_energy(1.001 * t) - free_energy(t / 1.001)) / (2 * math.log(1.001))
    found = measured(
        lambda p, _: (p["w"][..., 0] * p["w"][..., 1]) ** 2,
        {"w": torch.zeros(2, dtype=DOUBLE)},
        t,
        1.5e-3,
        chains=512,
        draws=3000,
        burn=1500,
    )
    assert holds(found.tempered, exact) and found.tempered.interval[1] < 0.4
    assert raised(found, 1 / 2) and found.interval[1] < 0.6 and found.status == "ok"
    assert abs(found.value + math.sqrt(found.slope.value) - 1 / 2) < 0.04


@pytest.mark.slow
@pytest.mark.parametrize(
    ("m", "n", "h", "r", "truth"),
    [
        (4, 3, 2, 1, (-((2 + 1) ** 2) - 4 * 4 - 3 * 3 + 2 * (2 + 1) * (4 + 3) + 2 * 4 * 3) / 8),  # m + n + h + r even
        (3, 2, 2, 2, (2 * 2 - 2 * 2 + 3 * 2) / 2),  # n + h < m + r
    ],
)
def test_reduced_rank_regression(m, n, h, r, truth):
    """|B A - T|^2 / 2 with B (n, h), A (h, m) and T of rank r (Aoyagi & Watanabe 2005, main theorem), here 4 and 3."""
    a, b = torch.zeros(h, m, dtype=DOUBLE), torch.zeros(n, h, dtype=DOUBLE)
    a[range(r), range(r)] = b[range(r), range(r)] = 1
    target = b @ a

    def loss(p, _):
        return ((p["B"] @ p["A"] - target) ** 2).sum((-1, -2)) / 2

    found = measured(loss, {"A": a, "B": b}, 3000, 7e-5, gamma=4.0, chains=64, draws=2500, burn=1200)
    assert raised(found, truth) and found.status == "ok"
    assert found.tempered.stderr < 0.05 and found.interval[1] < (m + n) * h / 2  # 0.03 of 64 chains, known to 9 %
    coarse = measured(loss, {"A": a, "B": b}, 1000, 6e-4, draws=800, burn=1200)
    assert coarse.status == "step too large"  # seldom excursions raise the losses' variance before their mean


def regression(p, batch):
    x, y = batch
    return ((x @ p["w"] + p["b"] - y) ** 2).mean() / 2


def test_routes_agree_and_minibatches_are_unbiased():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(200, 3, generator=g, dtype=DOUBLE)
    y = x @ torch.ones(3, dtype=DOUBLE) + 0.1 * torch.randn(200, generator=g, dtype=DOUBLE)
    whole = torch.linalg.lstsq(torch.cat([x, torch.ones(200, 1, dtype=DOUBLE)], 1), y[:, None]).solution[:, 0]
    point = {"w": whole[:3], "b": whole[3]}
    options = {"step": 2e-3, "chains": 4, "draws": 12, "burn": 3, "beta": 1.0}
    batches = [(x[i : i + 50], y[i : i + 50]) for i in range(0, 200, 50)]
    for some in (batches, [(x, y)]):
        a, b = (local_learning_coefficient(regression, point, some, route=route, **options) for route in ("vmap", "loop"))
        np.testing.assert_allclose(a.chain_values, b.chain_values, rtol=1e-9)
    assert a.initial_loss == pytest.approx(float(regression(point, (x, y))), rel=1e-12) and a.nbeta == 200
    uneven = [(x[:150], y[:150]), (x[150:], y[150:])]
    longer = options | {"chains": 12, "draws": 300, "burn": 50}
    found = local_learning_coefficient(regression, point, uneven, **longer)
    assert found.slope is None and found.initial_loss == pytest.approx(a.initial_loss, rel=1e-12)
    # four directions of a bowl at n beta = 200 and unit curvatures: 2 less half a percent, plus what the noise of the
    # minibatches' slopes heats the chains, which is in proportion to the step and below 5 % here
    assert abs(found.value - 2) < 10 * found.tempered.stderr + 0.1  # Student's with 11 degrees: once in 1e6 beyond 10


def test_bad_chains_are_refused_and_bad_requests_are_sentences():
    point = {"w": torch.ones(3, dtype=DOUBLE)}
    lower = measured(squares, point, 1000, 1e-4, draws=50, burn=50)
    assert math.isnan(lower.value) and "negative" in lower.status and max(lower.chain_values) < 0
    zero = {"w": torch.zeros(3, dtype=DOUBLE)}
    wild = measured(squares, zero, 1000, 0.1, draws=400, burn=400)
    assert math.isnan(wild.value) and "smaller step" in wild.status
    cold = measured(squares, zero, 1000, 1e-7, draws=400, burn=0)
    assert cold.status in ("not mixed", "not in equilibrium") and cold.equipartition.value < 0.1
    wrong = (
        ({"chains": 3}, "at least 4 chains"),
        ({"step": 0.0}, "step, gamma and n beta must be"),
        ({"gamma": 0.0}, "must be positive"),
        ({"n": 1}, "at least 3 items"),
        ({"route": "scan"}, "route must be one of"),
    )
    for options, words in wrong:
        with pytest.raises(ValueError, match=words):
            local_learning_coefficient(squares, zero, ALL, **({"step": 1e-4, "n": 100} | options))


def test_chains_that_run_away_are_refused_on_minibatches_too():
    parts = [torch.full((8,), 0.9, dtype=DOUBLE), torch.full((8,), 1.1, dtype=DOUBLE)]
    start = {"w": torch.zeros(5, dtype=DOUBLE)}
    settings = {"n": 1000, "beta": 1.0, "chains": 8, "draws": 60, "burn": 20, "seed": shifted(0)}
    away = local_learning_coefficient(lambda p, b: b.mean() * squares(p, b), start, parts, step=2.2e-3, **settings)
    assert away.status.startswith("refused: the chains lie above D") and math.isnan(away.value)
    stays = local_learning_coefficient(lambda p, b: b.mean() * squares(p, b), start, parts, step=2e-4, **settings)
    assert 0 < stays.value < 5


@pytest.mark.slow
def test_a_stationary_loss_is_the_bowl_alone():
    """A bowl met beside its bottom, on batches that pull apart: less their tangents it is the same bowl at its bottom."""
    pulls = [torch.full((4,), s, dtype=DOUBLE) for s in (-1.0, 1.0)]
    beside, d, t = {"w": torch.full((6,), 0.3, dtype=DOUBLE)}, 6, 1000
    options = {"n": t, "beta": 1.0, "step": 1e-4, "chains": 32, "draws": 1000, "burn": 200, "route": "leading"}
    options |= {"seed": shifted(0)}

    def pulled(p, batch):
        return squares(p, batch) + batch.mean() * p["w"].sum(-1)

    found = local_learning_coefficient(pulled, beside, pulls, stationary=True, **options)
    assert holds(found.tempered, d * t / (2 * t + 1)) and found.status == "ok" and found.tempered.stderr < 0.02 * d
    plain = local_learning_coefficient(pulled, {"w": torch.zeros(6, dtype=DOUBLE)}, pulls, **options)
    assert np.mean(plain.chain_values) > 2 * found.value
