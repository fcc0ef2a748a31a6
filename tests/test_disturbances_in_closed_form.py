"""Disturbances: ascent finds the singular vector, the loop in outputs is the simulated one, a small game is a formula."""

import numpy as np
import pytest
import torch
import zoo

from theory.control import output_lq
from tuning import Adapter, Batch, PortBias
from validations.claims.disturbance import experiment as disturbance
from validations.claims.shared.linearisation import Linearisation

RNG = np.random.default_rng(0)


def linear(count=5, classes=3, width=4, ports=("a", "b", "c")):
    G = RNG.standard_normal((count, classes, len(ports) * width))
    y0 = RNG.standard_normal((count, classes))
    return Linearisation(G, y0, RNG.integers(0, classes, count), ports, ((width,),) * len(ports))


def test_ascent_finds_the_largest_singular_value_and_its_vector():
    Z = torch.as_tensor(RNG.standard_normal((7, 3, 10)))
    _, s, v = np.linalg.svd(Z.numpy(), full_matrices=False)
    start = torch.as_tensor(RNG.standard_normal((7, 10)))
    found, length = disturbance.worst_case(lambda w: torch.einsum("nkm,nm->nk", Z, w) + 3.0, start, 0.2, 200)
    assert np.allclose(length.numpy(), 0.2 * s[:, 0], rtol=1e-8)
    assert np.allclose(np.abs(np.sum(found.numpy() * v[:, 0], axis=1)), 0.2, rtol=1e-6)
    assert found.norm(dim=1).max() <= 0.2 * (1 + 1e-12)


def test_the_price_is_the_mean_of_the_quadratic_form_under_noise():
    """E of 1/2 w' G' M G w over all +-1 vectors w, which have unit variance, without sampling."""
    lin = linear(width=2)
    E, M = lin.loss.basis(3), lin.loss.hessian(lin.y0)
    signs = np.array(np.meshgrid(*[(-1.0, 1.0)] * 6)).reshape(6, -1)
    shift = lin.G @ signs
    brute = 0.5 * np.mean(np.einsum("nck,ncd,ndk->nk", shift, M, shift))
    assert np.isclose(disturbance._price(E.T @ lin.G, E, lin.y0, lin.loss), brute, rtol=1e-12)


def test_the_regulated_price_is_the_simulated_loop():
    """Each unit disturbance enters, the law answers what it has done to the outputs, port after port."""
    lin, r = linear(), 0.3
    G, M = [lin.columns(p) for p in "abc"], lin.loss.hessian(lin.y0)
    law = output_lq(G, M, lin.loss.gradient(lin.y0), r)
    total = 0.0
    for t in range(3):
        for j in range(4):
            e = np.zeros_like(lin.y0)
            for s in range(3):
                e = e + (G[s][:, :, j] if s == t else 0.0)
                e = e + np.einsum("ncm,nm->nc", G[s], law.control(s, e) - law.control(s, np.zeros_like(e)))
            total += 0.5 * np.mean(np.einsum("nc,ncd,nd->n", e, M, e))
    found = disturbance._regulated(lin, ("a", "b", "c"), lin.y0, r)
    assert np.isclose(found, total, rtol=1e-10)
    assert found < disturbance._price(lin.loss.basis(3).T @ lin.G, lin.loss.basis(3), lin.y0, lin.loss)


@pytest.mark.parametrize("r", [0.1, 1.0, 10.0])
def test_the_game_of_one_port_is_a_formula(r):
    """One port, one contrast of gain g: u = -k w costs g^2 (1 - k)^2 + r k^2, least g^2 r / (g^2 + r)."""
    f = RNG.standard_normal((1, 5))
    a = float((f @ f.T)[0, 0])
    assert np.isclose(disturbance._game(f, 1, r), np.sqrt(a * r / (a + r)), rtol=1e-9)


def test_the_game_never_exceeds_the_open_loop_and_tends_to_it():
    f = RNG.standard_normal((2, 12))
    assert disturbance._game(f, 3, 0.5) < np.linalg.norm(f, 2)
    assert np.isclose(disturbance._game(f, 3, 1e9), np.linalg.norm(f, 2), rtol=1e-6)


def test_a_disturbance_of_each_example_is_its_own():
    """Vectors (B, d) do to each example what its (d,) does to it alone; the signals of a bias stay the bias."""
    backbone, batch = zoo.backbone_of("bert"), zoo.batch_of()
    made = zoo.subject_of(backbone, Adapter(3, ports=("attention",)))
    params = zoo.moved(made.initial)
    w = {f"{block}.attention": torch.as_tensor(RNG.standard_normal((5, 16))) for block in (0, 1)}
    together = made.disturbed(w, params, batch)
    for i in range(5):
        alone = made.disturbed({k: v[i] for k, v in w.items()}, params, Batch(*(x[i : i + 1] for x in batch)))
        assert (together[i] - alone[0]).abs().max() < 1e-12
    rolled = made.rollout(params, batch, w)
    assert (rolled.outputs - together).abs().max() < 1e-12
    calm = made.rollout(params, batch)
    assert (rolled.base["0.attention"] - calm.base["0.attention"] - w["0.attention"][:, None]).abs().max() < 1e-12
    assert (rolled.signals["0.attention"] - calm.signals["0.attention"]).abs().max() > 1e-3
    bias = zoo.subject_of(backbone, PortBias())
    moved = zoo.moved(bias.initial)
    signal = bias.rollout(moved, batch, w).signals["1.attention"]
    assert (signal - moved["1.attention.bias"]).abs().max() < 1e-12
