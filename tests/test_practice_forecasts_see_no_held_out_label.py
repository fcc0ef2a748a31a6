"""What is forecast of tuning in practice: from training and dev labels alone, in the metric it says, refused without dev text."""

from dataclasses import replace

import numpy as np
import pytest

from theory.ensemble import ensemble_lq
from validations.claims.practice.experiment import Texts, predict, recipe_of
from validations.claims.practice.plants import fixed_features


@pytest.fixture(scope="module")
def setting():
    return fixed_features(3, 0)


@pytest.fixture(scope="module")
def predicted(setting):
    return predict(setting)


def relabelled(batch):
    return batch._replace(labels=(batch.labels + 1) % 3)


def test_held_out_labels_move_no_forecast(setting, predicted):
    other = predict(replace(setting, test=relabelled(setting.test)))
    assert all(np.array_equal(value, other.arrays[name]) for name, value in predicted.arrays.items())
    kept = ("eta", "ridge", "head_weight", "head_ridge", "norm")
    assert [predicted.values[name] for name in kept] == [other.values[name] for name in kept]
    assert predicted.values["forecasts"] != other.values["forecasts"]  # which they score


@pytest.mark.parametrize("part, moved", [("train", "optimum"), ("train", "gradient"), ("dev", "constant")])
def test_training_and_dev_labels_do(setting, predicted, part, moved):
    other = predict(replace(setting, **{part: relabelled(getattr(setting, part))}))
    assert not np.allclose(predicted.arrays[moved], other.arrays[moved])


def test_the_forecast_is_the_linearised_optimum_of_its_ridge(setting, predicted):
    subject = setting.subjects["delta"]
    texts = Texts.of(setting, subject.outputs, subject.initial)
    found = ensemble_lq(texts.train.G, texts.train.y0, texts.train.loss, predicted.values["ridge"])
    np.testing.assert_allclose(predicted.arrays["optimum"], texts.test.G @ found.z, atol=1e-5)
    assert predicted.values["eta"] < 1e-6  # this layer is linear in its numbers


def test_a_weight_of_the_head_is_a_weight_in_the_metric(setting):
    subject = setting.subjects["delta"].with_readout()
    texts = Texts.of(setting, subject.outputs, subject.initial)
    sizes = [int(np.prod(shape)) for shape in texts.train.shapes]
    weights = np.repeat([30.0 if name.startswith("readout") else 1.0 for name in texts.train.names], sizes)
    heavy = texts.with_head(30.0)
    found = heavy.optimum()
    direct = ensemble_lq(texts.train.G, texts.train.y0, texts.train.loss, found.ridge * weights)
    np.testing.assert_allclose(found.z, direct.z, atol=1e-6)
    np.testing.assert_allclose(found.shift, texts.test.G @ direct.z, atol=1e-6)


def test_wrong_cells_are_refused(setting):
    with pytest.raises(ValueError, match="give the part's option dev"):
        predict(replace(setting, dev=None))
    with pytest.raises(ValueError, match="option head to be one of joint, frozen, got 'loose'"):
        predict(replace(setting, options={"head": "loose"}))


def test_a_recipe_comes_from_the_options():
    made = recipe_of({"rates": [0.1, 1], "steps": 7, "head": "frozen", "dev": 9})
    assert made.rates == (0.1, 1.0) and made.steps == 7 and made.batch_size == recipe_of({}).batch_size
