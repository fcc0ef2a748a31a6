"""Traces of all blocks from common probes are unbiased, exact where nothing is left to sample, and add up."""

import numpy as np
import pytest
import torch
from scipy import stats

from probes.curvature.block_traces import block_traces

SHAPES = {"a": (3, 4), "b": (4, 2), "c": (6,), "d": (5,), "e": (7,)}
SIZE = 38
GROUPS = {"all": tuple(SHAPES), "low": ("a", "b"), **{name: (name,) for name in SHAPES}}
PLACES = dict(zip(SHAPES, np.split(np.arange(SIZE), np.cumsum([12, 8, 6, 5])), strict=True))


def symmetric(seed):
    a = torch.randn(SIZE, SIZE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return a + a.T


def truth(matrix, names):
    return sum(float(matrix.diagonal()[PLACES[name]].sum()) for name in names)


class Dense:
    def __init__(self, matrix):
        self.matrix, self.shape, self.dtype, self.device = matrix, tuple(matrix.shape), matrix.dtype, "cpu"
        self.products = 0

    def __matmul__(self, v):
        self.products += v.shape[1]
        return self.matrix @ v


def test_the_mean_over_seeds_is_the_trace():
    matrix, runs = symmetric(0), 300
    found = [block_traces(Dense(matrix), SHAPES, GROUPS, budget=16, seed=seed) for seed in range(runs)]
    for label, names in GROUPS.items():
        values = np.array([f[label].value for f in found])
        room = stats.t.ppf(1 - 1e-7, runs - 1) * values.std(ddof=1) / np.sqrt(runs)
        assert abs(values.mean() - truth(matrix, names)) <= room
        covered = sum(f[label].interval[0] <= truth(matrix, names) <= f[label].interval[1] for f in found)
        assert covered >= stats.binom.ppf(1e-7, runs, 0.93)  # Student's 95 % on 4 samples of a quadratic form of signs


def test_coupling_of_neighbouring_tensors_cancels():
    """Four tensors in a row have different signs, so that off-diagonal blocks among them leave no variance."""
    matrix = symmetric(1)
    for name in "abcd":
        at = PLACES[name]
        matrix[np.ix_(at, at)] = torch.diag(torch.arange(len(at), dtype=torch.float64))
    matrix[PLACES["e"]], matrix[:, PLACES["e"]] = 0, 0
    for label, found in block_traces(Dense(matrix), SHAPES, GROUPS, budget=8, seed=3).items():
        assert found.value == pytest.approx(truth(matrix, GROUPS[label]), abs=1e-11)
        assert found.stderr < 1e-11 and found.products == 8


@pytest.mark.parametrize(("budget", "made"), [(2, 2), (7, 6), (32, 32), (35, 32)])
def test_the_budget_is_kept(budget, made):
    op = Dense(symmetric(2))
    found = block_traces(op, SHAPES, GROUPS, budget=budget)
    assert op.products == made == found["all"].products
    assert found["all"].value == pytest.approx(sum(found[name].value for name in SHAPES), abs=1e-10)


def test_a_known_part_is_exact_and_the_rest_is_sampled():
    root = torch.randn(SIZE, 3, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    sign = torch.tensor([1.0, 1.0, -1.0], dtype=torch.float64)
    matrix = root @ torch.diag(sign) @ root.T
    for label, found in block_traces(Dense(matrix), SHAPES, GROUPS, budget=4, root=root, sign=sign).items():
        assert found.value == pytest.approx(truth(matrix, GROUPS[label]), abs=1e-11) and found.stderr < 1e-11


def test_one_product_has_no_standard_error():
    with pytest.raises(ValueError, match="budget=1"):
        block_traces(Dense(symmetric(5)), SHAPES, GROUPS, budget=1)
