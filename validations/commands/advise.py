"""Say which delta to tune for a data set, with the points that it gains and their interval, and write its settings for PEFT.

What every option gains is foretold from the frozen model and from what the options of a finished study gained on other tasks; a
race of short runs then chooses among the most promising, until its budget ends or the best option is certain. Where no gain is
clear of zero the advice is to keep the frozen model. --no-training leaves the race out.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import pathlib
import resource
import time

from .advice import page
from .options import add_backbone, add_columns, add_json, bounded, columns, folder, usable
from .output import say

LEAST = {"examples": 8, "length": 3, "budget": 1, "threads": 1, "seed": 0}
THREADS = min(2, os.cpu_count() or 1)
SHARE = 0.1  # of the grid's passes, for a race without --minutes
SPARE = 0.9  # of the minutes that are left, that a race may plan to take
MARGIN = 0.1  # of the fall of the dev loss, which leaving blocks out may cost at most


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
    parser.add_argument(
        "--minutes", type=float, metavar="M", help="end within so many: forecasts take half of them at most where a race follows"
    )
    parser.add_argument(
        "--share",
        type=float,
        help=f"of the whole grid's passes that a race may take (default: {SHARE:g}, or what --minutes allow)",
    )
    parser.add_argument(
        "--level",
        type=float,
        default=0.9,
        help="at which the best must be certain to end a race early, and of intervals (default: 0.9)",
    )
    parser.add_argument(
        "--out",
        metavar="FOLDER",
        help="write the choice's settings there: for PEFT, or a delta of the lab where PEFT has none such",
    )
    parser.add_argument("--device", default="cpu", help="where networks run: cpu, cuda or cuda:N (default: cpu)")
    parser.add_argument("--threads", type=int, default=THREADS, help=f"torch threads (default: {THREADS})")
    parser.add_argument("--seed", type=int, default=0, help="seed of every draw (default: 0)")
    add_json(parser)


def run(options: argparse.Namespace) -> dict:
    """Return the choice, every option's forecast, what it cost, and how such advice fared on the study's tasks.

    Raises ValueError for a study without results, unknown options, a budget below every option's size, and too few texts.
    """
    bounded(options, LEAST, above={"share": 0, "minutes": 0, "level": 0})
    if options.level >= 1:
        raise ValueError(f"--level must be a number below 1, got {options.level:g}: 0.9 is nine times in ten")
    begun, cpu = time.perf_counter(), time.process_time()
    span = math.inf if options.minutes is None else 60.0 * options.minutes
    from ..truth import Advice, record_of

    study = _study(options)
    given = _given(
        options, study, pathlib.Path(options.results or f"build/{study.name}").parent / "tasks", usable(options.device)
    )
    study = _at_depth(study, given.backbone)
    truth = _grounds(options, study, given)
    import torch

    from ..claims.choice.foretelling import told
    from ..claims.choice.options import FORECASTS

    torch.set_num_threads(options.threads)
    setting, recipes = _setting(given, study, truth, options)
    losses, hits = _frozen(next(iter(setting.subjects.values())), given.dev)
    found, start = {}, float(losses.mean())
    until = begun + (span if options.no_training else span / 2)
    by_mean = sorted(truth.names, key=lambda name: -sum(task.gained[truth.names.index(name)] for task in truth.tasks))
    subjects = {name: setting.subjects[name] for name in by_mean}
    for name, one in told(setting, subjects, recipes, options.seed, until=until):
        found[name] = one
        say(f"{name}: dev loss {start:.3f}, foretold {min(one.losses.values()):.3f}", options)
    falls = {name: [start - one.losses[which] for which in FORECASTS] for name, one in found.items()}
    advice = Advice.of(truth, falls, options.level)
    foretelling = time.perf_counter() - begun
    trained = None if options.no_training else _trained(options, truth, advice, setting, recipes, hits, begun + span)
    raced = None if trained is None else _raced(options, truth, advice, trained, hits)
    chosen = advice.best if raced is None else truth.names.index(raced["option"])
    name = truth.names[chosen]
    rate = raced["rate"] if raced else max(truth.reached[name].items(), key=lambda one: one[1])[0]
    sizes = [setting.subjects[other].delta.size(given.backbone) for other in truth.names]
    rows = [
        {"option": other, "label": study.deltas[other].get("label", other), "parameters": sizes[o]}
        | {"points": float(advice.foretold[o]), "low": float(advice.foretold[o] - advice.reach)}
        | {"high": float(advice.foretold[o] + advice.reach), "tied": bool(advice.tied[o])}
        | {"told_from": found[other].share if other in found else 0.0, "nats": falls.get(other)}
        for o, other in enumerate(truth.names)
    ]
    unclear = bool(advice.foretold[chosen] <= advice.reach)
    gainless = unclear if raced is None else raced["low"] <= 0 and (unclear or raced["dev_points"] <= 0)
    made = {
        "backbone": options.backbone,
        "data": given.task.name,
        "choice": name,
        "keep_frozen": gainless,
        "rate": rate,
        "level": options.level,
        "held": advice.held,
        "options": sorted(rows, key=lambda row: -row["points"]),
        "race": raced,
        "layers": _layers(found.get(name)),
        "learnt_from": {"study": truth.study, "backbone": truth.backbone, "tasks": len(truth.tasks)},
        "past": record_of(truth),
    }
    subject, made["left_out"] = _without_idle(options, found.get(name), setting.subjects[name], trained, losses)
    made |= _settings(options, subject, rate, recipes[name])
    return made | {
        "seconds_of_forecasts": foretelling,
        "seconds": time.perf_counter() - begun,
        "cpu_seconds": time.process_time() - cpu,
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "device_gib": torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_initialized() else None,
    }


def _frozen(subject: object, dev: object) -> tuple[object, object]:
    """Return the losses of the frozen model with its head on the dev texts, and which of them are right."""
    import torch

    with torch.no_grad():
        outputs = torch.cat([subject.steered({}, piece) for piece in dev.chunks()]).double()
    losses = torch.nn.functional.cross_entropy(outputs, dev.labels, reduction="none")
    return losses.cpu().numpy(), (outputs.argmax(-1) == dev.labels).cpu().numpy()


def _study(options: argparse.Namespace) -> object:
    """Return the study whose options are weighed, in the sizes asked for."""
    from ..asked import with_examples, with_length
    from ..study import read

    study = read(options.study)
    study = study if options.examples is None else with_examples(study, options.examples)
    return study if options.length is None else with_length(study, options.length)


def _at_depth(study: object, backbone: object) -> object:
    """Return the study with its deltas on as large a share of the backbone's blocks as on its own's."""
    import dataclasses

    from tuning.preparation import backbone_of

    from ..truth import stretched

    blocks = backbone_of(study.backbone).blocks
    if blocks == backbone.blocks:
        return study
    deltas = {name: stretched(spec, blocks, backbone.blocks) for name, spec in study.deltas.items()}
    return dataclasses.replace(study, deltas=deltas)


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


def _trained(
    options: argparse.Namespace, truth: object, advice: object, setting: object, recipes: dict, hits: object, until: float
) -> object:
    """Return the runs of all options, which are trained when they are asked for and end the race once the best is certain."""
    from ..claims.choice.foretelling import Trained

    runs, _ = advice.runs(truth)

    def sure(trained: Trained) -> bool:
        return trained.best is not None and not _open(advice, trained, runs, hits)

    return Trained(
        [(setting.subjects[truth.names[o]], rate) for o, rate in runs],
        setting.train,
        setting.dev,
        recipes[truth.names[0]],
        options.seed,
        report=lambda line: say(line, options),
        until=until,
        sure=sure,
    )


def _open(advice: object, trained: object, runs: list, hits: object) -> list[int]:
    """Return the options that a race has not told from the one that leads."""
    tried: dict[int, dict] = {}
    for run, look in sorted(trained.hits, key=lambda place: -trained.losses[place]):  # an option's best run at a look stays
        tried.setdefault(runs[run][0], {})[look] = trained.hits[run, look]
    return advice.undecided(tried, runs[trained.best[0]][0], hits)


def _raced(options: argparse.Namespace, truth: object, advice: object, trained: object, hits: object) -> dict | None:
    """Return what a race among the runs of which most is foretold chose, what it took, why it ended and what it left open.

    None where the minutes ended before its first look.
    """
    import numpy as np
    from scipy.stats import norm

    from ..claims.choice.foretelling import Certain, Late
    from ..claims.choice.race import race
    from ..truth import paired

    runs, prior = advice.runs(truth)
    whole, steps = len(runs) * trained.price.run(trained.steps), trained.steps
    order = [int(run) for run in np.argsort(-prior, kind="stable")]
    share = SHARE if options.share is None and options.minutes is None else options.share
    budget, ended = math.inf if share is None else share * whole, "share"
    try:
        if options.minutes is not None:
            began = time.perf_counter()
            trained[order[0], trained.cut]  # the race's first run tells how fast they are
            now = time.perf_counter()
            paced = trained.passes * (1 + SPARE * (trained.until - now) / (now - began))
            budget, ended = (paced, "minutes") if paced < budget else (budget, ended)
        race(trained, steps, order, budget, trained.price)
        ended = "all" if len({run for run, _ in trained.losses}) == len(runs) else ended
    except Late:
        ended = "minutes"
    except Certain:
        ended = "certain"
        trained.finish(trained.best[0])
    if trained.best is None:
        return None
    (run, look), entrants = trained.best, len({run for run, _ in trained.losses})
    option, rate = runs[run]
    points, error = paired(trained.hits[run, look], hits)
    reach = float(norm.ppf(1 - (1 - options.level) / entrants)) * error  # it is the best of so many
    return {
        "option": truth.names[option],
        "rate": rate,
        "step": int(steps[look]),
        "entrants": entrants,
        "runs": len(runs),
        "dev_points": points,
        "low": points - reach,
        "share_of_grid": trained.passes / whole,
        "ended": ended,
        "undecided": [truth.names[o] for o in _open(advice, trained, runs, hits)],
    }


def _layers(told: object | None) -> list[dict] | None:
    """Return the layer map of an option with every layer's share of the fall of the dev loss; None of one that was not told."""
    import dataclasses

    if told is None:
        return None
    total = sum(layer.gain for layer in told.layers)
    return [dataclasses.asdict(layer) | {"share": layer.gain / total if total > 0 else None} for layer in told.layers]


def _without_idle(
    options: argparse.Namespace, told: object | None, subject: object, trained: object | None, losses: object
) -> tuple[object, dict | None]:
    """Return the chosen subject without the blocks that carry nothing, if training shows that it loses nothing, and the test.

    It is trained once more without them, from the same numbers with the same rate and draws. They are left out if the upper end,
    at the level, of the mean by which its loss is higher on the dev texts is below `MARGIN` of what all blocks gained there.
    """
    import dataclasses

    import numpy as np
    from scipy.stats import norm

    from tuning.subjects import READOUT_PARAMETERS

    from ..claims.choice.foretelling import Late, Trained
    from ..claims.choice.layers import idle_blocks, place_of

    idle = () if told is None or not hasattr(subject.delta, "blocks") else idle_blocks(told.layers)
    if not idle:
        return subject, None
    tested = {"blocks": list(idle), "left_out": False, "costs_at_most": None, "allowed": None}
    kept = sorted({block for block, _ in map(place_of, subject.initial) if block is not None} - set(idle))
    if trained is None or trained.best is None or not kept:
        return subject, tested
    (run, look), delta = trained.best, dataclasses.replace(subject.delta, blocks=tuple(kept))
    initial = {name: value for name, value in subject.initial.items() if place_of(name)[0] not in idle}
    if set(delta.shapes(subject.backbone)) != set(initial) - set(READOUT_PARAMETERS):
        return subject, tested  # it also moves numbers outside the blocks, which it could not on some of them
    fewer = dataclasses.replace(subject, delta=delta, initial=initial)
    again = Trained(
        [(fewer, trained.runs[run][1])], trained.train, trained.dev, trained.recipe, trained.seed, until=trained.until,
        report=lambda line: say(f"without blocks {', '.join(map(str, idle))}:\n{line}", options),
    )  # fmt: skip
    try:
        if not np.isfinite(again[0, look]):
            return subject, tested
    except Late:
        return subject, tested
    more = again.each[0, look] - trained.each[run, look]
    error = float(np.std(more, ddof=1) / np.sqrt(len(more)))
    tested["costs_at_most"] = float(more.mean()) + float(norm.ppf(options.level)) * error
    tested["allowed"] = MARGIN * max(float((losses - trained.each[run, look]).mean()), 0.0)
    tested["left_out"] = tested["costs_at_most"] < tested["allowed"]
    return (fewer if tested["left_out"] else subject), tested


def _settings(options: argparse.Namespace, subject: object, rate: float, recipe: object) -> dict:
    """Return the choice as text and as a line of PEFT, and write its settings where a folder was named.

    Where PEFT has such a delta they are its adapter folder, else the lab's own file; both hold the delta where training starts.
    """
    import dataclasses

    from tuning.checkpoints import save
    from tuning.deltas import text_of
    from tuning.peft_format import export_peft, peft_line

    line = peft_line(subject.backbone, subject.delta)
    training = dataclasses.asdict(recipe) | {"rate": rate, "delta": text_of(subject.delta), "peft": line}
    training = {name: value for name, value in training.items() if name not in ("rates", "looks")}
    made = {"delta": training["delta"], "peft": line, "written": None}
    if options.out is None:
        return made
    out = folder(options.out)
    out.mkdir(parents=True, exist_ok=True)
    if line is not None:
        export_peft(out, subject.backbone, subject.delta, subject.initial)
    else:
        save(out / "delta.safetensors", subject, subject.initial, {"advice": training})
    (out / "training.json").write_text(json.dumps(training, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return made | {"written": str(out)}


def text(advised: dict, options: argparse.Namespace) -> str:
    """Return the advice as text."""
    return page(advised)
