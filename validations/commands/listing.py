"""List what there is: claims, studies, tasks, deltas, backbones, supported architectures and instruments.

costate list deltas shows every delta as --delta and --deltas take it, with its settings; --backbone counts its numbers there.
costate list taxonomy is a table of them: family, numbers as a formula, what each does to the network, and PEFT's name of it.
"""

from __future__ import annotations

import argparse
import dataclasses
import textwrap
from collections.abc import Mapping

from .options import add_json
from .probe import INSTRUMENTS

COMBINED = "lora:rank=4 & bitfit"
KINDS = ("claims", "studies", "tasks", "deltas", "taxonomy", "backbones", "architectures", "instruments")


def add(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument("kind", nargs="?", choices=KINDS, metavar="KIND", help=f"one of {', '.join(KINDS)} (default: all)")
    parser.add_argument(
        "--backbone", help="count the deltas' numbers on it: a shipped one (costate list backbones), a folder or a hub name"
    )
    add_json(parser)


def run(options: argparse.Namespace) -> dict:
    """Return the lists: name -> what it is, or names alone; raises ValueError for --backbone where no deltas are listed."""
    if options.backbone is not None and options.kind != "deltas":
        raise ValueError("--backbone counts the numbers of deltas: write costate list deltas --backbone NAME")
    from tuning import catalogue

    from .. import study
    from ..catalogue import claims

    made = {
        "claims": lambda: {claim.id: claim.title for claim in claims()},
        "studies": lambda: {path.stem: study.read(path.stem).question for path in sorted(study.FOLDER.glob("*.toml"))},
        "tasks": lambda: list(catalogue.tasks()),
        "deltas": lambda: _deltas(options.backbone),
        "taxonomy": lambda: {name: dataclasses.asdict(taxon) for name, taxon in catalogue.taxonomy().items()},
        "backbones": lambda: list(catalogue.backbones()),
        "architectures": lambda: catalogue.architectures(),
        "instruments": lambda: dict(INSTRUMENTS),
    }
    return {kind: made[kind]() for kind in ([options.kind] if options.kind else KINDS)}


def _deltas(backbone: str | None) -> dict[str, dict]:
    """Return every delta: a text that names it, its settings with their defaults, what it is, and its size on a backbone."""
    from tuning import catalogue

    found = {}
    for delta in catalogue.deltas():
        needed = ",".join(f"{setting}=4" for setting in delta.needed)
        written = COMBINED if delta.name == "combined" else ":".join(filter(None, (delta.name, needed)))
        settings = dict.fromkeys(delta.needed, "needed") | {
            name: None if value is None else _word(value) for name, value in delta.options.items()
        }
        found[delta.name] = {
            "text": written,
            "is": delta.sentence,
            "family": delta.taxon.family,
            "settings": {} if delta.name == "combined" else settings,
        }
    if backbone is not None:
        from tuning.backbones import load
        from tuning.deltas import parse

        frozen = load(backbone)
        for one in found.values():
            one["size"] = parse(one["text"]).size(frozen)
    return found


def _word(value: object) -> str:
    """Return a default as a short text has it."""
    return "+".join(map(str, value)) if isinstance(value, tuple) else str(value).lower()


def text(found: dict, options: argparse.Namespace) -> str:
    """Return the lists in words."""
    written = {"taxonomy": _table, "tasks": _by_family}
    lines = {kind: written.get(kind, _lines)(entries) for kind, entries in found.items()}
    return "\n".join(line for kind, own in lines.items() for line in [kind, *own])


def _table(entries: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Return the taxonomy in columns under its families, with what the letters mean."""
    from tuning.taxonomy import COUNTED, FAMILIES

    cells = {name: (name, one["numbers"] or "-", one["does"], one["peft"] or "-") for name, one in entries.items()}
    heads = ("delta", "numbers", "what it does", "in PEFT")
    widths = [max(map(len, column)) for column in zip(heads, *cells.values(), strict=True)]

    def line(row: tuple[str, ...]) -> str:
        return "    " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()

    lines = [line(heads)]
    for family, trains in FAMILIES.items():
        lines += [f"  {family}: {trains}", *(line(cells[name]) for name, one in entries.items() if one["family"] == family)]
    return [*lines, *(f"  {part}" for part in textwrap.wrap(COUNTED, 120))]


def _by_family(names: list[str]) -> list[str]:
    """Return the names of tasks under where their labels come from."""
    from tuning.tasks import FAMILIES, families

    made = []
    for family, own in families().items():
        made.append(f"  {family} ({len(own)}): {FAMILIES[family]}")
        made += textwrap.wrap(", ".join(own), 120, initial_indent="    ", subsequent_indent="    ", break_on_hyphens=False)
    return [*made, f"  {len(names)} tasks; any other is a file, a folder or hub:NAME"]


def _lines(entries: Mapping | list) -> list[str]:
    if not isinstance(entries, Mapping):
        return [f"  {', '.join(entries)}"]
    made = []
    for name, what in entries.items():
        if isinstance(what, str):
            made.append(f"  {name:<22} {what}")
            continue
        needs = [key for key, value in what["settings"].items() if value == "needed"]
        may = [key if value is None else f"{key}={value}" for key, value in what["settings"].items() if value != "needed"]
        parts = [f"{word} {', '.join(some)}" for word, some in (("needs", needs), ("may have", may)) if some]
        size = f" ({what['size']:,} numbers)" if "size" in what else ""
        made += [f"  {what['text']:<22} {what['is']}{size}", f"  {'':<22} {'; '.join([what['family'], *parts])}"]
    return made
