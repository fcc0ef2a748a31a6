"""A planted problem has the dimension it is said to have: alike directions, the teacher as optimum, the law of subspaces."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from seeds import shifted

from probes.dimension.projection import random_subspace
from validations.claims.planted.experiment import plant, predict, typical_dimension
from validations.claims.planted.plants import planted_setting
from validations.claims.shared.linearisation import linearise
from validations.claims.shared.subspaces import shapes


@pytest.mark.parametrize(("k", "d"), [(8, 7), (16, 13), (30, 12)])
def test_half_of_all_subspaces_reach_the_share_at_the_typical_dimension(k, d):
    rng, count = np.random.default_rng(k), 4000
    drawn = np.linalg.qr(rng.standard_normal((count, k, d)))[0][:, 0]
    share = float(np.median(np.square(drawn).sum(1)))  # |P w|^2 / |w|^2 for w along the first axis
    # a median of 4000 lies within 6 standard errors at quantiles 0.5 +- 6 / (2 sqrt(4000)); the dimension moves with the share
    low, high = np.quantile(np.square(drawn).sum(1), [0.5 - 0.048, 0.5 + 0.048])
    assert typical_dimension(k, float(low)) <= d <= typical_dimension(k, float(high))
    assert typical_dimension(k, share) == pytest.approx(d, abs=0.15)


def test_the_mean_share_is_at_a_larger_dimension_than_the_typical_one():
    assert 0.9 * 16 - typical_dimension(16) == pytest.approx(0.49, abs=0.03)
    assert typical_dimension(400) == pytest.approx(0.9 * 400, abs=0.6)


def made(decades):
    setting = planted_setting(1, 0, decades=decades)
    subject = setting.subjects["delta"]
    lin = linearise(subject.outputs, subject.initial, setting.train)
    return setting, subject, lin, plant(setting, lin, 6)


@pytest.mark.parametrize("decades", [0.0, 2.0])
def test_the_logits_respond_alike_along_every_planted_direction(decades):
    _, _, lin, problem = made(decades)
    values = np.linalg.svd(lin.G.reshape(-1, lin.G.shape[-1]) @ problem.steps, compute_uv=False)
    np.testing.assert_allclose(values**2 / values[0] ** 2, np.logspace(0, -decades, 6), rtol=1e-9)
    np.testing.assert_allclose(problem.seen.T @ problem.seen, np.eye(6) * len(problem.seen) / 6, atol=1e-12)


def test_the_error_is_the_squared_distance_from_the_teacher():
    """On an affine network |y(w) - y*|^2 over |y(0) - y*|^2 is |w - w*|^2 over |w*|^2, whatever x moves besides w."""
    setting, subject, _, problem = made(0.0)
    objective = problem.objective(subject.outputs, setting.train, problem.targets)
    rng, size = np.random.default_rng(0), len(problem.seen)
    for _ in range(3):
        x = rng.standard_normal(size) / np.sqrt(size)
        params = dict(zip(problem.origin, [torch.as_tensor(x)], strict=True))
        expected = np.sum((problem.seen.T @ x - problem.teacher) ** 2) / np.sum(problem.teacher**2)
        assert float(objective(params)) == pytest.approx(expected, rel=1e-9)


def test_the_share_in_a_subspace_is_the_projection_of_the_teacher():
    _, _, _, problem = made(0.0)
    for d in (2, 4, 6, 10):
        part = random_subspace(shapes(problem.origin), d, kind="dense", seed=shifted(d), dtype=torch.float64)
        moved = part.apply(torch.eye(d, dtype=torch.float64))
        columns = torch.cat([p.flatten(1) for p in moved.values()], 1).T.numpy()
        basis = np.linalg.qr(problem.seen.T @ columns)[0][:, : min(d, 6)]
        assert problem.share(part) == pytest.approx(np.sum((basis.T @ problem.teacher) ** 2), abs=1e-9)


def test_tasks_of_one_seed_have_draws_of_their_own_and_a_cell_the_same_again():
    first, again, other = (predict(planted_setting(system, 0, decades=0.0)).values["plants"][0]["shares"] for system in (0, 0, 2))
    assert first == again and first != other


def test_a_dimension_above_the_rank_is_refused():
    setting = replace(planted_setting(0, 0, decades=0.0), options={"known": 25})
    with pytest.raises(ValueError, match="within the response's rank"):
        predict(setting)
