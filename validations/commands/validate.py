"""Run the missing cells of a study, decide on its claims, and print the verdicts.

Every cell predicts before training and measures after. Finished cells are kept: a run that was stopped goes on from them.
"""

from __future__ import annotations

import argparse

from .options import DTYPES, ENGINES, PROCESSES, add_columns, add_json, bounded, columns, folder, usable
from .output import say
from .show import table


def add(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument("--study", default="quick", help="a shipped study or a TOML file (default: quick)")
    parser.add_argument("--claim", action="append", default=[], metavar="ID", help="run this claim only; may be repeated")
    parser.add_argument(
        "--data", action="append", default=[], help="a folder or file of task data; may be repeated; replaces the study's tasks"
    )
    add_columns(parser)
    parser.add_argument("--backbone", help="nano, minilm, a folder or a hub name; replaces the study's backbone")
    parser.add_argument("--seeds", type=int, help="how many seeds; replaces the study's (with one --data: 6, each its own split)")
    parser.add_argument("--out", metavar="FOLDER", help="the results folder (default: build/STUDY)")
    parser.add_argument(
        "--processes", type=int, default=PROCESSES, help=f"worker processes, one thread each (default: {PROCESSES})"
    )
    parser.add_argument(
        "--engine",
        choices=ENGINES,
        default=ENGINES[0],
        help="where cells run: processes of this machine, or tasks of a Ray cluster",
    )
    parser.add_argument("--address", help="the Ray cluster, host:port or auto (default: one that is started here)")
    parser.add_argument("--limit", type=float, metavar="SECONDS", help="give a cell up that takes longer (default: no limit)")
    parser.add_argument("--device", default="cpu", help="where networks run: cpu, cuda or cuda:N (default: cpu)")
    parser.add_argument(
        "--dtype", choices=DTYPES, help="of the model's weights; replaces the study's (float32 where it names none)"
    )
    add_json(parser)


def run(options: argparse.Namespace) -> dict:
    """Return the verdicts of the study; raises ValueError for a request that cannot be met."""
    bounded(options, {"processes": 1}, above={"limit": 0})
    import dataclasses

    from .. import study as studies
    from ..claims import named
    from ..engine import Engine, one_thread
    from ..plan import announced
    from ..publish import publish
    from ..run import measure

    engine = Engine(options.engine, options.processes, options.limit, options.address)
    device = usable(options.device) if options.engine == "pool" else options.device
    study = studies.with_data(studies.read(options.study), tuple(options.data), columns(options))
    if options.seeds is not None or (options.data and len(study.tasks) == 1):
        study = studies.resampled(study, studies.SPLITS if options.seeds is None else options.seeds)
    if options.backbone:
        study = dataclasses.replace(study, backbone=options.backbone)
    if options.dtype:
        study = dataclasses.replace(study, dtype=options.dtype)
    chosen = [named(claim) for claim in (options.claim or study.claims)]
    results = folder(options.out or f"build/{study.name}")
    for line in announced(study, chosen):
        say(line, options)
    try:
        with one_thread():  # the same last digits whatever the environment says
            report = lambda line: say(line, options)  # noqa: E731
            found = measure(study, results, claims=chosen, engine=engine, report=report, device=device)
            return publish(study, results, found, chosen)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("finished cells are kept and the next run goes on from them") from None


def text(found: dict, options: argparse.Namespace) -> str:
    """Return the verdict table."""
    return table(found)
