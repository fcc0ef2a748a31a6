"""Say which delta to tune for a data set, with the points that it gains and their interval, and write its settings for PEFT.

What every option gains is foretold from the frozen model and from what the options of a finished study gained on other tasks; a
race of short runs then chooses among the most promising. --no-training leaves the race out.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import resource
import time

from .options import add_backbone, add_columns, add_json, bounded, columns, folder, usable
from .output import say

LEAST = {"examples": 8, "length": 3, "budget": 1, "threads": 1, "seed": 0}
THREADS = min(2, os.cpu_count() or 1)


def add(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    add_backbone(parser)
    parser.add_argument("--data", required=True, help="a folder or file of task data, or an embedded task's name")
    add_columns(parser)
    parser.add_argument("--study", default="choices", help="the study whose options are weighed (default: choices)")
    parser.add_argument(
        "--results",
        metavar="FOLDER",
        help="that study's results, to learn from (default: those of choices that come with the lab, else build/STUDY)",
    )
    parser.add_argument("--options", metavar="A,B", help="only these of the study's deltas")
    parser.add_argument("--budget", type=int, metavar="N", help="only options that tune at most so many numbers")
    parser.add_argument("--examples", type=int, help="texts to train on (default: the study's)")
    parser.add_argument("--length", type=int, help="longest text, in tokens (default: the study's)")
    parser.add_argument("--no-training", action="store_true", help="leave the race out: the forecast alone")
    parser.add_argument("--share", type=float, default=0.1, help="of the whole grid's passes that a race may take (default: 0.1)")
    parser.add_argument("--out", metavar="FOLDER", help="write the choice's settings there: for PEFT where it has such a delta")
    parser.add_argument("--device", default="cpu", help="where networks run: cpu, cuda or cuda:N (default: cpu)")
    parser.add_argument("--threads", type=int, default=THREADS, help=f"torch threads (default: {THREADS})")
    parser.add_argument("--seed", type=int, default=0, help="seed of every draw (default: 0)")
    add_json(parser)


def run(options: argparse.Namespace) -> dict:
    """Return the choice, every option's forecast, what it cost, and how such advice fared on the study's tasks.

    Raises ValueError for a study without results, unknown options, a budget below every option's size, and too few texts.
    """
    bounded(options, LEAST, above={"share": 0})
    begun, cpu = time.perf_counter(), time.process_time()
    from ..truth import Advice, record_of

    study = _study(options)
    given = _given(
        options, study, pathlib.Path(options.results or f"build/{study.name}").parent / "tasks", usable(options.device)
    )
    truth = _grounds(options, study, given)
    import numpy as np
    import torch

    from tuning.practice import scores

    from .. import plan
    from ..claims.choice.foretelling import told
    from ..claims.choice.options import FORECASTS, FULL

    torch.set_num_threads(options.threads)
    setting, recipes = _setting(given, study, truth, options)
    frozen = given.subject(plan.delta(study.deltas[FULL]), options.seed)
    start, accuracy = scores(frozen, frozen.initial, given.dev)
    found = []
    for name in truth.names:
        losses = told(setting, setting.subjects[name], recipes[name], options.seed)
        found.append([start - losses[which] for which in FORECASTS])
        say(f"{name}: dev loss {start:.3f}, foretold {min(losses.values()):.3f}", options)
    advice = Advice.of(truth, np.array(found))
    foretelling = time.perf_counter() - begun
    raced = None if options.no_training else _raced(options, truth, advice, setting, recipes, accuracy)
    chosen = advice.best if raced is None else truth.names.index(raced["option"])
    rate = raced["rate"] if raced else max(truth.reached[truth.names[chosen]].items(), key=lambda one: one[1])[0]
    sizes = [plan.delta(study.deltas[name]).size(given.backbone) for name in truth.names]
    rows = [
        {"option": name, "label": study.deltas[name].get("label", name), "parameters": sizes[o]}
        | {"points": float(advice.foretold[o]), "low": float(advice.foretold[o] - advice.reach)}
        | {"high": float(advice.foretold[o] + advice.reach), "tied": bool(advice.tied[o])}
        for o, name in enumerate(truth.names)
    ]
    made = {
        "backbone": options.backbone,
        "data": given.task.name,
        "choice": truth.names[chosen],
        "rate": rate,
        "options": sorted(rows, key=lambda row: -row["points"]),
        "race": raced,
        "learnt_from": {"study": truth.study, "backbone": truth.backbone, "tasks": len(truth.tasks)},
        "past": record_of(truth),
    }
    delta, recipe = plan.delta(study.deltas[truth.names[chosen]]), recipes[truth.names[chosen]]
    made |= _settings(options, given, delta, rate, recipe)
    return made | {
        "seconds_of_forecasts": foretelling,
        "seconds": time.perf_counter() - begun,
        "cpu_seconds": time.process_time() - cpu,
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }


def _study(options: argparse.Namespace) -> object:
    """Return the study whose options are weighed, in the sizes asked for."""
    from ..asked import with_examples, with_length
    from ..study import read

    study = read(options.study)
    study = study if options.examples is None else with_examples(study, options.examples)
    return study if options.length is None else with_length(study, options.length)


def _grounds(options: argparse.Namespace, study: object, given: object) -> object:
    """Return what the study's results know of the options asked for."""
    from .. import plan
    from ..asked import listed
    from ..truth import SHIPPED, Truth

    place = options.results or (SHIPPED if study.name == "choices" else f"build/{study.name}")
    truth = Truth.shipped() if place == SHIPPED else Truth.read(place)
    if truth.study != study.name:
        raise ValueError(
            f"expected the results of the study {study.name} in {place}, got those of {truth.study}: give --results or --study"
        )
    known = [name for name in truth.names if name in study.deltas]
    wanted = known if options.options is None else listed(options.options)
    for name in wanted:
        if name not in known:
            raise ValueError(f"expected options among {', '.join(known)}, got {name!r}: name those")
    sizes = {name: plan.delta(study.deltas[name]).size(given.backbone) for name in wanted}
    kept = [name for name in wanted if options.budget is None or sizes[name] <= options.budget]
    if not kept:
        raise ValueError(
            f"expected a budget of at least {min(sizes.values())} numbers, the smallest option's, got {options.budget}"
        )
    return truth.only(kept)


def _given(options: argparse.Namespace, study: object, cache: pathlib.Path, device: str) -> object:
    """Return backbone, texts and head for the data."""
    import dataclasses

    from tuning import tasks
    from tuning.preparation import backbone_of, prepare, task_of

    from .given import check_data

    data = task_of(options.data, str(cache), tuple((columns(options) or {}).items()))
    tasks.warn(data)
    backbone = backbone_of(options.backbone, device)
    check_data(data, options.data, backbone, study.sizes.length)
    sizes = dataclasses.asdict(study.sizes) | {"dev": study.parts["practice"].options["dev"]}
    try:
        return prepare(backbone, data, seed=options.seed, **sizes)
    except ValueError as error:
        raise ValueError(f"{error}: ask for fewer with --examples, by which all parts shrink") from None


def _setting(given: object, study: object, truth: object, options: argparse.Namespace) -> tuple:
    """Return the experiment's inputs with every option as a subject, and every option's recipe."""
    from .. import plan
    from ..claims.practice.experiment import recipe_of
    from ..claims.shared.setting import Setting

    part = study.parts["practice"]
    own = {name: plan.options_of(study, part, name) for name in truth.names}
    joint = {name: one.get("head", "joint") == "joint" for name, one in own.items()}
    subjects = {
        name: given.subject(plan.delta(study.deltas[name]), options.seed, train_readout=joint[name]) for name in truth.names
    }
    setting = Setting(subjects, given.train, given.dev, options.seed, 1.0, 1.0, 1, dev=given.dev)
    return setting, {name: recipe_of(one) for name, one in own.items()}


def _raced(options: argparse.Namespace, truth: object, advice: object, setting: object, recipes: dict, accuracy: float) -> dict:
    """Return what a race among the runs of which most is foretold chose, and what it took."""
    import numpy as np

    from ..claims.choice.foretelling import Trained
    from ..claims.choice.race import race

    runs, prior = advice.runs(truth)
    recipe = recipes[truth.names[0]]
    made = [(setting.subjects[truth.names[o]], rate) for o, rate in runs]
    trained = Trained(made, setting.train, setting.dev, recipe, options.seed, report=lambda line: say(line, options))
    whole = len(runs) * trained.price.run(trained.steps)
    order = [int(run) for run in np.argsort(-prior, kind="stable")]
    won = race(trained, trained.steps, order, options.share * whole, trained.price)
    option, rate = runs[won.run]
    return {
        "option": truth.names[option],
        "rate": rate,
        "step": int(trained.steps[won.look]),
        "entrants": len({run for run, _ in trained.losses}),
        "runs": len(runs),
        "dev_points": 100 * (trained.accuracies[won.run, won.look] - accuracy),
        "share_of_grid": trained.passes / whole,
    }


def _settings(options: argparse.Namespace, given: object, delta: object, rate: float, recipe: object) -> dict:
    """Return the choice as text and as a line of PEFT, and write its settings where a folder was named."""
    import dataclasses

    from tuning.deltas import text_of
    from tuning.peft_format import export_peft, peft_line

    line = peft_line(given.backbone, delta)
    training = dataclasses.asdict(recipe) | {"rate": rate, "delta": text_of(delta), "peft": line}
    training = {name: value for name, value in training.items() if name not in ("rates", "looks")}
    made = {"delta": training["delta"], "peft": line, "written": None}
    if options.out is None:
        return made
    out = pathlib.Path(folder(options.out))
    out.mkdir(parents=True, exist_ok=True)
    if line is not None:
        export_peft(out, given.backbone, delta, delta.initial(given.backbone, options.seed))
    (out / "training.json").write_text(json.dumps(training, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return made | {"written": str(out)}


def text(advised: dict, options: argparse.Namespace) -> str:
    """Return the advice as text: the choice with its gain, the options that cannot be told from it, the grounds for trust."""
    rows, race, past, known = advised["options"], advised["race"], advised["past"], advised["learnt_from"]
    best = next(row for row in rows if row["option"] == advised["choice"])
    lines = [
        f"{advised['data']} on {advised['backbone']}: tune {best['label']} at rate {advised['rate']:g}",
        f"  foretold: {best['points']:+.1f} points of held-out accuracy over the frozen head "
        f"[{best['low']:+.1f}, {best['high']:+.1f}]",
    ]
    if race:
        lines.append(
            f"  chosen in a race of {race['entrants']} of {race['runs']} runs, for {race['share_of_grid']:.0%} of all runs' "
            f"passes: {race['dev_points']:+.1f} points on dev text after {race['step']} steps"
        )
    if best["low"] <= 0:
        lines.append("  its gain is not clear of zero: the frozen head alone may do as well")
    lines += ["", f"{'option':<28}{'numbers':>10}{'points':>9}  90 % interval"]
    for row in rows:
        tied = "  not told from the best" if row["tied"] and row is not rows[0] else ""
        lines.append(
            f"{row['label']:<28}{row['parameters']:>10}{row['points']:>+9.1f}  [{row['low']:+.1f}, {row['high']:+.1f}]{tied}"
        )
    lines += [
        "",
        f"learnt from {known['tasks']} tasks of the study {known['study']} on {known['backbone']}, each foretold from the rest:",
        f"  the forecast's choice was within a point of the best in {past['right']} of {past['tasks']} tasks and lost "
        f"{past['lost']:.1f} points on average; rank correlation {past['correlation']:.2f}, of means on other tasks "
        f"{past['correlation_of_means']:.2f}",
        f"  a race was within a point of the whole grid's choice in {past['race_right']} of {past['tasks']} and lost "
        f"{past['race_lost']:.1f} points on average, for {past['race_cost']:.0%} of its passes",
        *(
            [f"  learnt on {known['backbone']}, not on {advised['backbone']}: the intervals may not hold"]
            if known["backbone"] != pathlib.Path(advised["backbone"]).name
            else []
        ),
        "",
        f"--delta {advised['delta']}",
        advised["peft"] or "PEFT has no such delta",
        *([f"settings written to {advised['written']}"] if advised["written"] else []),
        f"{advised['seconds']:.0f} s ({advised['seconds_of_forecasts']:.0f} s of forecasts), {advised['cpu_seconds']:.0f} CPU s, "
        f"{advised['peak_gib']:.1f} GiB",
    ]
    return "\n".join(lines)
