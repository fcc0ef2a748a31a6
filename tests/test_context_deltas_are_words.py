"""At their start, a prompt and a prefix are words in front of the text, and act exactly as those words do."""

import pytest
import torch
import zoo
from seeds import shifted

from tuning import Batch, Prefix, Prompt
from tuning.architectures import ARCHITECTURES
from tuning.backbones import frame, hidden
from tuning.deltas.pieces import pieces


def behind_words(backbone, batch, words):
    """The states of the text tokens when the words stand in front of every text."""
    tokens = torch.cat([words.expand(len(batch.tokens), -1), batch.tokens], dim=1)
    mask = torch.cat([torch.ones(len(batch.tokens), len(words), dtype=torch.bool), batch.mask], dim=1)
    states = hidden(backbone, Batch(tokens, mask, batch.labels), frame(backbone))
    return states if backbone.kind == "encoder-decoder" else states[:, len(words) :]


def error(backbone, delta, seed: int = 3) -> float:
    batch = zoo.batch_of()
    expected = behind_words(backbone, batch, pieces(backbone, delta.length, shifted(seed)))
    edits = delta.edits(backbone, delta.initial(backbone, shifted(seed)))
    found = hidden(backbone, batch, frame(backbone, edits))
    return float(((found - expected) * zoo.real(backbone, batch)).abs().max())


@pytest.mark.parametrize("kind", zoo.KINDS)
def test_a_prompt_is_its_words(kind):
    backbone = zoo.backbone_of(kind)
    assert error(backbone, Prompt(3, shift_positions=True)) < 1e-12
    unshifted = error(backbone, Prompt(3))
    # Without learned positions only distances count, up to the float32 angles of the rotation.
    assert unshifted < 1e-5 if backbone.layout.first_position is None else unshifted > 1e-3


@pytest.mark.parametrize("kind", [kind for kind in zoo.KINDS if ARCHITECTURES[kind].kind == "decoder"])
def test_a_prefix_is_its_words_in_a_decoder(kind):
    """Words in front of a causal text see each other only, so their keys and values do not depend on the
    text.
    """
    backbone = zoo.backbone_of(kind)
    assert error(backbone, Prefix(3, shift_positions=True)) < 1e-12
    unshifted = error(backbone, Prefix(3))
    assert unshifted < 1e-5 if backbone.layout.first_position is None else unshifted > 1e-3


def test_a_prefix_in_an_encoder_is_not_its_words():
    """There the words would read the text too; the prefix keeps what they are by themselves."""
    assert error(zoo.backbone_of("bert"), Prefix(3, shift_positions=True)) > 1e-3
