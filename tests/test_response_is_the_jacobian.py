"""The response is the Jacobian: against torch.func.jacrev on whole batches, by both routes, formed or not."""

import math

import pytest
import torch
from torch.func import jacrev

from probes.reach.response import response

SIZES = (3, 1, 4)


def network(params, batch):
    """A two-layer net whose parameters come in every rank; one of them is not used."""
    x = batch["x"]
    h = torch.tanh(x @ params["0.weight"].T + params["0.bias"])
    h = torch.nn.functional.layer_norm(h, (5,)) * params["0.scale"]
    return h @ params["1.weight"].T + params["1.shift"] * batch["mask"].sum(1, keepdim=True)


def branching(params, batch):
    """The same net behind control flow that depends on data, which vmap refuses."""
    y = network(params, batch)
    return y if bool((batch["mask"] >= 0).all()) else -y


@pytest.fixture(scope="module")
def problem():
    g = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, dtype=torch.float64, generator=g)  # noqa: E731
    params = {
        "0.weight": draw(5, 4),
        "0.bias": draw(5),
        "0.scale": draw(5),
        "1.weight": draw(3, 5),
        "1.shift": draw(()),
        "unused": draw(2, 2),
    }
    batches = [{"x": draw(n, 4), "mask": draw(n, 2).abs()} for n in SIZES]
    return params, batches


def reference(params, batches):
    parts = []
    for batch in batches:
        jacobian = jacrev(lambda p, b=batch: network(p, b))(params)
        parts.append(torch.cat([jacobian[k].reshape(len(batch["x"]), 3, -1) for k in params], dim=-1))
    return torch.cat(parts)


# float64 sums of < 100 terms of size 1: rounding is below 1e-14; a wrong entry is of size 1
EXACT = {"rtol": 1e-12, "atol": 1e-12}


@pytest.mark.parametrize("function, route", [(network, "vmap"), (branching, "loop")])
@pytest.mark.parametrize("chunk", [1, 2, 32])
def test_matrix_is_the_jacobian(problem, function, route, chunk):
    params, batches = problem
    found = response(function, params, batches, chunk=chunk)
    assert found.route == route and bool(found.note) == (route == "loop") and found.status == "exact"
    assert found.shape == (sum(SIZES), 3, sum(p.numel() for p in params.values()))
    torch.testing.assert_close(found.matrix, reference(params, batches), **EXACT)
    torch.testing.assert_close(found.outputs, torch.cat([network(params, b) for b in batches]), **EXACT)


@pytest.mark.parametrize("function", [network, branching])
@pytest.mark.parametrize("budget", [0, 600, 3000])
def test_matrix_free_is_the_matrix(problem, function, budget):
    params, batches = problem
    full = response(function, params, batches)
    free = response(function, params, batches, budget=budget, chunk=3)
    assert full.matrix is not None and free.matrix is None
    n, c, m = full.shape
    g = torch.Generator().manual_seed(1)
    dz = torch.randn(m, 2, dtype=torch.float64, generator=g)
    dy = torch.randn(n, c, 2, dtype=torch.float64, generator=g)
    metric = {k: torch.rand(v.shape, dtype=v.dtype, generator=g) + 0.1 for k, v in params.items()}
    for a, b in (
        (full.matvec(dz), free.matvec(dz)),
        (full.rmatvec(dy), free.rmatvec(dy)),
        (full.kernel(), free.kernel()),
        (full.kernel(metric), free.kernel(metric)),
        (full.matrix, torch.stack(list(free.per_example()))),
    ):
        torch.testing.assert_close(a, b, **EXACT)
    forward, back = free.matvec(dz[:, 0]), free.rmatvec(dy[..., 0])
    torch.testing.assert_close((forward * dy[..., 0]).sum(), dz[:, 0] @ back, **EXACT)


def test_kernel_is_g_rinv_gt(problem):
    params, batches = problem
    found = response(network, params, batches)
    rows = found.matrix.reshape(-1, found.shape[2])
    r = torch.linspace(0.5, 2, found.shape[2], dtype=torch.float64)
    torch.testing.assert_close(found.kernel(r), rows @ torch.diag(1 / r) @ rows.T, **EXACT)
    torch.testing.assert_close(found.kernel(4.0), rows @ rows.T / 4, **EXACT)
    with pytest.raises(ValueError, match="positive"):
        found.kernel(r - 1)


@pytest.mark.parametrize("budget", [0, 1 << 30])
def test_groups_partition_the_columns(problem, budget):
    params, batches = problem
    found = response(network, params, batches, budget=budget)
    parts = found.by_group({"first": "0.*", "second": ["1.*"], "rest": ["unused"]})
    scattered = found.by_group({"ends": ["0.weight", "1.shift"]})["ends"]
    assert scattered.shape[2] == 21
    torch.testing.assert_close(sum(p.kernel() for p in parts.values()), found.kernel(), **EXACT)
    dz = {k: torch.ones_like(v) for k, v in params.items()}
    total = sum(p.matvec({k: dz[k] for k in p.names}) for p in parts.values())
    torch.testing.assert_close(total, found.matvec(dz), **EXACT)
    assert math.isclose(float(parts["rest"].kernel().abs().max()), 0.0)
    with pytest.raises(ValueError, match="no parameter matches"):
        found.by_group(["2.*"])


def test_interacting_or_random_examples_are_refused(problem):
    params, batches = problem

    def normed(p, batch):
        y = network(p, batch)
        return y - y.mean(0)

    with pytest.raises(ValueError, match="independent"):
        response(normed, params, batches)
    with pytest.raises(ValueError, match="dropout"):
        response(lambda p, b: torch.nn.functional.dropout(network(p, b)), params, batches)


def test_size_is_named_when_not_formed(problem):
    params, batches = problem
    with pytest.raises(ValueError, match="bytes"):
        response(network, params, batches, budget=0).numpy()
