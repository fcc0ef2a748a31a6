"""With the data over two processes, one sum per product gives the single-process curvature."""

import pytest
import seeds  # noqa: F401  # a spawned process imports this file alone, and must draw the same problem
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.functional import cross_entropy

from probes.curvature.hessian import empirical_fisher, fisher, gauss_newton, hessian
from probes.curvature.spectrum import top_eigenpairs

SHARDS = ((0, 5), (5, 7), (7, 18))  # two batches for the first process, one for the second


def problem():
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(18, 4, dtype=torch.float64, generator=g), torch.randint(3, (18,), generator=g)
    shapes = {"in": (8, 4), "out": (3, 8)}
    params = {k: torch.randn(*shape, dtype=torch.float64, generator=g) for k, shape in shapes.items()}
    return params, [(x[a:b], y[a:b]) for a, b in SHARDS]


def outputs(p, batch):
    return torch.tanh(batch[0] @ p["in"].T) @ p["out"].T


def losses(p, batch):
    return cross_entropy(outputs(p, batch), batch[1], reduction="none")


def operators(batches, **options):
    params, _ = problem()
    return {
        "hessian": hessian(lambda p, b: losses(p, b).mean(), params, batches, **options),
        "gauss-newton": gauss_newton(outputs, lambda y, b: cross_entropy(y, b[1]), params, batches, **options),
        "fisher": fisher(outputs, params, batches, **options),
        "empirical": empirical_fisher(losses, params, batches, **options),
    }


def measured(batches, **options):
    v = torch.randn(56, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    made = operators(batches, **options)
    found = {name: op @ v for name, op in made.items()}
    block = made["hessian"].block("out")
    return {
        **found,
        "block": block @ v[:24],
        "values": top_eigenpairs(made["hessian"], 2, tol=1e-8).values,
        "examples": torch.tensor(made["hessian"].examples),
    }


def _rank(rank, place):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{place}/meet", rank=rank, world_size=2)
    _, batches = problem()
    found = measured(batches[:2] if rank == 0 else batches[2:], group=dist.group.WORLD)
    x, y = batches[rank]  # one batch each, with labels left out in the second process only
    labelled = (x, torch.cat([y.new_full((rank,), -100), y[rank:]]))
    try:
        hessian(lambda p, b: losses(p, b).mean(), problem()[0], [labelled], group=dist.group.WORLD)
    except ValueError as error:
        found["refused"] = str(error)
    torch.save(found, f"{place}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path):
    mp.spawn(_rank, (str(tmp_path),), nprocs=2)
    whole = measured(problem()[1])
    for rank in (0, 1):
        found = torch.load(tmp_path / f"{rank}.pt")
        assert float(found["examples"]) == 18
        assert "weights=" in found["refused"]  # by both: one process alone would leave the other waiting
        for name, value in whole.items():
            torch.testing.assert_close(found[name], value, rtol=1e-10, atol=1e-10, msg=lambda m, name=name: f"{name}: {m}")
