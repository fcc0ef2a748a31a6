"""A delta that is a change of the weights gives the same states when it is merged into them."""

import pytest
import torch
import zoo

from tuning import BitFit, Combined, Edits, features, wrap
from tuning.backbones import pool

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
