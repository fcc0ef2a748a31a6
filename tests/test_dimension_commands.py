"""The commands that measure dimensions print a table per layer, draw what they measured, and refuse in a sentence."""

import json

import numpy as np
import pytest

from costate import main
from probes.dimension.threshold import threshold_dimension
from probes.drawing import dimension_figure, file_bytes

TEXT = ["--task", "agreement", "--length", "16"]


def test_representation_before_and_after_tuning(capsys, tmp_path):
    saved, out, figure = (tmp_path / name for name in ("a.safetensors", "a.json", "a.svg"))
    options = ["--delta", "port-bias", "--examples", "8", "--steps", "4", "--lr", "0.3", "--out", str(saved)]
    assert main(["train", *TEXT, *options]) == 0
    capsys.readouterr()
    options = ["probe", "representation", *TEXT, "--examples", "80", "--checkpoint", str(saved)]
    assert main([*options, "--out", str(out), "--figure", str(figure)]) == 0
    table = capsys.readouterr().out
    rows = json.loads(out.read_text(encoding="utf-8"))["layers"]
    layers = ["embedding", *(f"block {i}" for i in range(4))]
    assert [(r["at"], r["layer"]) for r in rows] == [(at, x) for at in ("initial", "checkpoint") for x in layers]
    before, after = rows[:5], rows[5:]
    assert before[0]["mle"] == after[0]["mle"] and before[4]["mle"]["value"] != after[4]["mle"]["value"]
    assert all(r["n"] == 80 and r["status"] == "ok" and r["mle"]["stderr"] > 0 for r in rows)
    assert "participation ratio" in table and "±" in table and figure.read_text(encoding="utf-8").startswith("<?xml")
    assert main([*options, "--at", "checkpoint", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["layers"] == after


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["representation", "--at", "checkpoint"], "--at checkpoint needs --checkpoint"),
        (["representation", "--out", "{}/a.txt"], "--out must end in .json"),
        (["dimension", "--figure", "{}/a.gif"], "--figure must end in"),
        (["dimension", "--dimensions", "2,4,99999999", "--examples", "4"], "dimension must lie between 1 and"),
    ],
)
def test_a_bad_request_leaves_nothing(capsys, tmp_path, options, words):
    assert main(["probe", options[0], *TEXT, *(text.format(tmp_path) for text in options[1:])]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ") and words in captured.err and captured.out == "" and not list(tmp_path.iterdir())


def rising(d90, noise=0.01):
    rng = np.random.default_rng(0)
    x = np.repeat(np.arange(3.0, 12), 3)
    y = 0.1 + 0.85 / (1 + np.exp(-((x - d90) / 0.6 + np.log(9)))) + noise * rng.standard_normal(len(x))
    return 2**x, y, np.array([0.95, 0.94, 0.96])


def test_figure_holds_runs_curve_threshold_and_interval():
    d, y, full = rising(7.5)
    found = threshold_dimension(d, y, baseline=full, chance=0.1)
    figures = [dimension_figure(found, d, y, seeds=np.tile([0, 1, 2], 9), baseline=full, chance=0.1) for _ in range(2)]
    axes = figures[0].axes[0]
    drawn = np.concatenate([c.get_offsets() for c in axes.collections if len(c.get_offsets()) == 9])
    np.testing.assert_allclose(sorted(map(tuple, drawn)), sorted(zip(d, y, strict=True)))
    lines = {line.get_label(): line for line in axes.lines}
    np.testing.assert_array_equal(lines["curve"].get_ydata(), found.curve.value)
    assert lines["threshold, 90 % of the gain"].get_ydata()[0] == found.threshold
    assert any(np.array_equal(line.get_xdata(), found.interval) for line in axes.lines)
    assert axes.get_title(loc="left").startswith("d90 = 1") and file_bytes(figures[0], "svg") == file_bytes(figures[1], "svg")


def test_figure_says_what_is_censored():
    d, y, full = rising(15.0)
    found = threshold_dimension(d, y, baseline=full, chance=0.1)
    axes = dimension_figure(found, d, y).axes[0]
    assert "d90 is above the dimensions tried" in axes.get_title(loc="left")
    assert not any(line.get_label().startswith("d90") for line in axes.lines)
    with pytest.raises(ValueError, match="one row per run"):
        dimension_figure(found, d, y[1:])
