"""Figures: the same table gives the same bytes, tables and global settings stay as they were, and nothing is cut off."""

import functools
import re

import made_results
import matplotlib
import matplotlib._pylab_helpers
import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb

from reports import figures, load, overview, panels, style
from reports.plates import PLATES
from validations import study


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return load.read(made_results.write(tmp_path_factory.mktemp("few")))


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    return load.read(made_results.write(tmp_path_factory.mktemp("many"), tasks=20, deltas=8, seeds=1, long_names=True))


def tables_of(results, plate):
    return {
        part: results.table(plate.name if plate.name != "dimension-curve" else "intrinsic-dimension", part)
        for part in plate.needs
    }


@functools.lru_cache
def _drawn(folder, name):
    results, plate = load.read(folder), next(p for p in PLATES if p.name == name)
    return style.svg(figures.draw(plate, tables_of(results, plate), style.Labels.of(results.study)))


def drawn_once(results, plate):
    """The figure's bytes, drawn once for all tests from tables read anew."""
    return _drawn(results.folder, plate.name)


@pytest.mark.parametrize("plate", PLATES, ids=lambda plate: plate.name)
def test_same_table_same_bytes_and_nothing_else_changes(results, plate):
    tables, labels = tables_of(results, plate), style.Labels.of(results.study)
    copies = {part: table.copy(deep=True) for part, table in tables.items()}
    settings = {k: v for k, v in matplotlib.rcParams.items() if k != "backend"}  # which resolves itself when read
    assert style.svg(figures.draw(plate, tables, labels)) == drawn_once(results, plate)
    for part, table in tables.items():
        pd.testing.assert_frame_equal(table, copies[part])
    assert {k: v for k, v in matplotlib.rcParams.items() if k != "backend"} == settings
    assert not matplotlib._pylab_helpers.Gcf.figs, "a figure was left with pyplot"


@pytest.mark.parametrize("plate", PLATES, ids=lambda plate: plate.name)
def test_text_is_text_in_words_at_the_width_of_the_page(results, plate):
    drawn = drawn_once(results, plate).decode()
    assert f'width="{72 * style.TEXT_WIDTH:g}pt"' in drawn  # 72 points an inch: the page does not scale the text
    said = re.findall(r"<text[^>]*>([^<]*)</text>", drawn)
    assert len(said) > 5
    names = [t["name"] for t in results.study["tasks"]] + [d["name"] for d in results.study["deltas"] if "-" in d["name"]]
    assert not [text for text in said if "_" in text or text in names]
    assert style.DRAWN_FONT not in drawn and "<dc:date>" not in drawn


@pytest.mark.parametrize("plate", PLATES, ids=lambda plate: plate.name)
def test_nothing_leaves_the_figure_with_many_tasks_and_long_names(many, plate):
    figure = figures.draw(plate, tables_of(many, plate), style.Labels.of(many.study))
    with style.theme():
        FigureCanvasAgg(figure).draw()
        box = figure.get_tightbbox(figure.canvas.get_renderer())
    width, height = figure.get_size_inches()
    # 0.03 inches (two points): half the width of a point at the edge of its axes, and what the page's font is wider
    assert box.x0 > -0.03 and box.x1 < width + 0.03
    assert box.y0 > -0.03 and box.y1 < height + 0.03
    assert height <= 9.0  # a page has 9.9 inches for the figure and its caption


def test_each_delta_of_the_lab_has_its_own_colour_marker_and_dash():
    looks = list(style.DELTAS.values())
    for seen in ([m.color for m in looks], [m.marker for m in looks], [str(m.dash) for m in looks]):
        assert len(set(seen)) == len(style.DELTAS)


def shipped():
    """The deltas of every shipped study, and of every part of it: what one figure may show together."""
    for path in sorted(study.FOLDER.glob("*.toml")):
        known = study.read(path.stem)
        yield path.stem, tuple(known.deltas)
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
    plate = next(p for p in PLATES if p.name == "control-direction")
    rows = results.table("control-direction").drop(columns="eta")
    with pytest.raises(ValueError, match="eta"):
        figures.draw(plate, {"rows": rows}, style.Labels.of(results.study))


def test_an_empty_table_gives_no_figure(results):
    plate = next(p for p in PLATES if p.name == "energy-profile")
    tables = {"rows": results.table("energy-profile"), "profile": pd.DataFrame()}
    assert figures.draw(plate, tables, style.Labels.of(results.study)) is None


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
