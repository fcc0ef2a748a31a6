"""A delta that is a change of the weights gives the same states when it is merged into them."""

import copy
import dataclasses

import pytest
import torch
import zoo

from tuning import BitFit, Combined, DoRA, Edits, LoRA, SHiRA, VeRA, features, wrap
from tuning.backbones import pool
from tuning.deltas.maps import frozen_weight

CHANGING = [name for name, d in zoo.DELTAS.items() if hasattr(d, "weight_changes") and not isinstance(d, Combined)]


@pytest.mark.parametrize("kind", zoo.KINDS)
@pytest.mark.parametrize("name", CHANGING)
def test_merged_equals_applied(kind, name):
    backbone, batch = zoo.backbone_of(kind), zoo.batch_of()
    delta = zoo.DELTAS[name]
    params = zoo.moved(delta.initial(backbone, 0))
    if isinstance(delta, BitFit) and not any(key.endswith(".bias") for key, _ in backbone.model.named_parameters()):
        with pytest.raises(ValueError, match="has none"):
            delta.weight_changes(backbone, params)
        return
    changes = delta.weight_changes(backbone, params)
    applied = features(backbone, batch, delta.edits(backbone, params))
    merged = features(backbone, batch, Edits(weights=changes))
    assert (applied - merged).abs().max() < 1e-11
    model = zoo.model_of(kind)
    with torch.no_grad():
        for key, change in changes.items():
            model.get_parameter(key).add_(change)
        states = zoo.library_states(model, batch)
        assert (features(wrap(model), batch) - applied).abs().max() < 1e-11
    # The library's rotary models round through float32 in softmax and every normalisation, of which Gemma has nine here.
    assert (pool(backbone, states, batch.mask) - applied).abs().max() < (1e-4 if backbone.layout.pre_norm else 1e-11)


@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_dora_sets_the_length_of_every_row(kind):
    """The changed weight has rows as long as the magnitudes say, in the directions that LoRA with the same numbers gives."""
    backbone = zoo.backbone_of(kind)
    delta = DoRA(2, alpha=4, targets=("q", "o"))
    params = zoo.moved(delta.initial(backbone, 0))
    low = LoRA(2, alpha=4, targets=("q", "o"))
    changed, plain = (made.weight_changes(backbone, params) for made in (delta, low))
    for key, linear in delta.maps(backbone):
        name = f"{linear.path}.weight"
        W, V = (frozen_weight(wrap_with(backbone, name, change), linear) for change in (changed[name], plain[name]))
        assert (torch.linalg.vector_norm(W, dim=1) - params[f"{key}.magnitude"].abs()).abs().max() < 1e-12
        cosine = torch.nn.functional.cosine_similarity(W, V, dim=1) * params[f"{key}.magnitude"].sign()
        assert (cosine - 1).abs().max() < 1e-12


def test_vera_shares_its_matrices_and_starts_where_peft_starts_it():
    """Every map has the top left corners of one A and one B, and a change diag(b) B diag(d) A."""
    backbone, delta = zoo.backbone_of("bert"), VeRA(3, targets=("q", "mlp"), projection=5)
    start = delta.initial(backbone, 0)
    assert all(bool((value == (0.1 if name.endswith(".d") else 0.0)).all()) for name, value in start.items())
    A, B = (matrix.double() for matrix in delta.drawn(backbone))
    assert A.shape == (3, 24) and B.shape == (24, 3)
    params = zoo.moved(start)
    changes = delta.weight_changes(backbone, params)
    for key, linear in delta.maps(backbone):
        b, d = params[f"{key}.b"], params[f"{key}.d"]
        expected = torch.einsum("o,or,r,ri->oi", b, B[: linear.d_out], d, A[:, : linear.d_in])
        assert (changes[f"{linear.path}.weight"] - expected).abs().max() < 1e-14
    other = dataclasses.replace(delta, projection=6)
    assert not torch.equal(other.drawn(backbone)[0], delta.drawn(backbone)[0])


@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_shira_moves_the_largest_entries_or_those_of_its_seed(kind):
    backbone = zoo.backbone_of(kind)
    for delta in (SHiRA(2, targets=("q", "o")), SHiRA(2, targets=("q", "o"), mask_seed=1)):
        params = zoo.moved(delta.initial(backbone, 0))
        changes = delta.weight_changes(backbone, params)
        for key, linear in delta.maps(backbone):
            W = frozen_weight(backbone, linear)
            moved = frozen_weight(wrap_with(backbone, f"{linear.path}.weight", changes[f"{linear.path}.weight"]), linear) != W
            assert int(moved.sum()) == 2 * (linear.d_in + linear.d_out) == len(params[f"{key}.values"])
            assert (W[moved].abs().min() >= W[~moved].abs().max()) == (delta.mask_seed is None)
    first, again = (SHiRA(2, ("q", "o"), mask_seed=seed).weight_changes(backbone, params) for seed in (1, 2))
    assert any(not torch.equal(first[name], again[name]) for name in first)


def wrap_with(backbone, name, change):
    """The backbone with one weight changed, in a copy."""
    model = copy.deepcopy(backbone.model)
    with torch.no_grad():
        model.get_parameter(name).add_(change)
    return wrap(model)
