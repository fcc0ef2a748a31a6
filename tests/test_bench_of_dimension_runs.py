"""The bench "dimension" compares like with like: rivals solve the same problem, and absent ones are said to be absent."""

import numpy as np
import pytest
import torch
from seeds import shifted

import bench
from bench import dimension, dimension_peers, peers
from bench.subjects import Size
from bench.timing import Row, contend
from probes.dimension.projection import random_subspace

SHAPES = {"w": (70, 90), "b": (90,), "v": (300,)}
TINY = {
    "projection": lambda: dimension.projection(size=9000, shapes=SHAPES, dimension=40, part=0.1),
    "step": lambda: dimension.step(problems=((4, 5),), dimension=10, size=Size(1, 8, 2, 5), steps=2),
    "ensembles": lambda: dimension.ensembles(members=2, rank=1, shapes=((2, 4),)),
    "representation": lambda: dimension.representation(n=150, sizes=(30,), k=6, cloud=20),
}


@pytest.mark.parametrize("case", TINY)
def test_every_rival_answers_the_same_question(case, monkeypatch):
    monkeypatch.delenv(dimension_peers.DADAPY, raising=False)
    torch.set_num_threads(1)
    rows = [row for found in TINY[case]() for row in ([found] if isinstance(found, Row) else contend(case, found, rounds=2))]
    assert rows
    for row in rows:
        assert bench.line(row) and row.case == case
        absent = row.peer == "dadapy" or (row.peer == "scikit-dimension" and not peers.installed("skdim"))
        assert row.status == ("not installed" if absent else "measured"), row
        assert row.own_error is None or row.own_error <= 1e-4, row
        # the published map keeps lengths on average, and per tensor: that is its own deviation
        assert absent or row.agrees is not False or "Fastfood" in row.peer, row
    assert set(TINY) == set(dimension.CASES)


@pytest.mark.parametrize("transform", [dimension_peers.chunked, dimension_peers.butterfly])
def test_the_published_map_is_the_published_map(transform):
    """Its transform is Hadamard's, its two directions are adjoint and its columns have unit length on average per tensor."""
    eye = torch.eye(16)
    H = torch.stack([transform(e) for e in eye])
    assert torch.equal(H @ H.T, 16 * eye) and torch.equal(H, H.T) and torch.equal(H[1], torch.tensor([1.0, -1.0] * 8))
    shapes = {"w": (60, 50), "b": (7,)}
    made = dimension_peers.Fastfood.drawn(shapes, 20, transform)
    generator = torch.Generator().manual_seed(1)
    theta, y = torch.randn(20, generator=generator), {k: torch.randn(s, generator=generator) for k, s in shapes.items()}
    moved = made.apply(theta)
    inner = sum(float((moved[k] * y[k]).sum()) for k in shapes)
    assert inner == pytest.approx(float(theta @ made.adjoint(y)), rel=1e-4)
    columns = torch.stack([made.apply(e)["w"].reshape(-1) for e in torch.eye(20)])
    assert abs(float(columns.square().sum(1).mean()) - 1) < 0.1
    cut = torch.cat([theta[:8], torch.zeros(12)])  # a tensor of 7 numbers sees the first 8 coordinates only
    assert torch.equal(made.apply(cut)["b"], moved["b"])


def test_the_test_of_adjoints_finds_a_wrong_one():
    p = random_subspace(SHAPES, 30, seed=shifted(0))
    theta = torch.randn(30, generator=torch.Generator().manual_seed(0))
    y, inner = dimension._opposite(p, theta)
    assert float(theta @ p.adjoint(y)) == pytest.approx(inner, rel=1e-5)
    doubled = {k: x * (2 if k == "w" else 1) for k, x in y.items()}  # per-tensor factors, as in published code
    assert abs(float(theta @ p.adjoint(doubled)) / inner - 1) > 0.1


def test_an_encoder_has_the_tensors_of_minilm():
    shapes = dimension.encoder_shapes()
    assert sum(int(np.prod(s)) for s in shapes.values()) == 22_565_376
