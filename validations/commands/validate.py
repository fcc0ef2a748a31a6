"""Run the missing cells of a study, decide on its claims, and print the verdicts.

Every cell predicts before training and measures after. Finished cells are kept: a run that was stopped goes on from them.
--tasks, --deltas, --seeds, --examples and --length run a part of a study, or it on other data; --dry-run says what it takes.
"""

from __future__ import annotations

import argparse

from ..engine import ENGINES
from ..study import DTYPES
from .options import PROCESSES, add_columns, add_json, bounded, columns, folder, usable
from .output import plain, say
from .show import table


def add(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument("--study", default="quick", help="a shipped study or a TOML file (default: quick)")
    parser.add_argument("--claim", action="append", default=[], metavar="ID", help="run this claim only; may be repeated")
    parser.add_argument(
        "--data", action="append", default=[], help="a folder or file of task data; may be repeated; replaces the study's tasks"
    )
    parser.add_argument("--tasks", metavar="A,B", help="embedded tasks, folders, files or hub:NAME; replace the study's tasks")
    add_columns(parser)
    parser.add_argument(
        "--deltas",
        metavar="A,B",
        help='only these deltas: names of the study\'s, or such as "lora:rank=4" (see costate list deltas)',
    )
    parser.add_argument(
        "--examples", type=int, help="texts that each delta trains on; fewer than the study's shrink its other parts alike"
    )
    parser.add_argument("--length", type=int, help="longest text, in tokens; replaces the study's")
    parser.add_argument(
        "--backbone", help="a shipped one (costate list backbones), a folder or a hub name; replaces the study's backbone"
    )
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
        "--dry-run", action="store_true", help="print the cells, what they will cost and what can be decided; and stop"
    )
    parser.add_argument(
        "--dtype", choices=DTYPES, help="of the model's weights; replaces the study's (float32 where it names none)"
    )
    add_json(parser)


def run(options: argparse.Namespace) -> dict:
    """Return the verdicts of the study, or with --dry-run what it takes; raises ValueError for what cannot be met."""
    bounded(options, {"processes": 1, "seeds": 1, "examples": 8, "length": 3}, above={"limit": 0})
    from tuning.preparation import backbone_of, task_of

    from .. import plan
    from ..ahead import ahead
    from ..asked import asked
    from ..engine import Engine, one_thread
    from ..publish import publish
    from ..run import measure
    from .given import check_data, fitting

    engine = Engine(options.engine, options.processes, options.limit, options.address)
    device = usable(options.device) if options.engine == "pool" else options.device
    wanted = {name: getattr(options, name) for name in ("tasks", "deltas", "seeds", "examples", "length", "backbone", "dtype")}
    study, chosen, lost = asked(options.study, data=options.data, columns=columns(options), claims=options.claim, **wanted)
    results = folder(options.out or f"build/{study.name}")
    for claim, reason in lost.items():
        say(f"{study.name}: {claim} is left out; {reason}", options)
    cache, frozen = results.parent / "tasks", backbone_of(study.backbone, dtype=study.dtype)
    for name, spec in study.deltas.items():
        fitting(plan.delta(spec), backbone_of(study.backbone_of(name), dtype=study.dtype))
    for task in study.every_task:
        check_data(task_of(task, str(cache), tuple(study.columns.items())), task, frozen, study.sizes.length)
    if options.dry_run:
        plan.check(study, cache)
        return ahead(study, chosen, plan.jobs(study, chosen, cache), results, processes=options.processes)
    for line in plan.announced(study, chosen):
        say(line, options)
    try:
        with one_thread():  # the same last digits whatever the environment says
            report = lambda line: say(line, options)  # noqa: E731
            found = measure(study, results, claims=chosen, engine=engine, report=report, device=device)
            return publish(study, results, found, chosen)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("finished cells are kept and the next run goes on from them") from None


def text(found: dict, options: argparse.Namespace) -> str:
    """Return the verdict table, or the forecast in words."""
    if not options.dry_run:
        return table(found)
    from .probing.progress import duration

    made = [{**row, "cpu_seconds_each": round(row["cpu_seconds_each"], 1)} for row in found["cells"]]
    told = {name: duration(found[name]) for name in ("cpu_seconds", "seconds")}
    if whole := found["whole_seconds_by_cores"]:
        told["whole_seconds_by_cores"] = "; ".join(f"{int(cores):,}: {duration(spent)}" for cores, spent in whole.items())
    return plain({**found, "cells": made, **told})
