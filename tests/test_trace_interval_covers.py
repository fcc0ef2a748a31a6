"""Traces and Frobenius norms: unbiased, intervals that cover, exact where they must be, cross terms that cancel."""

import math

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy
from zoo import backbone_of, batch_of, moved, subject_of

from probes.curvature.hessian import hessian
from probes.curvature.spectrum import gauss_newton_spectrum, top_eigenpairs
from probes.curvature.trace import frobenius, trace
from tuning import LoRA

SEEDS = 200
# a 95 % interval misses 10 of 200, and 30 or more by chance once in 10^7; that it is not too wide, HONEST says
MISSES = range(30)
HONEST = 0.7, 1.4  # standard error over spread: 200 values know it to 5 %, and these ends are 6 and 8 times that


def matrix_of(values, seed=0):
    """A dense float64 matrix with the given eigenvalues in a random orthonormal frame."""
    g = torch.Generator().manual_seed(seed)
    q = torch.linalg.qr(torch.randn(len(values), len(values), dtype=torch.float64, generator=g))[0]
    found = (q * torch.as_tensor(np.asarray(values), dtype=torch.float64)) @ q.T
    return (found + found.T) / 2


class Named:
    """A dense matrix with an operator's names, so that 200 seeds cost nothing."""

    def __init__(self, matrix, shapes):
        self.matrix, self.shapes, self.names = matrix, dict(shapes), tuple(shapes)
        self.shape, self.dtype, self.products = matrix.shape, matrix.dtype, 0

    def __matmul__(self, v):
        self.products += v.shape[1]
        return self.matrix @ v


def spread_of(op, truth, estimate=trace, **options):
    """(spread, root mean square standard error, misses, estimates) over the seeds; checks the bias as well."""
    found = [estimate(op, seed=seed, **options) for seed in range(SEEDS)]
    values = np.array([e.value for e in found])
    assert abs(values.mean() - truth) < 6 * values.std() / SEEDS**0.5  # by chance once in 10^8
    misses = sum(not e.interval[0] <= truth <= e.interval[1] for e in found)
    return values.std(), np.sqrt(np.mean([e.stderr**2 for e in found])), misses, found


@pytest.fixture(scope="module")
def lora():
    """A tiny BERT with LoRA on q and v in each of two layers, 256 numbers, its Hessian and Gauss-Newton spectrum."""
    s = subject_of(backbone_of("bert"), LoRA(2))
    params, batch = moved(s.initial, 0.1), batch_of(12)
    op = hessian(s.loss, params, [batch])
    matrix = op.dense()
    gn = gauss_newton_spectrum(s.outputs, lambda y, b: cross_entropy(y, b.labels), params, [batch])
    return Named((matrix + matrix.T) / 2, op.shapes), gn


@pytest.mark.parametrize(
    "values", [np.linspace(-1, 3, 60), np.r_[20.0, -15.0, 9.0, np.linspace(-0.3, 0.3, 117)]], ids=["flat", "decaying"]
)
def test_intervals_cover_on_known_spectra(values):
    """The choice between Hutchinson and Hutch++ follows the spectrum and leaves the interval its rate."""
    spread, error, misses, found = spread_of(matrix_of(values), values.sum(), budget=24)
    assert misses in MISSES and HONEST[0] < error / spread < HONEST[1]
    wanted = "Hutchinson" if len(values) == 60 else "Hutch++"
    assert np.mean([e.method == wanted for e in found]) > 0.9 and {e.products for e in found} == {24}


def test_intervals_cover_on_a_lora_and_the_choice_pays(lora):
    """The spread against plain Hutchinson's sqrt(2 / m) |offdiag A|_F, which is a formula."""
    op, _ = lora
    off = op.matrix - torch.diag(op.matrix.diagonal())
    plain = float((2 / 48 * (off**2).sum()).sqrt())
    spread, error, misses, found = spread_of(op, float(op.matrix.trace()), budget=48)
    assert misses in MISSES and HONEST[0] < error / spread < HONEST[1]
    assert plain / spread > 2  # stated for all of a LoRA; 30 products on 8192 numbers
    assert max(e.products for e in found) <= 48
    apart = [f for f in found if "sign flips of 2 groups" in f.method]  # a draw may choose otherwise
    assert len(apart) > 0.9 * SEEDS and all(set(f.parts) == {"*.A", "*.B"} for f in apart)
    np.testing.assert_allclose(sum(p.value for p in apart[0].parts.values()), apart[0].value)
    for label in apart[0].parts:
        rows = torch.cat([torch.full((math.prod(s),), k.endswith(label[1:])) for k, s in op.shapes.items()])
        each = np.array([f.parts[label].value for f in apart])
        assert abs(each.mean() - float(op.matrix.diagonal()[rows].sum())) < 6 * each.std() / len(each) ** 0.5


def test_one_module_gains_tenfold():
    """H_AB = G (x) I_r of norm 6 has no trace, the blocks of A and B have norm 0.06: 30 products gain more than ten."""
    g = torch.Generator().manual_seed(0)
    left, right = (torch.linalg.qr(torch.randn(16, 16, dtype=torch.float64, generator=g))[0] for _ in range(2))
    cross = torch.kron(torch.eye(4, dtype=torch.float64), left @ torch.diag(3.0 * 0.3 ** torch.arange(16)).double() @ right)
    blocks = [matrix_of(0.05 * 0.8 ** np.arange(64), seed) for seed in (1, 2)]
    matrix = torch.cat([torch.cat([blocks[0], cross], 1), torch.cat([cross.T, blocks[1]], 1)])
    op = Named(matrix, {"m.A": (4, 16), "m.B": (4, 16)})
    plain = float((2 / 30 * ((matrix**2).sum() - (matrix.diagonal() ** 2).sum())).sqrt())
    spread, _, misses, found = spread_of(op, float(matrix.trace()), budget=30)
    assert plain / spread > 10 and misses in MISSES and max(e.products for e in found) <= 30


def test_cross_terms_cancel_exactly():
    """Diagonal blocks that are diagonal have no variance left, however large the block between them."""
    matrix = torch.diag(torch.arange(60.0, dtype=torch.float64))
    matrix[:20, 20:] = 100 * torch.randn(20, 40, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    matrix = torch.triu(matrix) + torch.triu(matrix, 1).T
    op = Named(matrix, {"m.A": (4, 5), "m.B": (8, 5)})
    found = trace(op, budget=16, groups=["m.A", "m.B"])
    assert found.value == pytest.approx(1770, abs=1e-9) and found.stderr < 1e-9 and found.products == 16
    assert found.parts["m.A"].value == pytest.approx(190, abs=1e-9)
    assert trace(op, budget=16, groups={"all": "*"}).stderr > 10


@pytest.mark.parametrize("estimate", [trace, frobenius])
def test_low_rank_is_exact(estimate):
    values = np.r_[5.0, -3.0, 2.0, np.zeros(117)]
    found = estimate(matrix_of(values), budget=24)
    truth = values.sum() if estimate is trace else np.linalg.norm(values)
    assert found.value == pytest.approx(truth, rel=1e-9) and found.stderr < 1e-9 and found.method == "Hutch++"


def test_names_of_axes_are_no_names_of_parameters():
    """torch up to 2.12 gives every tensor .names, None for each axis; they part nothing, and a matrix has no groups."""
    matrix = matrix_of(np.linspace(-1, 3, 60))
    axes = Named(matrix, {})
    del axes.shapes
    axes.names = (None, None)
    for budget in (24, 60):
        assert trace(axes, budget=budget) == trace(matrix, budget=budget)
    for op in (axes, matrix):
        with pytest.raises(ValueError, match="leave groups out"):
            trace(op, groups=["*"])


def test_a_diagonal_and_a_perfect_control_have_no_variance():
    exact = trace(torch.diag(torch.arange(7.0, dtype=torch.float64)), budget=4)
    assert exact.value == 21 and exact.stderr == 0 and exact.method == "Hutchinson"
    matrix = matrix_of(np.linspace(-1, 3, 60))
    controlled = trace(matrix, budget=8, control=(matrix, 60.0))
    assert controlled.value == 60.0 and controlled.stderr == 0 and controlled.products == 8
    free = trace(matrix, budget=8, control=matrix)
    assert free.value == pytest.approx(60.0, abs=1e-12) and free.products == 8 and "control" in free.method


def test_a_control_that_does_not_help_is_dropped(lora):
    op, gn = lora
    other = 100 * matrix_of(np.linspace(-1, 1, 256), seed=5)
    assert "control" not in trace(op, budget=48, control=other).method
    _, _, misses, found = spread_of(op, float(op.matrix.trace()), budget=48, control=gn)
    assert misses in MISSES and max(e.products for e in found) <= 48


def test_known_pairs_are_taken_out():
    """All that varies can be deflated; pairs that are no eigenpairs cost variance, not truth."""
    values = np.r_[9.0, -8.0, 7.0, np.full(97, 0.5)]
    matrix = matrix_of(values)
    top = top_eigenpairs(matrix - 0.5 * torch.eye(100, dtype=torch.float64), 3, tol=1e-9)
    found = trace(matrix, budget=10, deflate=(top.values, top.vectors))
    assert found.value == pytest.approx(values.sum(), rel=1e-9) and found.stderr < 1e-8
    assert "deflated by 3 directions" in found.method
    wrong = (torch.tensor([4.0, -4.0]), torch.linalg.qr(torch.eye(100, dtype=torch.float64)[:, :2])[0])
    _, _, misses, _ = spread_of(matrix, values.sum(), budget=24, deflate=wrong)
    assert misses in MISSES
    low = matrix_of(np.r_[9.0, -8.0, 7.0, np.zeros(97)])
    found = frobenius(low, budget=4, deflate=top_eigenpairs(low, 3, tol=1e-9))  # too few products for Hutch++
    assert found.value == pytest.approx(np.linalg.norm([9, 8, 7]), rel=1e-9) and found.stderr < 1e-8
    assert max(frobenius(low, budget=4, seed=seed).stderr for seed in range(8)) > 0.1


def test_frobenius_interval_covers():
    values = np.r_[5.0, -4.0, 3.0, np.linspace(-1, 1, 97)]
    spread, error, misses, found = spread_of(matrix_of(values), np.linalg.norm(values), frobenius, budget=30)
    assert misses in MISSES and HONEST[0] < error / spread < HONEST[1]
    assert found[0].parts["square"].value == pytest.approx(found[0].value ** 2)


def test_exact_when_small(lora):
    op, _ = lora
    found = trace(op, budget=256)
    assert found.value == pytest.approx(float(op.matrix.trace()), rel=1e-12) and found.stderr == 0
    assert found.products == 256 and found.method == "dense" and found.interval == (found.value, found.value)
    parts = trace(op, budget=300, groups=op.names).parts
    assert sum(p.value for p in parts.values()) == pytest.approx(found.value) and set(parts) == set(op.names)
    assert frobenius(op, budget=256).value == pytest.approx(float(op.matrix.norm()), rel=1e-12)
    assert trace(torch.tensor([[-2.0]]), budget=1).value == -2.0
    zero = torch.zeros(50, 50)
    assert trace(zero, budget=10).interval == (0, 0) and frobenius(zero, budget=10).interval == (0, 0)


@pytest.mark.parametrize("seed", range(6))
def test_scale_budget_and_repetition(seed, lora):
    """For any budget: never more products than allowed; the same seed repeats itself; cA has c times the trace."""
    op, _ = lora
    budget = int(torch.randint(2, 120, (), generator=torch.Generator().manual_seed(seed)))
    op.products = 0
    found = trace(op, budget=budget, seed=seed)
    assert op.products == found.products <= budget and found.interval[0] <= found.value <= found.interval[1]
    assert trace(op, budget=budget, seed=seed) == found
    scaled = trace(Named(-8 * op.matrix, op.shapes), budget=budget, seed=seed)  # a power of two rounds nothing
    assert scaled.value == pytest.approx(-8 * found.value, rel=1e-9)
    assert scaled.stderr == pytest.approx(8 * found.stderr, rel=1e-9)
    assert frobenius(op, budget=budget, seed=seed).products <= budget


def test_bad_input_is_a_sentence(lora):
    op, _ = lora
    for words, call in {
        "square": lambda: trace(torch.ones(3, 4)),
        "two probes": lambda: trace(op, budget=1),
        "two probes of 8 products": lambda: trace(op, budget=15, groups=op.names),
        "each of the 256 parameters once": lambda: trace(op, groups=["*.A"]),
        "no parameter matches": lambda: trace(op, groups=["*.C"]),
        "method must be one of": lambda: trace(op, method="exact"),
        "4 products per group": lambda: trace(op, method="hutch++", budget=3),
        "control must have the operator's shape": lambda: trace(op, control=torch.ones(3, 3)),
        "not finite": lambda: trace(Named(op.matrix * float("nan"), op.shapes)),
        "at a finite point": lambda: trace(torch.full((5, 5), float("inf"))),
        "deflate must hold": lambda: frobenius(op, deflate=(torch.ones(3), torch.ones(256, 2))),
        "budget=1": lambda: frobenius(op, budget=1),
    }.items():
        with pytest.raises(ValueError, match=words):
            call()
