"""List what there is: claims, studies, tasks, deltas, backbones, supported architectures and instruments."""

from __future__ import annotations

import argparse

from .options import add_json
from .probe import INSTRUMENTS

KINDS = ("claims", "studies", "tasks", "deltas", "backbones", "architectures", "instruments")


def add(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument("kind", nargs="?", choices=KINDS, metavar="KIND", help=f"one of {', '.join(KINDS)} (default: all)")
    add_json(parser)


def run(options: argparse.Namespace) -> dict:
    """Return the lists: name -> what it is, or names alone."""
    from tuning import catalogue

    from .. import study
    from ..catalogue import claims

    made = {
        "claims": lambda: {claim.id: claim.title for claim in claims()},
        "studies": lambda: {path.stem: study.read(path.stem).question for path in sorted(study.FOLDER.glob("*.toml"))},
        "tasks": lambda: list(catalogue.tasks()),
        "deltas": lambda: {delta.name: delta.sentence for delta in catalogue.deltas()},
        "backbones": lambda: list(catalogue.backbones()),
        "architectures": lambda: catalogue.architectures(),
        "instruments": lambda: dict(INSTRUMENTS),
    }
    return {kind: made[kind]() for kind in ([options.kind] if options.kind else KINDS)}


def text(found: dict, options: argparse.Namespace) -> str:
    """Return the lists in words."""
    return "\n".join(line for kind, entries in found.items() for line in [kind, *_lines(entries)])


def _lines(entries: dict | list) -> list[str]:
    if isinstance(entries, dict):
        return [f"  {name:<22} {what}" for name, what in entries.items()]
    return [f"  {', '.join(entries)}"]
