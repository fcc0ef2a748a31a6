"""The words, letters and settings of the report: what each means, in which unit, and which letters an equation uses."""

import pathlib
import re
import tomllib
from collections.abc import Mapping

_READ = tomllib.loads(pathlib.Path(__file__).with_name("glossary.toml").read_text(encoding="utf-8"))
WORDS: list[list[str]] = _READ["words"]  # word, meaning, unit
LETTERS: list[list[str]] = _READ["letters"]  # letter in typst, meaning, unit
OWN: dict[str, dict[str, str]] = _READ["own"]  # by claim: letters that stand for something else there
SETTINGS: dict[str, str] = _READ["settings"]
FOR_ONE = "options of this delta's runs alone, or how its task is asked"

_NAMES = re.compile(r'"[^"]*"|op\("[^"]*"\)|hat\([A-Za-z]+\)|macron\([a-z]+\)|[A-Za-z]+(?:\.[a-z]+)*')
_FUNCTIONS = """abs all approx arg bb chevron chevron.l chevron.r dim dots dots.h eig EE for frac hat in in.not inter.big
    limits log macron mat max min nabla norm op partial Pr product prop quad sign sqrt sum svd thin tilde times.o
    top tr union.big upright"""


def names(equation: str) -> list[str]:
    """Return the letters of an equation in typst, in order and once each, without functions and words."""
    found = [name for name in _NAMES.findall(equation) if not name.startswith(('"', "op("))]
    return [name for name in dict.fromkeys(found) if name not in _FUNCTIONS.split()]


def symbols(claim: Mapping) -> list[dict]:
    """Return what the letters of a claim's equation stand for, in their order; one without words is left out."""
    known = {letter: meaning for letter, meaning, _ in LETTERS} | OWN.get(claim["id"], {})
    equation = claim["equation"]
    found = names(equation)
    if "y_0" in equation or "y_(0" in equation:
        found = [part for name in found for part in ((name, "y_0") if name == "y" else (name,))]
    return [{"symbol": name, "meaning": known[name]} for name in found if name in known]


def settings(rows: Mapping[str, str]) -> list[list[str]]:
    """Return the settings with their values and what each sets."""
    return [[name, value, SETTINGS.get(name.split(": ")[-1].lower().replace(" ", "_"), FOR_ONE)] for name, value in rows.items()]
