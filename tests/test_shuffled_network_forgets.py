"""A shuffled subject keeps the entries of every weight matrix and loses their places; the original keeps both."""

import pytest
import torch

from tuning import deltas
from tuning.backbones import encode, load
from tuning.subjects import Readout, subject


@pytest.fixture(scope="module")
def made():
    backbone = load("nano")
    readout = Readout(torch.randn(3, backbone.width, generator=torch.Generator().manual_seed(0)), torch.zeros(3))
    return subject(backbone, deltas.PortBias(), readout, 0)


def test_entries_stay_and_places_go(made):
    before = {name: p.clone() for name, p in made.backbone.model.named_parameters()}
    shuffled = made.shuffled(3)
    after = dict(shuffled.backbone.model.named_parameters())
    assert set(after) == set(before)
    for name, weight in before.items():
        assert torch.equal(made.backbone.model.get_parameter(name), weight), name
        assert torch.equal(after[name].flatten().sort().values, weight.flatten().sort().values), name
        assert torch.equal(after[name], weight) == (weight.ndim < 2), name


def test_the_copy_takes_signals_and_is_fixed_by_its_seed(made):
    batch = encode(made.backbone, ["one short text", "and another one"], labels=[0, 1])
    drawn = torch.randn(len(made.ports), made.width, generator=torch.Generator().manual_seed(1))
    signals = dict(zip(made.ports, drawn, strict=True))
    one, same, other = (made.shuffled(seed).steered(signals, batch) for seed in (3, 3, 4))
    assert torch.equal(one, same) and not torch.allclose(one, other)
    assert not torch.allclose(one, made.shuffled(3).steered({}, batch))
    assert not torch.allclose(one, made.steered(signals, batch))
