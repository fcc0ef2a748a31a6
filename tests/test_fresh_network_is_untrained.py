"""A fresh network has the pretrained one's shapes and none of its weights; every arm has its own head and its own labels."""

import pytest
import torch

from tuning import deltas
from tuning.backbones import encode, load
from tuning.subjects import Readout, subject
from validations.claims.origins.experiment import arms, fresh
from validations.claims.shared.setting import Setting

TEXTS = [f"{words} number {k}" for k, words in enumerate(["cats count", "a dog runs to", "we add"] * 4)]


@pytest.fixture(scope="module")
def backbone():
    return load("nano")


@pytest.fixture(scope="module")
def made(backbone):
    batch = encode(backbone, TEXTS, labels=[k % 3 for k in range(len(TEXTS))])
    readout = Readout(torch.zeros(3, backbone.width), torch.zeros(3))
    own = subject(backbone, deltas.PortBias(), readout, 0)
    return own, arms(Setting({"delta": own}, batch, batch, 5, 0.1, 1e-2, 10))


def test_shapes_stay_and_weights_go(backbone):
    before, state = dict(backbone.model.named_parameters()), torch.get_rng_state()
    kept = {name: p.clone() for name, p in before.items()}
    one, same, other = (fresh(backbone, seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert one.fingerprint == same.fingerprint != other.fingerprint != backbone.fingerprint
    for name, weight in one.model.named_parameters():
        assert weight.shape == before[name].shape and torch.equal(before[name], kept[name])
        if weight.ndim > 1:
            assert abs(float(weight.std()) - backbone.model.config.initializer_range) < 2e-3, name


def test_every_arm_has_its_own_head_and_labels(made):
    own, found = made
    true = found["true"]
    assert torch.equal(true.text.labels, torch.arange(len(TEXTS)) % 3)
    assert true.subject.backbone is own.backbone and found["fresh"].subject.backbone.fingerprint != own.backbone.fingerprint
    for name, arm in found.items():
        assert torch.equal(arm.text.labels.sort().values, true.text.labels.sort().values)
        assert torch.equal(arm.text.labels, true.text.labels) == (name not in ("permuted", "again")), name
        assert name == "true" or not torch.allclose(arm.subject.readout.weight, true.subject.readout.weight), name
    assert not torch.equal(found["permuted"].text.labels, found["again"].text.labels)
