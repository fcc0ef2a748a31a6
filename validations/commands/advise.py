"""Rank deltas, layers and ranks for a data set by the loss that is forecast, without training any.

It prints the best options at every budget of parameters, and how far to trust them.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import resource
import time

from .options import add_backbone, add_columns, add_json, bounded, columns

BUDGETS = (1000, 5000, 20000)


LEAST = {"examples": 1, "readout": 1, "length": 1, "budget": 1, "threads": 1, "seed": 0, "top": 1}
THREADS = min(2, os.cpu_count() or 1)


def add(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    add_backbone(parser)
    parser.add_argument("--data", required=True, help="a folder or file of task data, or an embedded task's name")
    add_columns(parser)
    parser.add_argument("--examples", type=int, default=128, help="labelled examples that the forecast uses (default: 128)")
    parser.add_argument("--readout", type=int, default=256, help="further examples that fit the frozen head (default: 256)")
    parser.add_argument("--length", type=int, default=48, help="longest text, in tokens (default: 48)")
    parser.add_argument(
        "--budget", type=int, action="append", default=[], help="parameters allowed; may be repeated (default: 1000, 5000, 20000)"
    )
    parser.add_argument("--results", default="build", help="folder of finished studies that say how good past advice was")
    parser.add_argument("--threads", type=int, default=THREADS, help=f"torch threads (default: {THREADS})")
    parser.add_argument("--seed", type=int, default=0, help="seed of every draw (default: 0)")
    parser.add_argument("--top", type=int, default=12, help="options printed (default: 12)")
    add_json(parser)


def run(options: argparse.Namespace) -> dict:
    """Return every option's forecast, the best within each budget, and the evidence for trusting them.

    The head is fitted on `readout` examples and frozen; the forecasts use `examples` others. Differences to the frozen model
    and to the best option are paired by example, with Student's t intervals. Raises ValueError for too few examples.
    """
    bounded(options, LEAST)
    begun, cpu = time.perf_counter(), time.process_time()
    import torch

    from tuning import tasks
    from tuning.deltas import text_of
    from tuning.peft_format import peft_line
    from tuning.preparation import backbone_of, prepare, task_of

    from ..claims.advice import forecast as advice
    from ..claims.shared.regime import ETA_LIMIT
    from .given import check_data

    torch.set_num_threads(options.threads)
    data = task_of(options.data, str(pathlib.Path(options.results) / "tasks"), tuple((columns(options) or {}).items()))
    tasks.warn(data)
    frozen = backbone_of(options.backbone)
    check_data(data, options.data, frozen, options.length)
    sizes = {"train": options.examples, "readout": options.readout}
    given = prepare(frozen, data, seed=options.seed, length=options.length, **sizes)
    deltas = {"palette": advice.PALETTE, **dict(advice.PREFIXES)}
    subjects = {role: given.subject(delta, options.seed) for role, delta in deltas.items()}
    made, base = advice.survey(subjects, ("palette",), given.train, options.seed)
    made.sort(key=lambda m: m.loss)
    listed = [
        {
            "option": m.option.label,
            "delta": text_of(m.option.delta),
            "peft": peft_line(frozen, m.option.delta),
            "parameters": m.option.size,
            "forecast": m.loss,
            "gain": float((base - m.losses).mean()),
            "gain_interval": advice.interval(base - m.losses),
            "behind_best": float((m.losses - made[0].losses).mean()),
            "behind_best_interval": advice.interval(m.losses - made[0].losses) if m is not made[0] else (0.0, 0.0),
            "penalty": m.r,
            "eta": m.eta,
            "trusted": m.eta <= ETA_LIMIT,
        }
        for m in made
    ]
    within = {b: next((row["option"] for row in listed if row["parameters"] <= b), None) for b in options.budget or BUDGETS}
    return {
        "backbone": options.backbone,
        "data": data.name,
        "examples": len(base),
        "frozen_loss": float(base.mean()),
        "options": listed,
        "within_budget": within,
        "past": past(pathlib.Path(options.results)),
        "seconds": time.perf_counter() - begun,
        "cpu_seconds": time.process_time() - cpu,
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "limit": ETA_LIMIT,
        "top": options.top,
    }


def past(folder: pathlib.Path) -> list[dict]:
    """Return how advice fared in the finished studies under a folder: rank correlation of forecast and trained loss."""
    from ..results import read_verdicts, table

    found = []
    for path in sorted(folder.glob("*/verdicts.json")):
        try:
            record = read_verdicts(path.parent)
        except ValueError:
            continue  # results that were damaged or changed are no ground for trust
        for claim in record["claims"]:
            if claim["id"] == "advice" and claim["verdicts"][0]["criteria"]:
                order = claim["verdicts"][0]["criteria"][0]
                trained = table(path.parent, record, "advice")
                found.append(
                    {
                        "study": path.parent.name,
                        "backbone": record["study"]["backbone"]["name"],
                        "cells": int(trained.groupby(["task", "seed"]).ngroups),
                        "options": int(trained["option"].nunique()),
                        "correlation": order["estimate"],
                        "interval": [order["low"], order["high"]],
                        "verdict": claim["verdict"],
                    }
                )
    return found


def text(advised: dict, options: argparse.Namespace) -> str:
    """Return the advice as text: the ranking, the choice at every budget, and the grounds for trust."""
    best, frozen = advised["options"][0], advised["frozen_loss"]
    lines = [
        f"{advised['data']} on {advised['backbone']}: {len(advised['options'])} options, {advised['examples']} examples, "
        f"frozen loss {frozen:.3f} nats",
        "",
        f"{'option':<28}{'parameters':>11}{'forecast':>10}  {'gain on the frozen model':<27}{'behind the best':<25}{'eta':>5}",
    ]
    for row in advised["options"][: advised["top"]]:
        gain = f"{row['gain']:+.3f} [{row['gain_interval'][0]:+.3f}, {row['gain_interval'][1]:+.3f}]"
        behind = f"{row['behind_best']:.3f} [{row['behind_best_interval'][0]:+.3f}, {row['behind_best_interval'][1]:+.3f}]"
        mark = "" if row["trusted"] else "  beyond the linear regime"
        lines.append(
            f"{row['option']:<28}{row['parameters']:>11}{row['forecast']:>10.3f}  {gain:<27}{behind:<25}{row['eta']:>5.2f}{mark}"
        )
    lines += ["", "best within a budget"]
    for budget, option in advised["within_budget"].items():
        lines.append(f"  {budget:>8} parameters: {option or 'no option is that small'}")
    named = set(advised["within_budget"].values())
    said = [row for i, row in enumerate(advised["options"]) if i < advised["top"] or row["option"] in named]
    lines += ["", "to train one of them with --delta, or in PEFT (blocks are counted from 0)"]
    for row in said:
        lines.append(f"  {row['option']:<26}{row['delta']}")
        lines.append(f"  {'':<26}{row['peft'] or 'PEFT has no such option'}")
    tied = sum(row["behind_best_interval"][0] <= 0 for row in advised["options"])
    trusted = sum(row["trusted"] for row in advised["options"])
    lines += ["", "how far to trust this"]
    if best["gain_interval"][0] <= 0:
        lines.append("  the best option's gain is not clear of zero: more examples, or no tuning, is the honest choice")
    lines.append(f"  {tied} options cannot be told from the best with {advised['examples']} examples")
    lines.append(f"  {trusted} options were forecast inside the linear regime (eta <= {advised['limit']})")
    lines += [
        f"  past advice ({p['study']}, {p['backbone']}, {p['cells']} cells of {p['options']} options): rank correlation of "
        f"forecast and trained loss {p['correlation']:.2f} [{p['interval'][0]:.2f}, {p['interval'][1]:.2f}], {p['verdict']}"
        for p in advised["past"]
    ] or ["  no finished study here has trained the options: run `make validate STUDY=files CLAIM=advice` to find out"]
    lines.append(f"  {advised['seconds']:.0f} s, {advised['cpu_seconds']:.0f} CPU s, {advised['peak_gib']:.1f} GiB")
    return "\n".join(lines)
