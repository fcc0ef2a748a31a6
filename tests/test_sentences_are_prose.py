"""Sentences come from docstrings, read without importing the package, and only plain prose passes."""

import sys
import time

import pytest

from tuning.tasks import prose

SOURCE = '''
raise RuntimeError("this module must never be imported")

def f(x, y):
    """Return the weighted mean of all the samples. It ignores every
    missing value in the table.

    Parameters
    ----------
    x : array
        The samples from which the mean is computed.

    >>> f(1, 2)
    3

    Returns
    -------
    mean : float
        The mean of the samples given here.
    """
    return 0

class C:
    """A container that keeps its items in order."""
'''


@pytest.fixture
def package(tmp_path, monkeypatch):
    folder = tmp_path / "costate_sample"
    (folder / "tests").mkdir(parents=True)
    (folder / "__init__.py").write_text(SOURCE, encoding="utf-8")
    (folder / "broken.py").write_text("def (", encoding="utf-8")
    (folder / "tests" / "test_f.py").write_text('"""A sentence of a test suite is not wanted."""', encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    return folder.name


def test_known_docstring(package):
    found = prose.sentences(package, 100)
    assert package not in sys.modules
    assert [(s.text, s.section, s.owner, s.paragraph, s.position) for s in found] == [
        ("Return the weighted mean of all the samples.", "", "function", 0, 0),
        ("It ignores every missing value in the table.", "", "function", 0, 1),
        ("The samples from which the mean is computed.", "parameters", "function", 2, 0),
        ("The mean of the samples given here.", "returns", "function", 5, 0),
        ("A container that keeps its items in order.", "", "class", 0, 0),
    ]


@pytest.mark.parametrize(
    "text",
    [
        "Too short a text.",
        "return a sentence without a capital letter.",
        "Return a sentence without its full stop",
        "Return the `code` span of this sentence.",
        "Return the value of x_0 in this sentence.",
        "Since version 2.1 this sentence has a number.",
        "Return a DataFrame of all the given columns.",
        "See https://example.org for all of the details.",
        "Return x + y where both are given numbers.",
        "Note that e.g. this sentence holds a stop inside.",
        " ".join(["Return"] + ["word"] * 24) + ".",
        "I a b c d e f g, h, i, j.",  # under three quarters letters
    ],
)
def test_what_is_not_prose(text):
    assert not prose.is_prose(text)


def test_missing_package_says_what_to_do():
    with pytest.raises(ValueError, match="'no_such_package_here'.*pip install no_such_package_here"):
        prose.sentences("no_such_package_here", 10)


def test_reading_stops_early():
    """A tenth of numpy's sentences must not cost the whole package."""
    few = prose.sentences("numpy", 300)
    assert 300 <= len(few) < 600
    assert few == prose.sentences("numpy", 3000)[: len(few)]


def test_extraction_is_fast():
    prose.sentences.cache_clear()
    start = time.process_time()
    prose.sentences("sklearn", 3000)
    assert time.process_time() - start < 5  # 0.5 s on an idle core; the room is for a busy machine
