"""What a study needs and what it can decide, known before its first cell."""

import dataclasses
import json
import pathlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tuning import tasks
from tuning.backbones import check_one_stack, encode
from tuning.deltas import Delta, build
from tuning.preparation import Prepared, backbone_of, prepare, task_of
from tuning.verbalisers import verbaliser

from .claims import CLAIMS, EXPERIMENTS, Claim, Experiment, named
from .claims.advice.forecast import PALETTE
from .engine import Job
from .sources import digest
from .store import canonical, content_key
from .study import DTYPES, Part, Study
from .verdict import NEEDED

PLANTS = "plants"  # the kind of the cells on which claims are tried out; the others are called as their experiment


def delta(spec: Mapping[str, Any]) -> Delta:
    """Return the delta of a study's table (`tuning.deltas.build`); the kind "Palette" is all of `forecast.PALETTE`.

    Raises ValueError for one whose backward passes are no derivatives of the loss, as forecasts are made from these.
    """
    if spec.get("kind") == "Palette":
        return PALETTE
    made = build({k: v for k, v in spec.items() if k != "label"})
    if made.exact != made:
        raise ValueError(
            f"expected a delta that is trained along derivatives of the loss, got {made.name} detached; leave that out"
        )
    return made


def prepared(settings: Mapping[str, Any], cache: str, task: str | None = None, device: str = "cpu") -> Prepared:
    """Return the backbone, texts and head of a cell's settings, on its own task or on another one of the study.

    Raises ValueError for an option `template` beside prompts, which have templates of their own.
    """
    template = {name: settings["options"][name] for name in ("template",) if name in settings["options"]}
    if template and "head" in settings:
        raise ValueError("expected the option template beside a fitted head only, got a verbaliser: give its prompts a template")
    sizes = {name: settings["options"].get(name, size) for name, size in settings["sizes"].items()}
    columns = tuple(map(tuple, settings["columns"]))
    return prepare(
        backbone_of(settings["backbone_name"], device, settings.get("dtype", DTYPES[0])),
        task_of(task or settings["task"], cache, columns),
        seed=settings["seed"],
        seeds=tuple(settings["seeds"]),
        dev=settings["options"].get("dev"),
        **sizes,
        **template,
        **_head(settings, task),
    )


def _head(settings: Mapping[str, Any], task: str | None) -> dict:
    """Return the head of a cell's settings in the words of `prepare`, on its own task or on another one of the study."""
    if "head" not in settings:
        return {}
    prompt = settings["head"]["prompt"] if task is None else settings["head"]["others"][settings["others"].index(task)]
    return {"head": "verbaliser", "template": prompt["template"] or None, "words": tuple(prompt["words"]) or None}


def jobs(study: Study, claims: Sequence[Claim], cache: pathlib.Path) -> list[tuple[str, Job]]:
    """Return every cell that the claims need as (kind, job); a job's settings are all that the cell depends on.

    Raises ValueError for what would fail in a cell: too few texts, a wrong number of deltas, a text that the backbone refuses,
    and an encoder-decoder where states are read token by token.
    """
    found, wanted = [], {claim.experiment.name: claim.experiment for claim in claims}
    for name in (name for name, experiment in wanted.items() if experiment.by_token):
        backbone = study.parts.get(name, Part()).options.get("backbone", study.backbone)
        what = f"cells of the kind {name!r}, which read states token by token"
        check_one_stack(backbone_of(backbone, dtype=study.dtype), what)
    for experiment in wanted.values():
        made = _protocol_cells(study, experiment) if experiment.make else _task_cells(study, experiment, cache)
        for settings, name, deltas in made:
            settings = json.loads(canonical(settings))
            keyed = {k: v for k, v in settings.items() if k not in ("backbone_name", "task", "name", "columns", "others")}
            label = f"{experiment.name:<9} {name:<18} {deltas:<22} seed {settings['seed']}"
            found.append((experiment.name, Job(content_key(keyed), label, experiment.weight, settings)))
    return found + _plant_jobs(claims)


def _protocol_cells(study: Study, experiment: Experiment) -> Iterator[tuple[dict, str, str]]:
    """Yield (settings, name, deltas in words) of the cells of an experiment with models and data of its own."""
    source = digest([experiment.module])
    for name in experiment.protocols:
        for seed in study.parts.get(experiment.name, Part()).seeds or study.seeds:
            settings = {"kind": experiment.name, "task": name, "name": name, "protocol": name, "seed": seed, "source": source}
            yield settings, name, "+".join(experiment.roles)


def _task_cells(study: Study, experiment: Experiment, cache: pathlib.Path) -> Iterator[tuple[dict, str, str]]:
    """Yield (settings, name, deltas in words) of the cells of an experiment on the study's backbone and tasks."""
    part = study.parts.get(experiment.name, Part())
    names, chosen = part.deltas or tuple(study.deltas), (*(part.tasks or study.tasks), *study.development)
    if experiment.needs_other_tasks and len({*chosen, *part.sources}) < 2:
        return  # no other task to learn from: the claim is then not applicable
    columns, labels = tuple(study.columns.items()), tasks.distinct_names(study.every_task)
    for task_name in chosen:
        data = task_of(task_name, str(cache), columns)
        seeds = part.seeds or study.seeds
        for seed in seeds:
            for group in [(name,) for name in names] if experiment.per_delta else [names]:
                experiment.named(group)
                options = options_of(study, part, group[0] if experiment.per_delta else "")
                backbone = options.get("backbone", study.backbone)
                frozen = backbone_of(backbone, dtype=study.dtype)
                encode(frozen, data.splits["test"].rows([0]), length=study.sizes.length)
                settings = {
                    "kind": experiment.name,
                    "backbone": frozen.fingerprint,
                    "backbone_name": backbone,
                    "task": task_name,
                    "name": labels[task_name],
                    "columns": list(columns),
                    "digest": data.digest,
                    "deltas": [[name, {k: v for k, v in study.deltas[name].items() if k != "label"}] for name in group],
                    "seed": seed,
                    "seeds": list(seeds),
                    "sizes": dataclasses.asdict(study.sizes),
                    "solver": dataclasses.asdict(study.solver),
                    "options": options,
                    "source": digest([experiment.module]),
                }
                if study.dtype != DTYPES[0]:
                    settings["dtype"] = study.dtype
                if experiment.needs_other_tasks:
                    rest = [name for name in dict.fromkeys((*chosen, *part.sources)) if name != task_name]
                    settings |= {"others": rest, "other_digests": [task_of(name, str(cache), columns).digest for name in rest]}
                if study.head == "verbaliser":
                    others = [_prompt(study, labels[name]) for name in settings.get("others", [])]
                    settings["head"] = {"prompt": _prompt(study, labels[task_name]), "others": others}
                made = prepared(settings, str(cache))
                if made.verbaliser is not None:
                    settings["head"]["digest"] = made.verbaliser.digest
                yield settings, labels[task_name], "+".join(group)


def _prompt(study: Study, name: str) -> dict:
    return dataclasses.asdict(study.prompt_of(name))


def options_of(study: Study, part: Part, delta: str) -> dict:
    """Return the options of a cell: the part's, and over them those of a table that is named after its delta."""
    own = {k: v for k, v in part.options.items() if k not in study.deltas} | dict(part.options.get(delta, {}))
    return {k: list(v) if isinstance(v, tuple) else v for k, v in own.items()}


def plant_experiments() -> list[tuple[str, str, tuple[str, ...]]]:
    """Return each distinct experiment on plants as (kind, good or bad, claims); claims on the same plants share one."""
    shared: dict[tuple, list[Claim]] = {}
    for claim in CLAIMS:
        for which in ("good", "bad"):
            shared.setdefault((claim.experiment.name, which, str(getattr(claim, which))), []).append(claim)
    return [(kind, which, tuple(c.id for c in found)) for (kind, which, _), found in shared.items()]


def modules(settings: Mapping[str, Any]) -> list[str]:
    """Return the modules whose code a cell's key holds, with all that they reach: its experiment's, and its claims' on plants."""
    if settings["kind"] != PLANTS:
        return [EXPERIMENTS[settings["kind"]].module]
    claims = [named(claim) for claim in settings["claims"]]
    return [claims[0].experiment.module, *(claim.module for claim in claims)]


def _plant_jobs(claims: Sequence[Claim]) -> list[tuple[str, Job]]:
    """Return the experiments on the plants of the claims as jobs."""
    made = []
    for kind, which, ids in plant_experiments():
        if any(claim.id in ids for claim in claims):
            source = digest(modules({"kind": PLANTS, "claims": ids}))
            settings = {"kind": PLANTS, "which": which, "claims": list(ids), "source": source}
            label = f"{PLANTS:<9} known {which} for {kind}"
            made.append((PLANTS, Job(content_key(settings), label, EXPERIMENTS[kind].weight, settings)))
    return made


def check(study: Study, cache: pathlib.Path) -> None:
    """Warn of held-out texts that stand in train, and of words that are read at their first token.

    Raises ValueError where two tasks hold the same data.
    """
    frozen = backbone_of(study.backbone, dtype=study.dtype)  # a wrong name is seen before texts are read
    if unknown := sorted(set(study.parts) - set(EXPERIMENTS)):
        raise ValueError(f"unknown key {unknown[0]!r} under parts: expected one of {', '.join(EXPERIMENTS)}")
    for spec in study.deltas.values():
        delta(spec).initial(frozen, 0)
    seen: dict[str, str] = {}
    for spec, name in tasks.distinct_names(study.every_task).items():
        data = task_of(spec, str(cache), tuple(study.columns.items()))
        if data.digest in seen:
            raise ValueError(f"{seen[data.digest]} and {name} hold the same texts and labels, one task named twice: name one")
        seen[data.digest] = name
        tasks.warn(data)
        if study.head == "verbaliser":
            prompt = study.prompt_of(name)
            for note in verbaliser(frozen, data, template=prompt.template or None, words=prompt.words or None).notes:
                print(f"warning: {note}", file=sys.stderr, flush=True)


def undecidable(study: Study, claims: Sequence[Claim]) -> dict[str, str]:
    """Return, for each claim that the study cannot decide whatever comes out, the reason and what would make it decidable.

    A verdict needs `NEEDED` tasks, or seeds where the study's unit is the seed; cells outside the linear regime can still make
    them fewer.
    """
    found = {}
    for claim in claims:
        experiment, part = claim.experiment, study.parts.get(claim.experiment.name, Part())
        tasks = experiment.protocols or part.tasks or study.tasks
        seeds = part.seeds or study.seeds
        count = len(set(tasks)) if study.unit == "task" else len(set(seeds))
        if experiment.needs_other_tasks and len(tasks) < 2:
            found[claim.id] = f"it learns from other tasks: give {NEEDED} data sets"
        elif claim.across and study.unit == "seed":
            found[claim.id] = f"it compares tasks with each other: give {NEEDED} data sets"
        elif count < NEEDED and study.unit == "task":
            more = f"{NEEDED - count} more" if count < NEEDED - 1 else "one more"
            found[claim.id] = f"it needs {NEEDED} tasks and has {count}: add {more}, or give one alone for a verdict on that one"
        elif count < NEEDED:
            found[claim.id] = f"it needs {NEEDED} seeds and has {count}: ask for more with --seeds"
    return found


def announced(study: Study, claims: Sequence[Claim]) -> list[str]:
    """Return what a reader is told before the first cell: what verdicts will be about, and which cannot be reached."""
    lost = undecidable(study, claims)
    lines = []
    if study.unit == "seed":
        lines.append(f"{study.name}: seeds replicate, so verdicts are about {', '.join(map(str, study.tasks))} alone")
    for claim, reason in lost.items():
        lines.append(f"{study.name}: {claim} cannot be decided; {reason}")
    return lines
