"""Spectral densities of matrices known exactly: bands and intervals cover, outliers are counted, edges hold."""

import numpy as np
import pytest
import torch
from scipy import stats

from probes.curvature.density import density
from probes.curvature.quadrature import Lockstep, settle
from probes.curvature.spectrum import top_eigenpairs


def matrix_of(values, seed=0):
    """A dense float64 matrix with the given eigenvalues in a random orthonormal frame."""
    g = torch.Generator().manual_seed(seed)
    q = torch.linalg.qr(torch.randn(len(values), len(values), dtype=torch.float64, generator=g))[0]
    found = (q * torch.as_tensor(np.asarray(values), dtype=torch.float64)) @ q.T
    return (found + found.T) / 2


BULK = stats.semicircular.ppf((np.arange(260) + 0.5) / 260)
DECAY = 0.3 * np.r_[1, -1][np.arange(248) % 2] * np.exp(-np.arange(248) / 60)
SPECTRA = {
    "indefinite": BULK,
    "pairs": np.r_[[1.0] * 4, [-1.0] * 4, [0.5] * 2, [-0.5] * 2, DECAY],
    "bulk and outliers": np.r_[0.2 * BULK[:257], 1.0, 2.0, 5.0],
    "rank deficient": np.r_[np.zeros(130), np.linspace(0.5, 2, 130)],
}


def agree(estimates, truth):
    """Whether the mean of independent estimates meets the truth: chance alone fails once in 10^7."""
    errors = np.array([e.stderr for e in estimates])
    bound = stats.t.ppf(1 - 0.5e-7, sum(e.n - 1 for e in estimates)) * np.sqrt(np.mean(errors**2) / len(errors))
    return abs(np.mean([e.value for e in estimates]) - truth) < bound


def test_density_is_exact_when_small():
    values = np.linspace(-1, 2, 50)
    found = density(matrix_of(values))
    assert found.status == "exact" and found.products == 50
    np.testing.assert_allclose(np.sort(found.nodes[0]), values, atol=1e-12)
    assert found.cumulative([0.5]).value[0] == np.mean(values <= 0.5)
    e = found.negative_mass()
    assert e.value == e.interval[0] == e.interval[1] == pytest.approx(np.mean(values < 0), rel=1e-12)


def test_rules_are_gauss_rules():
    """A rule of m nodes has the moments v'A^k v up to 2 m - 1, seen by the same vectors: no sampling error."""
    matrix = matrix_of(np.r_[[5.0] * 4, BULK])
    run = Lockstep(matrix, 5, 20, torch.Generator().manual_seed(0), torch.zeros(264, 0, dtype=torch.float64))
    run.advance(20)
    rules, v = run.rules(), run.basis[:, 0].T
    assert run.products == 100 and abs(rules.nodes.max() - 5) < 1e-9
    np.testing.assert_allclose(rules.weights.sum(1), 1, atol=1e-12)
    for power in (1, 2, 3, 6):
        direct = (v * (torch.linalg.matrix_power(matrix, power) @ v)).sum(0).numpy()
        np.testing.assert_allclose((rules.weights * rules.nodes**power).sum(1), direct, rtol=1e-10)


@pytest.mark.parametrize("name", ["indefinite", "pairs", "bulk and outliers"])
def test_band_covers(name):
    """40 repetitions of 101 points, correlated over about five, are 800 trials: 90 % is known to 1 %.

    The range 0.85 to 0.95 is the stated one; 0.02 is two standard errors of this count.
    """
    values = SPECTRA[name]
    matrix, width, hits, least = matrix_of(values), None, [], []
    for seed in range(40):
        found = density(matrix, probes=10, steps=25, seed=seed)
        width = width or found.width
        grid = np.linspace(values.min() - 2 * width, values.max() + 2 * width, 101)
        truth = stats.norm.pdf(grid, values[:, None], width).mean(0)
        curve = found.on(grid, width, confidence=0.9)
        rounding = 1e-9 * truth.max()
        inside = (curve.lower <= truth + rounding) & (truth - rounding <= curve.upper)
        hits.append(inside[truth > 1e-3 * truth.max()])
        for e, true in (
            (found.negative_mass(confidence=0.9), np.mean(values < 0)),
            (found.mass_near_zero(0.1, confidence=0.9), np.mean(abs(values) <= 0.1)),
        ):
            least.append(e.interval[0] - 1e-12 <= true <= e.interval[1] + 1e-12)
            assert 0 <= e.interval[0] <= e.value <= e.interval[1] <= 1
    assert 0.83 <= np.mean(hits) <= 0.97
    # these intervals also hold the quadrature's error and may cover more: fewer than this, once in 10^7
    assert np.sum(least) >= stats.binom.ppf(1e-7, len(least), 0.9)


def test_a_few_steps_bound_the_mass_near_zero():
    """In four vectors of six steps the mean square bounds what lies near zero, where the nodes leave half of it open."""
    values = np.r_[[10.0, -6.0], np.random.default_rng(0).laplace(0, 0.02, 998)]
    matrix, hits, lows, alone = torch.diag(torch.tensor(values)), [], [], []
    for seed in range(60):
        found = density(matrix, probes=4, steps=6, seed=seed)
        for radius in (0.02, 1.0, 0.1):
            low, high = found.mass_near_zero(radius).interval
            hits.append(low <= np.mean(abs(values) <= radius) + 1e-12 <= high + 2e-12)
        lows.append(low)
        ends = found.cumulative([-0.1, 0.1])
        alone.append(max(ends.lower[1] - ends.upper[0], 0.0))
    assert np.median(lows) > 0.85 > 1.5 * np.median(alone)
    assert np.sum(hits) >= stats.binom.ppf(1e-6, len(hits), 0.95)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_outliers_enter_with_their_multiplicity(dtype):
    """For every start: all four eigenspaces, and nothing that is not an eigenvalue as often as it is said to be."""
    values, found = SPECTRA["pairs"], []
    outer = np.r_[[-1.0] * 4, [-0.5] * 2, [0.5] * 2, [1.0] * 4]
    matrix, close = matrix_of(values).to(dtype), {torch.float64: 1e-8, torch.float32: 1e-5}[dtype]
    for seed in range(8):
        found.append(density(matrix, probes=10, steps=25, seed=seed))
        known = np.sort(found[-1].nodes[0, : found[-1].known])
        np.testing.assert_allclose(known[abs(known) > 0.4], outer, atol=close)
        inner = np.sort(values)[np.searchsorted(np.sort(values), known - close)]
        assert (inner <= known + close).all()
        assert (found[-1].weights[:, : found[-1].known] == 1 / 260).all()
        np.testing.assert_allclose(found[-1].weights.sum(1), 1, atol=1e-12)
        curve = found[-1].on([-1.0, 1.0], 0.01)
        np.testing.assert_allclose(curve.value, 4 / 260 * stats.norm.pdf(0, 0, 0.01), rtol=1e-4)
        np.testing.assert_allclose(curve.upper, curve.lower, rtol=1e-4)
    for power in (1, 2, 3):
        assert agree([f.moment(power) for f in found], np.mean(values**power))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_what_was_found_stays_found(dtype):
    """Rounding brings copies of the repeated eigenvalues into the sequences, at steps that the last bits decide."""
    matrix = matrix_of(SPECTRA["pairs"]).to(dtype)
    for seed in range(2):
        run = Lockstep(matrix, 10, 50, torch.Generator().manual_seed(seed), torch.zeros(260, 0, dtype=dtype))
        for steps in range(22, 51, 4):
            run.advance(steps)
            settled, weights = settle([run], run.rules(), max(100 * torch.finfo(dtype).eps, 1e-8))
            counts = [int((abs(settled - x) < 1e-4).sum()) for x in (-1, -0.5, 0.5, 1)]
            assert counts == [4, 2, 2, 4]
            far = abs(run.rules().nodes) > 0.9
            assert (np.where(far, weights, 0).sum(1) < 1e-3 / 260).all()


def test_an_eigenspace_wider_than_the_probes_is_sampled():
    """Ten vectors show ten directions of a twelve-fold eigenvalue and of a thirty-fold one: neither is counted."""
    values = np.r_[[3.0] * 12, 0.2 * BULK[:248]]
    matrix = matrix_of(values)
    found = [density(matrix, probes=10, steps=25, seed=seed) for seed in range(8)]
    assert {f.known for f in found} == {0}
    assert agree([f.moment(2) for f in found], np.mean(values**2))


@pytest.mark.parametrize("bulk", [1e-2, 1e-7, 1e-10])
def test_negative_mass_of_a_bulk_beside_outliers(bulk):
    """What counts is the resolution of the bulk, not of its largest neighbour: nominal coverage, and still informative.

    20 intervals of nominal 95 % miss more often than allowed here once in 10^7.
    """
    misses, widths, count = 0, [], 20
    for seed in range(count):
        rng = np.random.default_rng(seed)
        values = bulk * rng.exponential(size=240) * np.where(rng.random(240) < 0.3, -1, 1)
        values[:3] = 1, 0.5, 0.25
        found = density(matrix_of(values, seed), probes=8, steps=20, seed=seed)
        assert found.resolution < bulk / 1000
        low, high = found.negative_mass().interval
        misses += not low <= np.mean(values < -found.resolution) <= high
        widths.append(high - low)
    assert misses <= stats.binom.ppf(1 - 1e-7, count, 0.05)
    assert max(widths) < 0.8 and np.mean(widths) < 0.6


def test_an_eigenvalue_at_the_edge_is_in_doubt():
    """Half the spectrum is 0: the share at or below 0 holds it or not, by the rounding of a node; below -0.1 it is clear."""
    for seed in range(5):
        found = density(matrix_of(SPECTRA["rank deficient"], seed), probes=4, steps=25, seed=seed)
        curve = found.cumulative([-0.1, 0.0, 0.25])
        assert curve.upper[0] < 0.1 and curve.lower[2] > 0.35 and curve.upper[2] < 0.65
        assert curve.lower[1] < 0.1 and curve.upper[1] > 0.4
        low, high = found.negative_mass().interval  # its edge lies beyond what the node at zero leaves open
        assert low == 0 and high < 0.1 and found.resolution < 1e-6


def test_known_pairs_take_their_noise_away():
    """Ten outliers of weight 1 / D that the caller knows: the band of the mean is that of the bulk alone."""
    values = np.r_[np.linspace(4, 6, 10), 0.2 * BULK[:250]]
    matrix = matrix_of(values)
    top = top_eigenpairs(matrix, 10, tol=1e-8)
    pairs = [
        (density(matrix, probes=4, steps=6, seed=i), density(matrix, probes=4, steps=6, deflate=top, seed=i)) for i in range(12)
    ]
    plain, helped = ([pair[i].moment(1) for pair in pairs] for i in (0, 1))
    assert {(p.known, h.known) for p, h in pairs} == {(0, 10)}
    # a factor of eight in expectation; below 2.5 by chance once in 10^9 (Fisher's ratio of 36 and 36 squares)
    assert np.mean([e.stderr**2 for e in helped]) < np.mean([e.stderr**2 for e in plain]) / 2.5**2
    assert agree(helped, values.mean())
    pair = density(matrix, probes=4, steps=6, deflate=(top.values, top.vectors))
    np.testing.assert_array_equal(pair.nodes, pairs[0][1].nodes)
    every = torch.linalg.eigh(matrix)
    assert density(matrix, probes=2, steps=6, deflate=every).products == 0


def test_wasserstein_distance_on_a_lora_like_spectrum():
    """Four-fold pairs, a gap and a long decay: within 2e-3 of the range by 10 x 50 products."""
    decay = 6.9e-4 * np.r_[1, -1][np.arange(1016) % 2] * np.exp(-np.arange(1016) / 60)
    values = np.r_[np.repeat([4.85e-3, -4.85e-3], 4) * (1 + 1e-3 * np.arange(8)), decay]
    matrix = matrix_of(values)
    for seed in range(3):
        found = density(matrix, seed=seed)
        known = np.sort(found.nodes[0, : found.known])
        assert found.products == 500
        np.testing.assert_allclose(known[abs(known) > 1e-3], np.sort(values[:8]), rtol=1e-7)
        mean = (found.weights / len(found.weights)).ravel()
        assert stats.wasserstein_distance(found.nodes.ravel(), values, mean) <= 2e-3 * np.ptp(values)


def test_tolerance_stops_early():
    matrix, t, covered = matrix_of(SPECTRA["indefinite"]), np.linspace(-1.2, 1.2, 40), []
    for seed in range(20):
        found = density(matrix, probes=16, steps=16, tolerance=0.02, seed=seed)
        assert density(matrix, probes=16, steps=16, tolerance=0.2, seed=seed).products < found.products <= 16 * 16
        each = (found.weights[..., None] * stats.norm.cdf(t, found.nodes[..., None], found.width)).sum(1)
        half = stats.t.ppf(0.975, len(each) - 1) * each.std(0, ddof=1) / len(each) ** 0.5
        assert len(each) == 16 or half.max() <= 0.021  # the stop looks at another grid of the same curve
        truth = stats.norm.cdf(t, SPECTRA["indefinite"][:, None], found.width).mean(0)
        covered.append(np.mean(abs(each.mean(0) - truth) <= half))
    # points go together: ten of twenty 95 % bands astray is one in 10^7
    assert np.mean(covered) > 0.5


@pytest.mark.parametrize(
    "values",
    [np.zeros(60), np.full(60, -2.0), np.r_[np.zeros(20), np.ones(40)], np.r_[np.zeros(57), 1.0, 1.0, 3.0]],
    ids=["zero", "one value", "two", "low rank"],
)
def test_degenerate_spectra(values):
    """The Krylov spaces end early: no product is spent beyond, and no node is invented."""
    for seed in range(10):
        exact = torch.diag(torch.as_tensor(values))  # in another frame rounding alone makes more values of them
        found = density(exact, probes=5, steps=10, seed=seed)
        assert found.products <= 5 * (len(np.unique(values)) + 1)
        used = found.nodes[found.weights > 1e-12]
        assert abs(used[:, None] - np.unique(values)).min(1).max() < 1e-9
        assert found.negative_mass().interval[0] <= np.mean(values < 0) <= found.negative_mass().interval[1]
        assert np.isfinite(found.on([0.0]).value).all()


def test_smallest_operators():
    one = density(torch.tensor([[-2.0]], dtype=torch.float64))
    assert one.status == "exact" and one.negative_mass().value == 1.0
    two = density(torch.diag(torch.tensor([1.0, 2.0])), probes=1, steps=1)  # D > probes * steps
    assert two.products == 1 and two.known == 0 and np.isinf(two.on([1.0]).upper).all()


def test_float32_agrees():
    matrix = matrix_of(SPECTRA["bulk and outliers"])
    grid = np.linspace(-1, 6, 50)
    fine, coarse = density(matrix, steps=25), density(matrix.float(), steps=25)
    np.testing.assert_allclose(coarse.on(grid, 0.1).value, fine.on(grid, 0.1).value, atol=1e-3)


def test_bad_input_is_a_sentence():
    matrix = matrix_of(BULK)
    for words, call in {
        "at least 1": lambda: density(matrix, probes=0),
        "square": lambda: density(matrix[:10]),
        "positive share": lambda: density(matrix, tolerance=0.0),
        "not finite": lambda: density(matrix * float("nan"), steps=25),
        "finite point": lambda: density(matrix[:20, :20] * float("nan")),
        "orthonormal": lambda: density(matrix, steps=25, deflate=(torch.ones(2), torch.ones(260, 2))),
        "vectors": lambda: density(matrix, steps=25, deflate=(torch.ones(2), torch.ones(259, 2))),
        "width must be positive": lambda: density(matrix).on([0.0], 0.0),
        "radius": lambda: density(matrix).mass_near_zero(-1.0),
    }.items():
        with pytest.raises(ValueError, match=words):
            call()
