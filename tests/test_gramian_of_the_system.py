"""Linearisations are Jacobians, Gramians are those of the system, and reach keeps what W loses in float32."""

import json

import numpy as np
import pytest
import torch

from probes.reach.controllability import LinearSystem, gramian, linearize, reachable


def system(seed=0, n=5, inputs=(2, 3, 1, 2), dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    A = [torch.randn(n, n, dtype=torch.float64, generator=g).to(dtype) / 2 for _ in inputs]
    return A, [torch.randn(n, m, dtype=torch.float64, generator=g).to(dtype) for m in inputs]


def simulate(A, B, x, u):
    for a, b, c in zip(A, B, u, strict=True):
        x = a @ x + b @ c
    return x


def test_golden_system(shared):
    """System S of the golden problems: reach map and Gramian by two independent solvers."""
    golden = json.loads((shared / "golden" / "control.json").read_text(encoding="utf-8"))["G1"]
    A = [[[1, 1], [0, 1]], [[1, 0.5], [-0.5, 1]], [[0.8, 0], [0.3, 1.1]]]
    A = [torch.tensor(a, dtype=torch.float64) for a in A]
    B = [torch.tensor(b, dtype=torch.float64)[:, None] for b in ([0, 1], [1, 0], [0.5, 1])]
    np.testing.assert_allclose(gramian((A, B)), golden["W"], atol=1e-12)
    found = reachable((A, B), 2)
    G = found.states @ torch.diag(found.values) @ found.controls
    np.testing.assert_allclose(G, golden["G"], atol=1e-12)
    target = torch.tensor([2.4, 2.25], dtype=torch.float64)
    u = found.controls.T @ ((found.states.T @ target) / found.values)
    np.testing.assert_allclose(u, golden["u"], atol=1e-9)
    assert float(u @ u) == pytest.approx(golden["E"], rel=1e-9)


def test_linearisation_is_the_jacobian_of_every_step():
    def step(t, x, u):
        return torch.tanh((t + 1) * x + torch.sin(u).sum() * torch.ones_like(x)) + u[0] * u[1] * x

    g = torch.Generator().manual_seed(0)
    controls = [torch.randn(2, dtype=torch.float64, generator=g) for _ in range(3)]
    states = [torch.randn(2, 3, dtype=torch.float64, generator=g)]
    for t, u in enumerate(controls):
        states.append(step(t, states[-1], u))
    found = linearize(step, states, controls)
    assert found.horizon == 3 and found.status == "exact" and found.A[0].shape == (6, 6)
    for t, (x, u) in enumerate(zip(states, controls, strict=False)):
        h = 1e-6
        for M, vary in ((found.A[t], x), (found.B[t], u)):
            for j in range(vary.numel()):
                e = torch.zeros_like(vary).reshape(-1)
                e[j] = h
                e = e.reshape(vary.shape)
                plus = step(t, x + e, u) if vary is x else step(t, x, u + e)
                minus = step(t, x - e, u) if vary is x else step(t, x, u - e)
                # central differences in float64: error h^2 plus eps / h, about 1e-10 each
                torch.testing.assert_close(M[:, j], ((plus - minus) / (2 * h)).reshape(-1), rtol=0, atol=1e-8)


@pytest.mark.parametrize("inputs", [(2, 3, 1, 2), (1, 1), (4, 4, 4, 4)])
def test_reach_map_is_the_simulation(inputs):
    A, B = system(inputs=inputs)
    found = reachable((A, B), min(5, sum(inputs)))
    for i in range(len(found.values)):
        u = found.controls[i].split(inputs)
        end = simulate(A, B, torch.zeros(5, dtype=torch.float64), u)
        torch.testing.assert_close(end, found.values[i] * found.states[:, i], rtol=1e-10, atol=1e-12)
    W = gramian((A, B))
    values = torch.linalg.eigvalsh(W).flip(0)[: len(found.values)]
    torch.testing.assert_close(found.values**2, values, rtol=1e-9, atol=1e-12)
    assert found.energy == pytest.approx(float(W.trace()), rel=1e-12)
    assert found.rank == min(5, sum(inputs))


def test_reverse_time_duality():
    """W of (A, B) is the observability Gramian of the transposed system run backwards."""
    A, B = system(seed=2)
    S = torch.zeros(5, 5, dtype=torch.float64)
    for a, b in zip(A, B, strict=True):  # S <- A S A' + B B' is the dual's backward recursion
        S = a @ S @ a.T + b @ b.T
    explicit = torch.zeros_like(S)
    for t in range(len(A)):
        phi = torch.eye(5, dtype=torch.float64)
        for a in A[t + 1 :]:
            phi = a @ phi
        explicit += phi @ B[t] @ B[t].T @ phi.T
    torch.testing.assert_close(gramian((A, B)), explicit, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(S, explicit, rtol=1e-12, atol=1e-12)


def test_float32_rank_comes_from_the_map_not_its_square():
    """A gain of 1e-5 is 1e-10 in W, under float32's 1e-7; the singular value keeps three digits of it."""
    gains = torch.tensor([1.0, 1e-2, 1e-5])
    g = torch.Generator().manual_seed(1)
    q = torch.linalg.qr(torch.randn(3, 3, generator=g, dtype=torch.float64))[0]
    B = [(q @ torch.diag(gains.double())).float()]
    A = [torch.eye(3)]
    found = reachable(LinearSystem(tuple(A), tuple(B)), 3)
    assert found.rank == 3
    # rounding of the entries of B moves a singular value by eps * |B|: 6e-8 of 1e-5
    torch.testing.assert_close(found.values, gains, rtol=2e-2, atol=0)
    assert float(torch.linalg.eigvalsh(gramian((A, B)))[0]) != pytest.approx(1e-10, rel=0.5)


def test_bad_input_is_a_sentence():
    A, B = system()
    with pytest.raises(ValueError, match="does not chain"):
        gramian((A, B[:1] * 3 + [B[0][:4]]))
    with pytest.raises(ValueError, match="one pair per step"):
        gramian((A, B[:2]))
    with pytest.raises(ValueError, match="rank must lie"):
        reachable((A, B), 6)
    with pytest.raises(ValueError, match="one tensor per control"):
        linearize(lambda t, x, u: x + u, [torch.ones(2)], [torch.ones(2)] * 3)
    B[0] = B[0] * torch.nan
    assert reachable((A, B), 2).status == "not finite"
