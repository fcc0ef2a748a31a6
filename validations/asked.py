"""A study as flags ask for it: other tasks, fewer or other deltas, fewer texts, and the claims that it then can test."""

import dataclasses
import difflib
import pathlib
from collections.abc import Mapping, Sequence

from tuning import catalogue
from tuning.deltas import parse, record_of

from .claims import Claim, named
from .plan import delta
from .study import SPLITS, Part, Study, read, resampled, with_data

OPEN = ("tuned", "practice")  # experiments that train one delta, of whatever kind and size


def asked(
    name: str,
    *,
    data: Sequence[str] = (),
    columns: Mapping[str, str] | None = None,
    tasks: str | None = None,
    deltas: str | None = None,
    seeds: int | None = None,
    examples: int | None = None,
    length: int | None = None,
    backbone: str | None = None,
    dtype: str | None = None,
    claims: Sequence[str] = (),
) -> tuple[Study, list[Claim], dict[str, str]]:
    """Return the study of a name as the flags of `costate validate` change it, its claims, and those left out with the reason.

    Raises ValueError for what does not go together and for what leaves nothing to test.
    """
    study = with_data(read(name), tuple(data), columns)
    if tasks is not None and data:
        raise ValueError("--tasks and --data both name the tasks: give all of them to --tasks, between commas")
    study = study if tasks is None else with_tasks(study, listed(tasks))
    if seeds is not None or ((data or tasks) and len(study.tasks) == 1):
        study = resampled(study, SPLITS if seeds is None else seeds)
    study = study if backbone is None else dataclasses.replace(study, backbone=backbone)
    study = study if dtype is None else dataclasses.replace(study, dtype=dtype)
    study = study if examples is None else with_examples(study, examples)
    study = study if length is None else with_length(study, length)
    found = [named(claim) for claim in (claims or study.claims)]
    if deltas is None:
        return study, found, {}
    study, lost = with_deltas(study, listed(deltas), found)
    kept = [claim for claim in found if claim.id not in lost]
    if not kept or (claims and lost):
        first = next(iter(lost))
        raise ValueError(f"--deltas {deltas} leaves nothing to test of {first}, {lost[first]}: name more deltas")
    return study, kept, lost


def listed(text: str) -> list[str]:
    """Return the entries of a flag between commas; the settings of a delta, as in "lora:rank=4,alpha=8,prefix", stay with it.

    Raises ValueError for an entry that is empty or named twice.
    """
    found: list[str] = []
    for piece in (piece.strip() for piece in text.split(",")):
        if found and "=" in piece and ":" not in piece:
            found[-1] += f",{piece}"
        else:
            found.append(piece)
    if not all(found) or len(set(found)) < len(found):
        raise ValueError(f"expected different names between commas, got {text!r}: correct it")
    return found


def with_tasks(study: Study, names: Sequence[str]) -> Study:
    """Return the study on the tasks of these names: embedded tasks, files, folders and hub:NAME; the parts' own tasks go too.

    Raises ValueError for a name that is none of these, with the nearest one.
    """
    known = catalogue.tasks()
    for name in names:
        if name not in known and not name.startswith("hub:") and not pathlib.Path(name).exists():
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else "costate list tasks shows the embedded ones"
            raise ValueError(f"expected an embedded task, a file, a folder or hub:NAME, got {name!r}: {hint}")
    tasks = [name if name in known or name.startswith("hub:") else with_data(study, (name,)).tasks[0] for name in names]
    parts = {kind: dataclasses.replace(part, tasks=()) for kind, part in study.parts.items()}
    return dataclasses.replace(study, tasks=tuple(tasks), development=(), parts=parts)


def with_examples(study: Study, examples: int) -> Study:
    """Return the study whose deltas train on so many texts; where they are fewer than the study's, its other parts shrink alike.

    The other parts are those of held-out text, of dev text and of the head's text, everywhere in the ratio of the texts to train.
    """
    sizes = _scaled(dataclasses.asdict(study.sizes), study.sizes.train, examples)
    parts = {}
    for kind, part in study.parts.items():
        train = part.options.get("train", study.sizes.train)
        parts[kind] = dataclasses.replace(part, options=_scaled(part.options, train, examples))
    return dataclasses.replace(study, sizes=dataclasses.replace(study.sizes, **sizes), parts=parts)


def with_length(study: Study, length: int) -> Study:
    """Return the study whose texts are cut at so many tokens, in every part."""
    parts = {
        kind: dataclasses.replace(part, options={**part.options, "length": length}) if "length" in part.options else part
        for kind, part in study.parts.items()
    }
    return dataclasses.replace(study, sizes=dataclasses.replace(study.sizes, length=length), parts=parts)


def _scaled(sizes: Mapping, train: int, examples: int) -> dict:
    """Return sizes, or the options of a part, in which `train` texts have become so many, and those of other parts no more."""
    share = min(1.0, examples / train)
    others = {name: max(1, round(sizes[name] * share)) for name in ("test", "dev", "readout") if name in sizes}
    return {**sizes, **others} | ({"train": examples} if "train" in sizes else {})


def with_deltas(study: Study, names: Sequence[str], claims: Sequence[Claim]) -> tuple[Study, dict[str, str]]:
    """Return the study on the deltas of these names, and for each claim that it then cannot test, which deltas it lacks.

    A name is one of the study's own deltas or a short text, as `costate list deltas` shows them ("lora:rank=4"). Every part
    keeps those of its deltas that are named; deltas that are new to a part join where any delta is tuned (`OPEN`). An
    experiment that compares several deltas needs all of them. Raises ValueError for a text that names no delta.
    """
    chosen = {name: study.deltas[name] if name in study.deltas else _spec(name, study) for name in names}
    parts, lost = dict(study.parts), {}
    for experiment in {claim.experiment.name: claim.experiment for claim in claims}.values():
        part = study.parts.get(experiment.name, Part())
        needed = part.deltas or tuple(study.deltas)
        if experiment.protocols:  # with deltas of its own
            continue
        kept = [name for name in needed if name in chosen]
        if experiment.name in OPEN:
            kept = list(chosen)
        elif not experiment.per_delta and len(kept) < len(needed):
            kept = []
        parts[experiment.name] = dataclasses.replace(part, deltas=tuple(kept))
        for claim in (claim for claim in claims if claim.experiment is experiment):
            if not [name for name in kept if not claim.deltas or name in claim.deltas]:
                lacking = (
                    " and ".join(claim.deltas or needed) if not experiment.per_delta else " or ".join(claim.deltas or needed)
                )
                lost[claim.id] = f"it is about {lacking}"
    gone = set(study.deltas) - set(chosen)
    parts = {kind: dataclasses.replace(part, options=_without(part.options, gone)) for kind, part in parts.items() if part.deltas}
    return dataclasses.replace(study, deltas=chosen, parts=parts), lost


def _without(options: Mapping, names: set[str]) -> dict:
    """Return the options of a part without the tables that are named after some deltas."""
    return {name: value for name, value in options.items() if name not in names}


def _spec(text: str, study: Study) -> dict:
    """Return the table of a delta that a short text names."""
    try:
        made = {"label": text, **record_of(parse(text))}
        delta(made)
        return made
    except ValueError as error:
        own = ", ".join(study.deltas)
        raise ValueError(f"{error}; --deltas takes that, or one of {study.name}'s own: {own}") from None
