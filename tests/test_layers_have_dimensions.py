"""The states of every layer get their dimensions: known clouds theirs, impossible clouds a reason."""

import math

import numpy as np
import pytest
import torch

from probes.dimension.layers import layer_representations
from probes.dimension.representation import mle, two_nn
from probes.drawing import file_bytes, layers_figure

FRAME = torch.linalg.qr(torch.randn(30, 30, generator=torch.Generator().manual_seed(0)))[0]


def states(batch):
    """A plane, a five-dimensional linear image of it and noise, one repeated point, and a cloud with a repetition."""
    wide = batch @ FRAME[:5]
    twice = wide.clone()
    twice[1] = twice[0]
    return {"plane": batch[:, :2] @ FRAME[:2], "five": wide, "point": torch.ones(len(batch), 3), "twice": twice}


BATCHES = list(torch.randn(600, 5, generator=torch.Generator().manual_seed(1)).split(200))


def test_every_layer_has_its_dimension():
    """A Gaussian's edge biases each neighbour estimate by less than 4 %; six standard errors fail once in 1e8."""
    rows = layer_representations(states, BATCHES)
    assert [r.name for r in rows] == ["plane", "five", "point", "twice"] and all(r.n == 600 for r in rows)
    for row, d in zip(rows, (2, 5), strict=False):
        assert row.status == "ok" and row.dropped == 0 and row.width == 30
        for name in ("two_nn", "mle", "mle_mean", "gride 1", "gride 4"):
            e = row.estimates[name]
            assert abs(e.value - d) < 6 * e.stderr + 0.04 * d
        linear = row.estimates["participation_ratio"]
        assert abs(linear.value - d) < 0.02 * d + 6 * linear.stderr
        assert row.estimates["local_pca"].value == pytest.approx(d, abs=0.6)
    cloud = torch.cat([states(b)["five"] for b in BATCHES])
    assert rows[1].estimates["two_nn"].value == two_nn(cloud).value
    assert rows[1].estimates["mle_mean"].value == mle(cloud, 20).parts["mean"].value


def test_impossible_clouds_have_a_reason():
    _, _, point, twice = layer_representations(states, BATCHES)
    assert point.dropped == 599 and "distinct points" in point.status
    assert all(math.isnan(e.value) and e.status != "ok" for e in point.estimates.values())
    assert twice.dropped == 3 and twice.status == "ok"
    with pytest.raises(ValueError, match="pool the tokens"):
        layer_representations(lambda b: {"a": b[None]}, BATCHES)
    with pytest.raises(ValueError, match="same layers"):
        layer_representations(lambda b: {f"{float(b[0, 0])}": b}, BATCHES)


def test_figure_shows_every_layer_and_both_points():
    rows = layer_representations(states, BATCHES)[:2]
    series = {name: [r.estimates[name] for r in rows] for name in ("two_nn", "mle", "gride 4", "local_pca")}
    figure, again = (layers_figure({"initial": series, "checkpoint": series}, [r.name for r in rows]) for _ in range(2))
    shown = [axes for axes in figure.axes if axes.get_visible()]
    assert [axes.get_title(loc="left") for axes in shown] == ["two nn", "mle", "gride 4", "local pca"]
    drawn = shown[0].containers[0].lines[0].get_ydata()
    np.testing.assert_array_equal(drawn, [e.value for e in series["two_nn"]])
    assert file_bytes(figure, "svg") == file_bytes(again, "svg")
    with pytest.raises(ValueError, match="an estimate per layer"):
        layers_figure({"initial": series}, ["only"])
