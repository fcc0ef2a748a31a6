"""Every delta starts where the model computes what the frozen one does; prompt and prefix when masked."""

import dataclasses

import pytest
import torch
import zoo

from tuning import identity_edits
from tuning.backbones import frame, hidden

# Float64 sums in another order differ by a few units in the last place of O(1) numbers.
TOLERANCE = 1e-12


def lengthens(delta):
    """Whether a delta puts slots in front of the text, which take attention even where they start."""
    edits = identity_edits(delta, zoo.backbone_of("bert"))
    return bool(edits.slots or edits.prefix)


@pytest.fixture(scope="module", params=zoo.KINDS)
def backbone(request):
    return zoo.backbone_of(request.param)


@pytest.mark.parametrize("name", zoo.DELTAS)
def test_the_identity_point_changes_no_state(backbone, name):
    batch = zoo.batch_of()
    frozen = hidden(backbone, batch, frame(backbone))
    there = hidden(backbone, batch, frame(backbone, identity_edits(zoo.DELTAS[name], backbone)))
    assert ((there - frozen) * zoo.real(backbone, batch)).abs().max() < TOLERANCE


@pytest.mark.parametrize("name", [name for name, delta in zoo.DELTAS.items() if not lengthens(delta)])
def test_initial_values_change_no_logit(backbone, name):
    made, batch = zoo.subject_of(backbone, zoo.DELTAS[name]), zoo.batch_of()
    frozen = made.steered({}, batch)
    assert (made.outputs(made.initial, batch) - frozen).abs().max() < TOLERANCE
    assert (made.outputs(zoo.moved(made.initial), batch) - frozen).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["prompt", "prefix"])
def test_zero_slots_are_not_the_identity(backbone, name):
    made, batch = zoo.subject_of(backbone, zoo.DELTAS[name]), zoo.batch_of()
    zeros = {key: torch.zeros_like(value) for key, value in made.initial.items()}
    assert (made.outputs(zeros, batch) - made.steered({}, batch)).abs().max() > 1e-3
    closed = dataclasses.replace(made.edits(zeros), closed=True)
    same = hidden(backbone, batch, frame(backbone, closed)) - hidden(backbone, batch, frame(backbone))
    assert (same * zoo.real(backbone, batch)).abs().max() < TOLERANCE


def test_seeds_decide_the_start(backbone):
    for name, delta in zoo.DELTAS.items():
        first, again, other = (delta.initial(backbone, seed) for seed in (0, 0, 1))
        assert all(torch.equal(first[key], again[key]) for key in first)
        same = all(torch.equal(first[key], other[key]) for key in first)
        drawn = any(value.unique().numel() > 1 for value in first.values())
        assert same != drawn, name
