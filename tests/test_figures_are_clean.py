"""Figures: no two texts touch, every point lies on its axes, every axis has numbers, and series are told apart in grey."""

import itertools

import known_results
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PathCollection
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.markers import CARETDOWNBASE, CARETUPBASE
from matplotlib.text import Text
from matplotlib.ticker import FixedFormatter, FuncFormatter

from reports import load, style
from reports.figures import FIGURES
from reports.gallery import gallery

TOUCH = 1.0  # points by which boxes may overlap: a box of text is that much larger than its ink


def settled(figure: Figure) -> Figure:
    """Draw a figure once, so that its layout is final."""
    with style.theme():
        FigureCanvasAgg(figure).draw()
    return figure


def shown(figure: Figure) -> list[Axes]:
    return [axes for axes in figure.get_axes() if axes.get_visible()]


def texts(figure: Figure) -> list[tuple[Text, np.ndarray]]:
    """Return every text that a reader sees, with its box in points."""
    renderer = figure.canvas.get_renderer()
    hidden = {part for axes in figure.get_axes() if not axes.get_visible() for part in axes.findobj(Text)}
    outside = set()
    for axes in shown(figure):
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            for tick in [*axis.get_major_ticks(), *axis.get_minor_ticks()]:
                if not low <= tick.get_loc() <= high or not axes.axison:
                    outside |= {tick.label1, tick.label2}
    found = []
    for text in figure.findobj(Text):
        if text.get_text().strip() and text.get_visible() and text not in hidden | outside:
            box = text.get_window_extent(renderer)
            found.append((text, 72 / figure.dpi * np.array([box.x0, box.y0, box.x1, box.y1])))
    return found


def apart(one: Text, other: Text) -> bool:
    """Return whether two slanted lines of text run beside each other, a line's height apart."""
    angle = np.radians(one.get_rotation())
    if one.get_rotation() != other.get_rotation() or np.isclose(np.sin(2 * angle), 0):
        return False
    a, b = (text.get_transform().transform(text.get_unitless_position()) for text in (one, other))
    across = 72 / one.get_figure(root=True).dpi * (b - a) @ [-np.sin(angle), np.cos(angle)]
    return abs(across) > one.get_fontsize()


def touching(figure: Figure) -> list[tuple[str, str]]:
    """Return the pairs of texts whose boxes overlap."""
    pairs = []
    for (one, a), (other, b) in itertools.combinations(texts(figure), 2):
        wide, high = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
        if wide > TOUCH and high > TOUCH and not apart(one, other):
            pairs.append((one.get_text(), other.get_text()))
    return pairs


def points(axes: Axes) -> np.ndarray:
    """Return the places of all markers of an axes, in its own data coordinates."""
    made = [np.empty((0, 2))]
    for group in axes.findobj(PathCollection):
        made.append(np.ma.filled(group.get_offsets(), np.nan))
    for line in axes.findobj(Line2D):
        if line.axes is axes and line in axes.lines and line.get_transform() == axes.transData:
            made.append(np.column_stack([np.asarray(line.get_xdata(), float), np.asarray(line.get_ydata(), float)]))
    every = np.concatenate(made)
    return every[np.isfinite(every).all(axis=1)]


def off(figure: Figure) -> list[tuple[str, np.ndarray]]:
    """Return the points that lie outside their axes."""
    made = []
    for axes in shown(figure):
        for where, limits in ((0, axes.get_xlim()), (1, axes.get_ylim())):
            low, high = sorted(limits)
            slack = 1e-9 * (high - low)
            beyond = [p for p in points(axes) if not low - slack <= p[where] <= high + slack]
            made += [(axes.get_title(loc="left"), p) for p in beyond]
    return made


def ticks(figure: Figure) -> list[tuple[str, list[str]]]:
    """Return the numeric axes on which fewer than two ticks are labelled, or two alike."""
    made = []
    for axes in shown(figure):
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            # a panel that shares its axis leaves the labels to its neighbour
            said = axis.get_major_formatter().format_ticks([at for at in axis.get_majorticklocs() if low <= at <= high])
            named = isinstance(axis.get_major_formatter(), FixedFormatter | FuncFormatter)
            if axes.axison and len(axis.get_majorticklocs()) and not named and (len(said) < 2 or len(set(said)) < len(said)):
                made.append((axes.get_title(loc="left") + " " + axis.get_label_text(), said))
    return made


def grey(color) -> float:
    """Return how light a colour is in grey, from 0 to 1, by the weights of television."""
    return float(np.dot(to_rgb(color), [0.299, 0.587, 0.114]))


def looks(axes: Axes) -> list[tuple]:
    """Return every series of an axes as colour and shape; whiskers, their ends and arrows belong to a point that has a shape."""
    made = []
    for group in axes.findobj(PathCollection):
        faces, edges = group.get_facecolor(), group.get_edgecolor()
        if len(group.get_offsets()) and len(faces) + len(edges):
            path = group.get_paths()[0].vertices
            shape = ("points", np.round(path / np.abs(path).max(), 3).tobytes(), len(faces) > 0)
            made.append((to_rgb((faces if len(faces) else edges)[0]), shape))
    for line in axes.lines:
        marker = line.get_marker()
        bare = marker in ("None", None, "")
        if not (bare and len(line.get_xdata()) == 2) and marker not in ("<", ">", CARETUPBASE, CARETDOWNBASE):
            shape = ("line", str(marker), str(line._unscaled_dash_pattern) if bare else "", round(line.get_markersize(), 1))
            made.append((to_rgb(line.get_color()), shape))
    return made


def alike(figure: Figure) -> list[tuple]:
    """Return the pairs of series that only their colour tells apart, and that are as light as each other in grey."""
    made = []
    for axes in shown(figure):
        for (one, shape), (other, same) in itertools.combinations(set(looks(axes)), 2):
            if shape == same and not np.allclose(one, other, atol=0.02) and abs(grey(one) - grey(other)) < 0.1:
                made.append((axes.get_title(loc="left"), to_hex(one), to_hex(other), shape[0]))
    return made


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Every figure of a study with recorded numbers, drawn once."""
    results = load.read(known_results.write(tmp_path_factory.mktemp("few"), tasks=5))
    return {name: settled(item.figure) for name, item in gallery(results).items()}


names = pytest.mark.parametrize("name", [*FIGURES, "forest", "parity", "errors"])


@pytest.mark.slow
@names
def test_no_two_texts_touch_every_point_is_on_its_axes_and_axes_have_numbers(drawn, name):
    if name not in drawn:
        pytest.skip("another claim's figure shows this one")
    figure = drawn[name]
    assert not touching(figure)
    assert not off(figure)
    assert not ticks(figure)
    assert not alike(figure)


def test_the_checks_find_what_they_look_for():
    """Texts that overprint, a point off the axis behind a shared limit, and an axis with one number are found."""
    with style.theme():
        figure = style.canvas(2.0)
        left, right = figure.subplots(1, 2, sharey=True)
        left.plot([1, 2], [0.1, 0.2], "o")
        left.set_ylim(bottom=0)
        right.plot([1, 2], [0.1, 0.9], "o")
        right.annotate("one", (1.5, 0.1))
        right.annotate("other", (1.5, 0.1))
        right.set_xticks([1.0])
    settled(figure)
    assert touching(figure) == [("one", "other")]
    assert [place.tolist() for _, place in off(figure)] == [[2, 0.9]]
    assert len(ticks(figure)) == 1
    right.plot([1, 2, 3], [0.1, 0.5, 0.9], color="#00a000", marker="s")
    right.plot([1, 2, 3], [0.2, 0.5, 0.9], color="#d04000", marker="s")
    right.plot([1, 2, 3], [0.3, 0.5, 0.9], color="#0000a0", marker="D")
    assert [pair[1:3] for pair in alike(figure)] in ([("#00a000", "#d04000")], [("#d04000", "#00a000")])


@pytest.mark.parametrize("ends", [(500, 1900), (0.03, 2e7), (1.561, 1.576), (4e-16, 9e-16), (0.9, 1.1), (0.2, 30), (1e-9, 1e9)])
@pytest.mark.parametrize("width", [1.2, 2.6, 6.0])
def test_a_logarithmic_axis_has_two_to_six_numbers_that_stand_apart(ends, width):
    with style.theme():
        figure = style.canvas(2.0)
        axes = figure.add_axes((0.1, 0.2, width / style.TEXT_WIDTH, 0.7))
        axes.plot(ends, [0, 1])
        axes.set_xlim(ends)
        style.log_axis(axes, "x")
    settled(figure)
    assert not touching(figure) and not ticks(figure)
    assert 2 <= len(axes.get_xticks()) <= 6


def test_numbers_of_one_axis_have_the_same_decimals():
    assert style.numbers([0.885, 0.89, 0.895, 0.9]) == ["0.885", "0.890", "0.895", "0.900"]
    assert style.numbers([0.01, 1, 100]) == ["0.01", "1", "100"]
    assert style.numbers([1e-16, 2e-16]) == ["10⁻¹⁶", "2·10⁻¹⁶"]


@pytest.mark.parametrize("color", [*(look.color for look in style.DELTAS.values()), *style.SPARE_COLORS])
def test_every_colour_of_a_delta_stands_out_from_the_page(color):
    """The contrast that the web's guidelines ask of graphics: 3 to 1 (WCAG 2.2, 1.4.11)."""
    light = np.array([c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(color)])
    assert 1.05 / (light @ [0.2126, 0.7152, 0.0722] + 0.05) >= 3


@pytest.mark.parametrize("name", ["$x$", "a $\\frac{$ b", "$$", "\\$5 and $6"])
def test_a_name_in_a_figure_is_never_read_as_mathematics(name):
    with style.theme():
        figure = style.canvas(2.0)
        figure.subplots().set_title(name)
        style.legend(figure, [Line2D([], [], label=name)])
    assert style.svg(figure).decode().count(f">{name}</text>") == 2
