"""Figures of probes look as the report's: the same settings and looks, no two texts touch, every point is on its axes."""

import matplotlib
import numpy as np
import pytest
from matplotlib.text import Text
from test_dimension_commands import rising
from test_figures_are_clean import alike, off, settled, texts, ticks, touching
from test_layers_have_dimensions import BATCHES, states
from test_summaries_of_known_blocks import ONES, SPECTRA, quadratic

from probes import drawing, summaries
from probes.dimension.layers import layer_representations
from probes.dimension.threshold import threshold_dimension
from probes.drawing import files
from reports import style
from reports.letters import _marked


def curvature(names: int = 0):
    loss, point = quadratic(
        SPECTRA if not names else {f"{n}.attention.query.A": np.array([-0.1 - n, 0.5, n + 3.0]) for n in range(names)}
    )
    rows = summaries(loss, params=point, batches=ONES, dense=0, probes=2, steps=2)
    return drawing.curvature_figure(rows[0], rows, rows)


def dimension(d90: float):
    d, y, full = rising(d90)
    found = threshold_dimension(d, y, baseline=full, chance=0.1)
    return drawing.dimension_figure(found, d, y, seeds=np.tile([0, 1, 2], 9), baseline=full, chance=0.1)


def few():
    d, y = [16.0, 16, 17, 17, 256, 256], [0.64, 0.62, 0.7, 0.65, 0.68, 0.64]
    found = threshold_dimension(d, y, baseline=[0.69, 0.7], chance=0.63)
    return drawing.dimension_figure(found, d, y, seeds=[0, 1] * 3, baseline=[0.69, 0.7], chance=0.63)


def layers(names: int):
    rows = layer_representations(states, BATCHES)
    shown = [rows[n % len(rows)] for n in range(names)]
    series = {q: [r.estimates[q] for r in shown] for q in ("two_nn", "mle", "gride 8", "local_pca", "participation_ratio")}
    return drawing.layers_figure(
        {"initial": series, "checkpoint": series}, ["embedding", *(f"block {n}" for n in range(names - 1))]
    )


def reach(counts: list[int]):
    deltas = ("port-bias", "lora:rank=4", "prefix:length=4", "adapter:bottleneck=8,placement=parallel", "ia3")
    return drawing.reach_figure(
        {f"{name}": 9.0 / np.arange(1, n + 1) / (k + 1) for k, (name, n) in enumerate(zip(deltas, counts, strict=False))}
    )


def modules(layers: int):
    kinds = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    rng = np.random.default_rng(0)
    places = [f"model.layers.{n}.mlp.{kind}" for n in range(layers) for kind in kinds]
    known = {"reach": 1.0, "change": 0.01, "effective_rank": 8.0}
    rows = [{"place": place} | {key: scale * rng.random() for key, scale in known.items()} for place in places]
    return drawing.modules_figure(rows)


NAMES = ["Größe η²", "русский", "中文标题", "한국어", "हिन्दी", "good 🙂", "العربية", "שלום", "ภาษา", "a\ue000b"]
FIGURES = {
    "curvature of two": curvature,
    "curvature of nine": lambda: curvature(9),
    "a dimension": lambda: dimension(7.5),
    "a dimension above": lambda: dimension(15.0),
    "a dimension below": lambda: dimension(0.0),
    "few dimensions": few,
    "layers": lambda: layers(13),
    "reach of one direction": lambda: reach([1]),
    "reach of many": lambda: reach([24, 300, 24, 5, 40]),
    "reach of any names": lambda: drawing.reach_figure(
        {name: [3.0 - k / 9, 2.0, 1.0] for k, name in enumerate(map(files.shown, NAMES[:8]))}
    ),
    "modules of one layer": lambda: modules(1),
    "modules": lambda: modules(12),
}


@pytest.mark.parametrize("name", FIGURES)
def test_no_two_texts_touch_and_every_point_is_on_its_axes(name):
    figure = settled(FIGURES[name]())
    assert not touching(figure)
    assert not off(figure)
    assert not ticks(figure)
    assert not alike(figure)
    wide, high = 72 * figure.get_size_inches()
    assert not [t.get_text() for t, (x0, y0, x1, y1) in texts(figure) if min(x0, y0) < 0 or x1 > wide or y1 > high]
    for part in figure.findobj(Text):  # the look of the theme, not of matplotlib
        assert part.get_fontfamily() == list(files.FONTS)


def test_the_look_is_the_reports():
    with style.theme():
        theirs = {key: matplotlib.rcParams[key] for key in files.LOOK}
    with files.theme():
        ours = {key: matplotlib.rcParams[key] for key in files.LOOK}
    assert ours == theirs
    report = {(look.color, look.marker, look.dash) for look in style.DELTAS.values()}
    assert set(files.SERIES) <= report and len(files.SERIES) >= 8


@pytest.mark.parametrize("kind", drawing.FORMATS)
def test_names_in_any_script_are_drawn_or_stand_as_code_points(kind, recwarn):
    """Matplotlib warns of each glyph that it draws as an empty box: it has none to warn of."""
    drawn = drawing.file_bytes(drawing.reach_figure({name: [3.0, 2.0, 1.0] for name in NAMES[: len(files.SERIES)]}), kind)
    assert drawn and not [str(w.message) for w in recwarn if "Glyph" in str(w.message)]
    for name in NAMES:
        assert all(c.isascii() or ord(c) in files._letters() for c in files.shown(name))
    assert files.shown("Größe η², русский") == "Größe η², русский"
    assert files.shown("中文x") == "[U+4E2D U+6587]x" == _marked("中文x", lambda c: not c.isascii())  # as the report writes it
