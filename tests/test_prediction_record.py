"""A prediction says one thing, survives JSON, and refuses to be vague."""

import json

import numpy as np
import pytest

from theory import Prediction

VALUE = Prediction(
    "gate", "mass on the prefix", value=[[0.25, 0.5]], tolerance=1e-3, assumptions=("one head",), source="He et al. 2022"
)
BAND = Prediction("tightness", "bound over observed", band=(1.0, 4.0), tolerance=0.1)


@pytest.mark.parametrize("prediction", [VALUE, BAND, Prediction("c", "q", value=np.float64(2.0))])
def test_json_round_trip(prediction):
    text = json.dumps(prediction.to_json())
    assert Prediction.from_json(json.loads(text)) == prediction
    assert Prediction.from_json(text) == prediction


def test_agreement():
    assert VALUE.covers(np.array([[0.2505, 0.4995]])) and not VALUE.covers([[0.25, 0.502]])
    assert BAND.covers(0.95) and BAND.covers([1.0, 4.05]) and not BAND.covers(4.2) and not BAND.covers(float("nan"))
    with pytest.raises(ValueError, match="predicted with shape"):
        VALUE.covers(0.25)


@pytest.mark.parametrize(
    "fields, error, words",
    [
        (dict(), ValueError, "exactly one"),
        (dict(value=1.0, band=(0, 1)), ValueError, "exactly one"),
        (dict(band=(2.0, 1.0)), ValueError, "low <= high"),
        (dict(value=float("nan")), ValueError, "finite"),
        (dict(value="high"), TypeError, "number"),
        (dict(value=1.0, tolerance=-1.0), ValueError, "tolerance"),
        (dict(value=1.0, assumptions="linear"), TypeError, "sequence of sentences"),
        (dict(value=1.0, source=""), TypeError, "source"),
    ],
)
def test_vague_predictions_are_refused(fields, error, words):
    with pytest.raises(error, match=words):
        Prediction("claim", "quantity", **fields)


def test_unknown_fields_are_named():
    with pytest.raises(ValueError, match="confidence"):
        Prediction.from_json({**BAND.to_json(), "confidence": 0.9})


def test_it_cannot_be_changed():
    with pytest.raises(AttributeError):
        BAND.tolerance = 1.0
