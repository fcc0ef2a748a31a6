"""Print the lab's derivations; each equation is checked by substitution before it is printed."""

from __future__ import annotations

import argparse
from collections.abc import Mapping

from .options import add_json


def add(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument("names", nargs="*", metavar="NAME", help="which ones, such as prefix-gate (default: all)")
    add_json(parser)


def run(options: argparse.Namespace) -> list[dict]:
    """Return the derivations with their steps; raises ValueError for a name that is none of theirs."""
    from theory.derivations import DERIVATIONS

    names = {make.__name__.replace("_", "-"): make for make in DERIVATIONS}
    unknown = [name for name in options.names if name not in names]
    if unknown:
        raise ValueError(f"there is no derivation called {unknown[0]!r}; choose from {', '.join(names)}.")
    return [names[name]().to_json() for name in options.names or names]


def text(found: list[dict], options: argparse.Namespace) -> str:
    """Return titles and sources, and of every step its reason, its equation in typst and the spoken equation."""
    return "\n\n".join(map(_text, found))


def _text(derivation: Mapping) -> str:
    lines = [derivation["title"], f"  source: {derivation['source']}"]
    for number, step in enumerate(derivation["steps"], 1):
        lines += ["", f"  {number}. {step['reason']}", f"       {step['equation']}", f"       ({step['alt']})"]
    return "\n".join(lines)
