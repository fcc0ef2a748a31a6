"""A pass over real tokens alone has the loss and the gradient of the padded one, for every architecture and delta."""

import pytest
import torch
import zoo

from tuning import Edits
from tuning.lean import serves


@pytest.mark.parametrize("kind", zoo.KINDS)
@pytest.mark.parametrize("name", zoo.DELTAS)
def test_losses_and_gradients_are_those_of_the_padded_pass(kind, name):
    subject, batch = zoo.subject_of(zoo.backbone_of(kind), zoo.DELTAS[name]).with_readout(), zoo.batch_of()
    assert not batch.mask.all()
    params = {name: value.requires_grad_() for name, value in zoo.moved(subject.initial).items()}
    padded, packed = (subject.loss(params, batch, packed=packed) for packed in (False, True))
    torch.testing.assert_close(packed, padded, rtol=1e-12, atol=1e-13)
    slopes = (torch.autograd.grad(loss, list(params.values()), allow_unused=True) for loss in (padded, packed))
    for one, other in zip(*slopes, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(other, one, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", zoo.DELTAS)
def test_every_deltas_pass_is_written_out(name):
    backbone, delta = zoo.backbone_of("bert"), zoo.DELTAS[name]
    assert _served(backbone, delta.edits(backbone, delta.initial(backbone, 0)))


@pytest.mark.parametrize(
    "edits", [Edits(ports={"embedding": (lambda h, y: y,)}), Edits(weights={"unknown": torch.zeros(1)})], ids=["port", "weight"]
)
def test_edits_elsewhere_are_not(edits):
    assert not _served(zoo.backbone_of("bert"), edits)


def _served(backbone, edits):
    return serves(backbone.model, backbone.layout.roles, backbone.layout.blocks, edits)
