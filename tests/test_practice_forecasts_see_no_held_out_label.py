"""What is forecast of tuning in practice: from training and dev labels alone, in the metric it says, refused without dev text."""

from dataclasses import replace

import numpy as np
import pytest

from theory.ensemble import ensemble_lq
from validations.claims.practice.experiment import predict, recipe_of
from validations.claims.practice.plants import fixed_features
from validations.claims.practice.tangent import Texts
from validations.claims.shared.linearisation import linearise


@pytest.fixture(scope="module")
def setting():
    return fixed_features(3, 0)


@pytest.fixture(scope="module")
def predicted(setting):
    return predict(setting)


@pytest.fixture(scope="module")
def texts(setting):
    subject = setting.subjects["delta"].with_readout()
    return Texts.of(setting, subject.outputs, subject.initial)


def relabelled(batch):
    return batch._replace(labels=(batch.labels + 1) % 3)


def test_held_out_labels_move_no_forecast(setting, predicted):
    other = predict(replace(setting, test=relabelled(setting.test)))
    assert all(np.array_equal(value, other.arrays[name]) for name, value in predicted.arrays.items())
    kept = ("eta", "ridge", "head_weight", "norm", "adaptive_sharpness", "features", "passes", "dev_loss")
    assert [predicted.values[name] for name in kept] == [other.values[name] for name in kept]
    chosen = [(p.values["path"]["rate"], p.values["path"]["step"]) for p in (predicted, other)]
    assert chosen[0] == chosen[1] and predicted.values["forecasts"] != other.values["forecasts"]  # which they score


@pytest.mark.parametrize("part, moved", [("train", "optimum"), ("train", "gradient"), ("train", "path"), ("dev", "constant")])
def test_training_and_dev_labels_do(setting, predicted, part, moved):
    other = predict(replace(setting, **{part: relabelled(getattr(setting, part))}))
    assert not np.allclose(predicted.arrays[moved], other.arrays[moved])


def test_the_tangent_is_the_response_in_contrasts(setting, texts):
    subject = setting.subjects["delta"].with_readout()
    whole = linearise(subject.outputs, subject.initial, setting.train)
    np.testing.assert_allclose(texts.train.G, np.einsum("ca,ncm->nam", texts.train.basis, whole.G), atol=1e-12)
    np.testing.assert_allclose(texts.train.y0, whole.y0, atol=1e-12)


@pytest.mark.parametrize("weight", [1.0, 30.0])
def test_the_optimum_is_the_ensembles_in_the_metric(texts, weight):
    loss, ridge, costates, _ = texts._best(weight)
    G = np.einsum("ca,nam->ncm", texts.train.basis, texts.train.G)
    metric = np.ones(G.shape[-1])
    metric[texts.head] = weight
    direct = ensemble_lq(G, texts.train.y0, texts.train.loss, ridge * metric)
    np.testing.assert_allclose(texts.displacement(costates, ridge, weight), direct.z, atol=1e-3 * np.abs(direct.z).max())
    shift = texts.shift("test", costates, ridge, weight)
    np.testing.assert_allclose(shift, texts.test.G @ texts.displacement(costates, ridge, weight), atol=1e-8)


def test_the_refit_moves_the_head_alone(texts):
    found, head = texts.refit(), texts.train.G[..., texts.head]
    G = np.einsum("ca,nam->ncm", texts.train.basis, head)
    direct = ensemble_lq(G, texts.train.y0, texts.train.loss, found.ridge)
    np.testing.assert_allclose(found.shift, texts.test.G[..., texts.head] @ direct.z, atol=1e-3 * np.abs(found.shift).max())


def test_wrong_cells_are_refused(setting):
    with pytest.raises(ValueError, match="give the part's option dev"):
        predict(replace(setting, dev=None))
    with pytest.raises(ValueError, match="option head to be one of joint, frozen, got 'loose'"):
        predict(replace(setting, options={"head": "loose"}))


def test_a_recipe_comes_from_the_options():
    made = recipe_of({"rates": [0.1, 1], "steps": 7, "head": "frozen", "dev": 9})
    assert made.rates == (0.1, 1.0) and made.steps == 7 and made.batch_size == recipe_of({}).batch_size
