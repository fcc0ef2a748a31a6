"""Figures: the same table gives the same bytes, tables and global settings stay as they were, and nothing is cut off."""

import functools
import re

import known_results
import matplotlib
import matplotlib._pylab_helpers
import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb

from reports import load, overview, panels, style
from reports.figures import FIGURES
from validations import study


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return load.read(known_results.write(tmp_path_factory.mktemp("few")))


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    return load.read(known_results.write(tmp_path_factory.mktemp("many"), tasks=20, deltas=8, seeds=1, long_names=True))


def drawn(results, figure, tables=None):
    return figure.drawn(tables or tables_of(results, figure), style.Labels.of(results.study), bars_of(results, figure))


def bars_of(results, figure):
    return next(claim["bars"] for claim in results.claims if claim["id"] == figure.claim)


def tables_of(results, figure):
    return {part: results.table(figure.claim, part) for part in figure.needs}


@functools.lru_cache
def _drawn(folder, claim):
    return style.svg(drawn(load.read(folder), FIGURES[claim]))


def drawn_once(results, figure):
    """The figure's bytes, drawn once for all tests from tables read anew."""
    return _drawn(results.folder, figure.claim)


every_figure = pytest.mark.parametrize("figure", FIGURES.values(), ids=list(FIGURES))


@every_figure
def test_same_table_same_bytes_and_nothing_else_changes(results, figure):
    tables = tables_of(results, figure)
    copies = {part: table.copy(deep=True) for part, table in tables.items()}
    settings = {k: v for k, v in matplotlib.rcParams.items() if k != "backend"}  # which resolves itself when read
    assert style.svg(drawn(results, figure, tables)) == drawn_once(results, figure)
    for part, table in tables.items():
        pd.testing.assert_frame_equal(table, copies[part])
    assert {k: v for k, v in matplotlib.rcParams.items() if k != "backend"} == settings
    assert not matplotlib._pylab_helpers.Gcf.figs, "a figure was left with pyplot"


@every_figure
def test_text_is_text_in_words_at_the_width_of_the_page(results, figure):
    drawn = drawn_once(results, figure).decode()
    assert f'width="{72 * style.TEXT_WIDTH:g}pt"' in drawn  # 72 points an inch: the page does not scale the text
    said = re.findall(r"<text[^>]*>([^<]*)</text>", drawn)
    assert len(said) > 5
    names = [t["name"] for t in results.study["tasks"]] + [d["name"] for d in results.study["deltas"] if "-" in d["name"]]
    assert not [text for text in said if "_" in text or text in names]
    assert style.DRAWN_FONT not in drawn and "<dc:date>" not in drawn


@every_figure
def test_nothing_leaves_the_figure_with_many_tasks_and_long_names(many, figure):
    drawing = drawn(many, figure)
    with style.theme():
        FigureCanvasAgg(drawing).draw()
        box = drawing.get_tightbbox(drawing.canvas.get_renderer())
    width, height = drawing.get_size_inches()
    # 0.03 inches (two points): half the width of a point at the edge of its axes, and what the page's font is wider
    assert box.x0 > -0.03 and box.x1 < width + 0.03
    assert box.y0 > -0.03 and box.y1 < height + 0.03
    assert height <= 9.0  # a page has 9.9 inches for the figure and its caption


def test_each_delta_of_the_lab_has_its_own_colour_marker_and_dash():
    looks = list(style.DELTAS.values())
    for seen in ([m.color for m in looks], [m.marker for m in looks], [str(m.dash) for m in looks]):
        assert len(set(seen)) == len(style.DELTAS)


def shipped():
    """The deltas of every shipped study, and of every part of it: what one figure may show together, so those on one backbone."""
    for path in sorted(study.FOLDER.glob("*.toml")):
        known = study.read(path.stem)
        yield path.stem, tuple(name for name in known.deltas if known.backbone_of(name) == known.backbone)
        yield from ((f"{path.stem} {kind}", part.deltas) for kind, part in known.parts.items())


@pytest.mark.parametrize(("name", "deltas"), list(shipped()))
def test_no_two_deltas_of_a_study_share_colour_or_marker(name, deltas):
    looks = [style.Labels(deltas=dict.fromkeys(deltas, "x")).look(d) for d in deltas]
    assert len({m.color for m in looks}) == len({m.marker for m in looks}) == len(looks)


@pytest.mark.parametrize("count", [2, 8, 30, 150])
@pytest.mark.parametrize("seed", range(5))
def test_deltas_with_any_names_have_distinct_looks_and_the_known_keep_theirs(count, seed):
    rng = np.random.default_rng(seed)
    own = [f"{word}-{rng.integers(10**9)}" for word in rng.choice(["ab", "ba", "last-block", "x"], size=count)]
    labels = style.Labels(deltas=dict.fromkeys([*own, *style.DELTAS], "x"))
    looks = {d: labels.look(d) for d in labels.deltas}
    assert len({(m.color, m.marker) for m in looks.values()}) == len(labels.deltas)
    assert {d: looks[d] for d in style.DELTAS} == style.DELTAS
    if count <= 8:
        few = [looks[d] for d in own]
        assert len({m.color for m in few}) == len({m.marker for m in few}) == len(set(own))
    assert looks == {d: labels.look(d) for d in labels.deltas}


def test_a_figure_shows_deltas_that_the_study_does_not_list_apart():
    rows = pd.DataFrame({"delta": ["ab", "ba", "c", "lora"], "x": np.arange(4.0), "y": np.arange(4.0)})
    labels = style.Labels(deltas={"lora": "LoRA"}).showing(rows["delta"])
    figure = style.canvas(2.0)
    axes = figure.subplots()
    panels.points(axes, rows, "x", "y", labels)
    assert len({tuple(group.get_facecolor()[0]) for group in axes.collections}) == 4
    drawn = [(tuple(np.round(g.get_facecolor()[0][:3], 3))) for g in axes.collections]
    legend = [tuple(np.round(to_rgb(h.get_color()), 3)) for h in panels.handles(rows, labels)]
    assert drawn == legend


def test_a_missing_column_is_named(results):
    rows = results.table("control-direction").drop(columns="eta")
    with pytest.raises(ValueError, match="eta"):
        drawn(results, FIGURES["control-direction"], {"rows": rows})


def test_an_empty_table_gives_no_figure(results):
    tables = {"rows": results.table("energy-profile"), "profile": pd.DataFrame()}
    assert drawn(results, FIGURES["energy-profile"], tables) is None


def test_hollow_markers_are_exactly_the_rows_outside_the_regime():
    rows = pd.DataFrame({"delta": ["lora"] * 6, "x": np.arange(6.0), "y": np.arange(6.0), "inside": [True, False] * 3})
    figure = style.canvas(2.0)
    axes = figure.subplots()
    panels.points(axes, rows, "x", "y", style.Labels())
    full, hollow = axes.collections
    assert full.get_offsets()[:, 0].tolist() == [0, 2, 4] and len(full.get_facecolors()) > 0
    assert hollow.get_offsets()[:, 0].tolist() == [1, 3, 5] and len(hollow.get_facecolors()) == 0


@pytest.mark.parametrize("seed", range(200))
def test_the_forest_scale_keeps_the_rule_of_the_verdict(seed):
    """Right of zero is supported, left of the refutation bar is refuted, for one- and two-sided regions and shared bars."""
    rng = np.random.default_rng(seed)
    a, b = np.sort(rng.normal(size=2))
    slack = rng.exponential(size=2) * (rng.random(2) > 0.3)  # three in ten refutation bars coincide with the support bar
    supported, tolerated = [a, b], [a - slack[0], b + slack[1]]
    if rng.random() < 0.5:
        end = int(rng.integers(2))
        supported[end] = tolerated[end] = None
    low, middle, high = np.sort(rng.normal(scale=2, size=3))
    criterion = {"supported": supported, "tolerated": tolerated, "estimate": middle, "low": low, "high": high}
    least, at, most = overview.span(criterion)
    ends = [-np.inf if supported[0] is None else supported[0], np.inf if supported[1] is None else supported[1]]
    wide = [-np.inf if tolerated[0] is None else tolerated[0], np.inf if tolerated[1] is None else tolerated[1]]
    assert least <= at <= most
    assert (least > 0) == (low > ends[0] and high < ends[1])
    # an interval that lies over both ends of a two-sided region is not wholly on one side of it
    assert (most < overview.refutation_bar(criterion)) == (high < wide[0] or low > wide[1])
