"""Print the results of a finished study: its verdicts, one claim's criteria, or the rows that were tested.

With --verify every checksum is computed anew, and rows and verdicts are made again from the cells.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping

from .options import add_json


def add(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument("folder", nargs="?", default="build/quick", help="the results folder (default: build/quick)")
    parser.add_argument("--claim", metavar="ID", help="one claim: every criterion with its 95 %% interval, rivals and nulls")
    parser.add_argument(
        "--rows", action="store_true", help="the tested rows as CSV: those of --claim, or all numbers of the study"
    )
    parser.add_argument(
        "--verify", action="store_true", help="check every number against its checksum, and make rows and verdicts again"
    )
    add_json(parser)


def run(options: argparse.Namespace) -> dict | list[dict] | str:
    """Return the verdicts, one claim's record, or rows; raises ValueError for a folder without them and an unknown claim."""
    from ..results import read_verdicts, reading, table

    if options.verify and (options.claim or options.rows):
        raise ValueError("--verify is about the whole folder, got it with --claim or --rows: leave these out")
    if options.verify:
        from ..verify import verify

        with reading(options.folder):
            return verify(options.folder)
    with reading(options.folder):
        record = read_verdicts(options.folder)
        if options.claim:
            known = {claim["id"]: claim for claim in record["claims"]}
            if options.claim not in known:
                raise ValueError(f"expected a claim of {options.folder} among {', '.join(known)}, got {options.claim!r}")
            if not options.rows:
                return known[options.claim]
        if not options.rows:
            return record
        if options.claim:
            frame = table(options.folder, record, options.claim)
        else:
            from ..frame import measurements

            frame = measurements(options.folder)
        return frame.astype(object).where(frame.notna(), None).to_dict("records") if options.json else frame.to_csv(index=False)


def text(found: dict | str, options: argparse.Namespace) -> str:
    """Return what was asked for as text."""
    from ..results import reading

    if options.verify:
        from ..verify import text

        return text(found)
    if options.rows:
        return found.rstrip("\n")
    with reading(options.folder):
        return "\n".join(_claim(found)) if options.claim else table(found)


def table(record: Mapping) -> str:
    """Return the verdicts of a study, a line each: the word, the claim and its first criterion."""
    rows = []
    for claim in record["claims"]:
        for one in claim["verdicts"]:
            title = f"{claim['title']} ({one['label']})" if len(claim["verdicts"]) > 1 else claim["title"]
            rows.append((one["verdict"], title, _criterion(one["criteria"][0]) if one["criteria"] else one["why"]))
    width = max((len(title) for _, title, _ in rows), default=0)
    return "\n".join(f"{word:<15} {title:<{width}}  {said}" for word, title, said in rows)


def _claim(claim: Mapping) -> list[str]:
    """Return a claim's rule and, for every delta, its verdict, its criteria and what they are compared with."""
    lines = [claim["title"], f"  {claim['statement']}", f"  {claim['rule']}"]
    for one in claim["verdicts"]:
        seen = f"{_counted(one['tasks'], 'task')}, {_counted(one['cells'], 'row')}"
        lines += ["", f"{one['verdict']}: {one['label'] or one['delta']}, {seen}"]
        lines += [f"  {criterion['outcome']:<15} {_criterion(criterion)}" for criterion in one["criteria"]]
        lines += [f"  {one['why']}"] if one["why"] else []
    for name in ("rivals", "nulls", "also"):
        lines += ["", name, *(f"  {_criterion(other)}" for other in claim[name])] if claim.get(name) else []
    return lines


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _criterion(criterion: Mapping) -> str:
    """Return an estimate with its interval in words."""
    ends = [criterion[name] for name in ("estimate", "low", "high")]
    if None in ends:
        return f"no interval  {criterion['label']}"
    return "{:+.2f} [{:+.2f}, {:+.2f}]  ".format(*ends) + criterion["label"]
