"""The control of least energy of a float32 response is right at any ridge, and says how well rounding lets it be known."""

import numpy as np
import pytest
import torch

from probes import least_energy, output_gramian, response

RIDGES = (1e-2, 1e-4, 1e-6, 1e-7)


def drawn(seed, shape=(5, 4, 9), **options):
    """A random float32 map (N, C, M), its response, a shift that no control reaches, and the map (N C, M) in float64."""
    rng = np.random.default_rng(seed)
    G = torch.tensor(rng.standard_normal(shape), dtype=torch.float32)
    flat = response(
        lambda p, b: torch.einsum("ncm,m->nc", G[b[0]], p["z"]),
        {"z": torch.zeros(shape[2])},
        [(torch.arange(shape[0]),)],
        **options,
    )
    return flat, rng.standard_normal(shape[:2]), G.double().numpy().reshape(-1, shape[2])


def ridge_solution(S, d, rho):
    """(S'S + rho)^-1 S'd by the singular values."""
    u, s, vt = np.linalg.svd(S, full_matrices=False)
    return vt.T @ (s / (s**2 + rho) * (u.T @ d.ravel()))


@pytest.mark.parametrize("ridge", RIDGES)
@pytest.mark.parametrize("shape", [(5, 4, 9), (2, 2, 30)])
def test_a_small_ridge_keeps_the_control(shape, ridge):
    """The costate holds rest / ridge, of which G' keeps nothing: float64's own rounding of it is left, eps / ridge."""
    for seed in range(20):
        g, d, S = drawn(seed, shape)
        found, rho = output_gramian(g), ridge * np.linalg.norm(S, 2) ** 2
        z = found.control(g, least_energy(found, torch.tensor(d), ridge=rho).costate).numpy()
        ref = ridge_solution(S, d, rho)
        assert g.dtype == torch.float32
        assert np.linalg.norm(z - ref) <= 100 * np.finfo(float).eps / ridge * np.linalg.norm(ref)


@pytest.mark.parametrize("ridge", RIDGES)
def test_a_response_that_was_never_formed_is_within_the_resolution(ridge):
    """Its pull-backs are float32: the error stays below what the record states, and that is no empty bound."""
    for seed in range(20):
        g, d, S = drawn(seed, budget=0)
        found, rho = output_gramian(g), ridge * np.linalg.norm(S, 2) ** 2
        cost = least_energy(found, torch.tensor(d), ridge=rho)
        ref = ridge_solution(S, d, rho)
        error = np.linalg.norm(found.control(g, cost.costate).numpy() - ref) / np.linalg.norm(ref)
        assert g.matrix is None and error <= cost.resolution < 0.1


@pytest.mark.parametrize("ridge", [0.0, *RIDGES])
@pytest.mark.parametrize("shape", [(5, 4, 9), (2, 2, 30)])
def test_the_resolution_bounds_what_rounding_of_the_map_does(ridge, shape):
    """G moved by a random matrix as large as its resolution; twice the first-order bound leaves room for the second."""
    for seed in range(20):
        g, d, S = drawn(seed, shape)
        found, rho = output_gramian(g), ridge * np.linalg.norm(S, 2) ** 2
        cost = least_energy(found, torch.tensor(d), ridge=rho)
        change = np.random.default_rng(100 + seed).standard_normal(S.shape)
        change *= found.resolution / np.linalg.norm(change, 2)
        ref, other = ridge_solution(S, d, rho), ridge_solution(S + change, d, rho)
        assert np.linalg.norm(other - ref) <= 2 * cost.resolution * np.linalg.norm(ref)


def test_a_control_that_float32_cannot_know_is_said_to_be_unknown():
    """Two outputs that one control moves alike, asked to part: at a ridge below the rounding of G the answer is noise."""
    one = torch.ones(1, 2, 1)
    g = response(lambda p, b: torch.einsum("ncm,m->nc", one[b[0]], p["z"][:1]), {"z": torch.zeros(3)}, [(torch.arange(1),)])
    apart = least_energy(output_gramian(g), torch.tensor([[1.0, -0.9]]), ridge=1e-12)
    assert apart.resolution > 1
    assert least_energy(output_gramian(g), torch.tensor([[1.0, 0.9]]), ridge=1.0).resolution < 1e-4
    assert least_energy(output_gramian(g), torch.zeros(1, 2), ridge=1.0).resolution == 0
