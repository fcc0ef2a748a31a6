"""Gates read in a network are those of its attention, and what a prefix tuned as in practice does to them is scored as stated."""

import numpy as np
import pytest
import torch
import zoo

from theory.attention import prefixed_attention
from tuning import Prefix
from tuning.backbones import Batch, frame, hidden
from tuning.edits import Edits, merge
from validations.claims.gates.experiment import _met
from validations.claims.gates.network import log_odds
from validations.claims.information.network import Heads

SLOTS = 3


@pytest.fixture(scope="module")
def network():
    return zoo.subject_of(zoo.backbone_of("bert"), Prefix(SLOTS)), zoo.batch_of(size=6)


def moved(subject, size=0.3):
    generator = torch.Generator().manual_seed(3)
    return {k: p.detach() + size * torch.randn(p.shape, generator=generator, dtype=p.dtype) for k, p in subject.initial.items()}


def test_gates_are_the_attention_on_the_prefix(network):
    """Block by block and head by head, in the network with the prefix in place, beside the theory's own attention."""
    subject, batch = network
    params, backbone, met = moved(subject), subject.backbone, {}

    def keep(name):
        def edit(x, y):
            met[name] = y
            return y

        return edit

    paths = {(b, role): backbone.linear(b, role).path for b in range(backbone.blocks) for role in "qkv"}
    listening = Edits(outputs={path: (keep(name),) for name, path in paths.items()})
    hidden(backbone, batch, frame(backbone, merge([subject.edits(params), listening])))
    found, ends = log_odds(subject, params, batch), np.cumsum(batch.mask.sum(1).numpy())
    assert len(found) == ends[-1]
    for b in range(backbone.blocks):
        for n in range(len(batch.labels)):
            seen = int(batch.mask[n].sum())
            q, k, v = (met[b, r][n, :seen].detach().unflatten(-1, (backbone.heads, -1)).transpose(0, 1).numpy() for r in "qkv")
            Pk, Pv = (params[f"{b}.attention.{w}"].transpose(0, 1).numpy() for w in ("keys", "values"))
            gate = prefixed_attention(q, k, v, Pk, Pv).gate
            own = found[ends[n] - seen : ends[n], b * backbone.heads : (b + 1) * backbone.heads]
            np.testing.assert_allclose(1 / (1 + np.exp(-own)), gate.T, rtol=1e-9)


def test_values_of_the_first_block_move_later_gates_alone(network):
    subject, batch = network
    params = moved(subject)
    other = dict(params) | {"0.attention.values": params["0.attention.values"] + 0.5}
    change = np.abs(log_odds(subject, other, batch) - log_odds(subject, params, batch))
    heads = subject.backbone.heads
    assert change[..., :heads].max() == 0 and change[..., heads:].max() > 1e-3


@pytest.mark.parametrize("kind", ["llama", "mpnet", "gpt2"])
def test_other_attention_is_refused(kind):
    subject = zoo.subject_of(zoo.backbone_of(kind), Prefix(SLOTS))
    with pytest.raises(ValueError, match="learned positions"):
        log_odds(subject, subject.initial, zoo.batch_of(size=2))
    with pytest.raises(ValueError, match="learned positions"):
        Heads.of(subject, zoo.batch_of(size=2), 1)


def test_within_heads_a_common_opening_counts_nothing():
    rng = np.random.default_rng(0)
    inner = rng.standard_normal((40, 3))
    change = inner + 9.0
    level = np.full_like(change, 7.0)
    assert _met(change, level)["whole"] > 0.98 and abs(_met(change, level)["within"]) < 1e-9
    both = _met(change, inner + np.array([1.0, -2.0, 3.0]))
    assert both["within"] == pytest.approx(1.0, abs=1e-12) and both["whole"] < 0.9
    assert _met(change, change)["r2"] == 1.0 and _met(change, 0 * inner)["r2"] == 0.0


def test_a_batch_is_read_as_its_rows_are(network):
    subject, batch = network
    params, first = moved(subject), Batch(*(x[:1] for x in network[1]))
    np.testing.assert_allclose(
        log_odds(subject, params, first), log_odds(subject, params, batch)[: int(first.mask.sum())], rtol=1e-9
    )
