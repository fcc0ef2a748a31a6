"""Decoders of one code into several deltas, found on other tasks, and what a code reaches on a task that they never saw."""

import functools
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import permutations
from typing import Any

import numpy as np
import torch
from torch import Tensor

from theory.signals import decoder_of_signals, random_row_space
from tuning.decomposition import (
    Decoder,
    Decomposition,
    InCode,
    Solved,
    Tasks,
    codes,
    decompositions,
    principal,
    random_decoders,
    stick,
    uniform,
)
from tuning.ensembles import Subspace
from tuning.practice import Practised, Recipe, practised, scores
from tuning.training import cosine, minibatch

from ...store import Record
from ..practice.experiment import recipe_of
from ..practice.tangent import tangent
from ..shared.setting import Experiment, Setting, own_rng, own_seed
from ..shared.training import at_rest, at_start, first, majority
from .landscape import Plane, over

SOURCES, DIMENSIONS, TESTED = 8, (1, 2, 4, 8, 16, 64), 4
POOLED, DEALT = (4, 16), 4  # numbers of a code that serves all tasks at once; tasks whose labels are dealt out
FORETOLD, TEXTS, SEEN = 16, 128, 48  # directions foretold, texts that they are from, and held-out texts of the landscape
WEIGHTS = {"uniform": uniform, "stick": stick}


def told(loss: float, accuracy: float) -> dict[str, float]:
    """Return a loss and an accuracy as plain numbers."""
    return {"loss": loss, "accuracy": accuracy}


@dataclass(frozen=True)
class _Asked:
    """A training by the mark of all that determines it."""

    mark: str
    setting: Setting = field(compare=False, repr=False)
    delta: str = field(compare=False)


@dataclass(frozen=True)
class _Pool:
    """A joint search over all tasks of a study by the marks of all that determines it."""

    marks: tuple[str, ...]
    settings: tuple[Setting, ...] = field(compare=False, repr=False)
    dimensions: tuple[int, ...]


def _mark(setting: Setting, delta: str) -> str:
    """Return the mark of all that determines the training of one of a setting's deltas."""
    subject = setting.subjects[delta]
    network = (getattr(subject.backbone, "fingerprint", None), getattr(subject, "delta", None))
    mark = hashlib.sha256(repr((network, delta, setting.seed, setting.options)).encode())
    readout = (subject.readout.weight, subject.readout.bias)
    for value in (*setting.train, *setting.dev, *setting.test, *readout, *subject.initial.values()):
        mark.update(np.ascontiguousarray(value.detach().cpu().numpy()).tobytes())
    return mark.hexdigest()


def _known(setting: Setting) -> bool:
    """Return whether a mark says which network it is: not so of plants."""
    return all(hasattr(subject.backbone, "fingerprint") for subject in setting.subjects.values())


def trained(setting: Setting, delta: str) -> Practised:
    """Return one of a setting's deltas tuned as in practice; its rates are its own where the option `rates` is a table by delta.

    A task is a source of every other one: within a process, equal networks on equal texts are trained once.
    """
    alone = replace(setting, subjects={delta: setting.subjects[delta]}, other_tasks=(), perturbed={})
    return _trained_once(_Asked(_mark(setting, delta), alone, delta)) if _known(setting) else _trained(alone, delta)


@functools.lru_cache(maxsize=256)
def _trained_once(asked: _Asked) -> Practised:
    return _trained(asked.setting, asked.delta)


def _recipe(setting: Setting, delta: str) -> Recipe:
    rates = setting.options.get("rates", ())
    return recipe_of({**setting.options, **({"rates": rates[delta]} if isinstance(rates, Mapping) else {})})


def _trained(setting: Setting, delta: str) -> Practised:
    recipe, seed = _recipe(setting, delta), own_seed(setting, 241)
    return practised(setting.subjects[delta], setting.train, setting.dev, setting.test, recipe=recipe, seed=seed)


def solution(setting: Setting, delta: str) -> Solved:
    """Return one of a setting's deltas as tuning left it, with the texts to decompose it on; see `trained`."""
    return Solved(setting.subjects[delta], trained(setting, delta).params, setting.train)


def misled(setting: Setting, delta: str) -> Solved:
    """Return a delta trained on labels that were dealt out at random, with as many steps and the rate that the right ones chose."""
    order = torch.as_tensor(own_rng(setting, 277).permutation(len(setting.train.labels)))
    train, recipe = setting.train._replace(labels=setting.train.labels[order]), _recipe(setting, delta)
    run = minibatch(
        setting.subjects[delta],
        train,
        steps=recipe.steps,
        batch_size=recipe.batch_size,
        lr=trained(setting, delta).rate,
        weight_decay=recipe.decay,
        seed=own_seed(setting, 283),
        schedule=cosine,
    )
    return Solved(setting.subjects[delta], run.params, train)


def _pooled(setting: Setting, dimensions: Sequence[int], *, dealt: bool) -> list[Decomposition]:
    """Return decoders found on all tasks at once, this one among them, or on some with their labels dealt out, by dimension.

    They are the same for all tasks of a seed: within a process they are found once.
    """
    marks = {_mark(one, next(iter(one.subjects))): replace(one, other_tasks=()) for one in (setting, *setting.other_tasks)}
    chosen = sorted(marks)[: DEALT if dealt else None]
    pool = _Pool(tuple(chosen), tuple(marks[mark] for mark in chosen), tuple(dimensions))
    return (_found_once if _known(setting) else _found_together)(pool, dealt)


@functools.lru_cache(maxsize=16)
def _found_once(pool: _Pool, dealt: bool) -> list[Decomposition]:
    return _found_together(pool, dealt)


def _found_together(pool: _Pool, dealt: bool) -> list[Decomposition]:
    solve, first = misled if dealt else solution, pool.settings[0]
    return search(first, {delta: [solve(one, delta) for one in pool.settings] for delta in first.subjects}, pool.dimensions)


def check_options(setting: Setting, *names: str) -> None:
    """Raise ValueError for a setting without dev text or without one of the options that are named."""
    if setting.dev is None:
        raise ValueError("deltas and codes choose their rates on dev text: give the part's option dev, a number of texts")
    if missing := [name for name in names if name not in setting.options]:
        raise ValueError(f"expected the options {', '.join(names)} in the study's part, {missing[0]} is missing: give it")


def sources_of(setting: Setting) -> list[Setting]:
    """Return the other tasks that decoders are found on, drawn where there are more than the option `sources`."""
    others, wanted = setting.other_tasks, setting.options.get("sources", SOURCES)
    if not others:
        raise ValueError("expected at least one other task to find decoders on, got none: add tasks to the study")
    drawn = own_rng(setting, 233).permutation(len(others))[:wanted]
    return [others[k] for k in sorted(drawn)]


def _dimensions(setting: Setting) -> tuple[list[int], int]:
    """Return the dimensions that are tried, in order, and the one at which codes are transferred and the landscape is seen."""
    tested = setting.options.get("tested", TESTED)
    return sorted({*setting.options.get("dimensions", DIMENSIONS), tested}), tested


def search(
    setting: Setting, tasks: Tasks, dimensions: Sequence[int], weights: str = "uniform", beside: Sequence[InCode] = ()
) -> list[Decomposition]:
    """Return the decoders that `decompositions` finds for some tasks under the part's options, by dimension."""
    options = setting.options
    return decompositions(
        tasks,
        dimensions,
        steps=options["joint_steps"],
        batch_size=options.get("joint_batch", 32),
        rate=options["joint_rate"],
        reconstruction=options.get("joint_reconstruction", 1.0),
        weights=WEIGHTS[weights],
        beside=beside,
        seed=own_seed(setting, 239),
    )


def predict(setting: Setting) -> Record:
    """Return the decoders found on other tasks, for every dimension, with the codes of their own deltas, and principal ones.

    Every delta is tuned on every source; of the task itself only how the frozen network does on held-out text is read, and its
    responses on training text, which foretell where decoders lie. Options: dev, sources, dimensions, tested (the dimension that
    verdicts, landscape and the published weights are for), pooled (dimensions of decoders of all tasks), joint_steps, joint_rate,
    joint_batch and joint_reconstruction of the decomposition, code_steps, code_batch_size and code_rates, dimension and texts of
    the foretold directions, and those of `tuning.practice.Recipe`, with rates by delta where they are a table.
    """
    check_options(setting, "joint_steps", "joint_rate", "code_steps", "code_rates")
    sources, arrays = sources_of(setting), {}
    tasks = {delta: [solution(source, delta) for source in sources] for delta in setting.subjects}
    dimensions, tested = _dimensions(setting)
    learned = dict(zip(dimensions, search(setting, tasks, dimensions), strict=True))
    for d, found in learned.items():
        arrays |= packed(f"learned {d}", found)
        for delta, solved in tasks.items():
            arrays[f"codes {d}/{delta}"] = np.stack([numbers(found.encode(delta, one.displacement)) for one in solved])
        if d <= len(sources):
            arrays |= packed(f"principal {d}", principal(tasks, d))
    frozen = {name: told(*scores(one, one.initial, setting.test)) for name, one in setting.subjects.items()}
    angles = _angles(setting, learned[tested])
    return Record({"sources": len(sources), "frozen": frozen, "majority": majority(setting.test), "angles": angles}, arrays)


def _angles(setting: Setting, found: Decomposition) -> dict[str, dict[str, float]]:
    """Return, by delta, the mean squared cosine of the principal angles between found decoders and foretold directions.

    Foretold are the numbers that move the frozen network's outputs on the task as the leading port signals do; random ones lie in
    the row space of the delta's response.
    """
    d, texts = (setting.options.get(name, known) for name, known in (("dimension", FORETOLD), ("texts", TEXTS)))
    rng, batch, made = own_rng(setting, 269), first(setting.train, texts), {}
    steered = next(iter(setting.subjects.values()))
    signals = tangent(steered.steered, at_rest(steered), batch).flat.astype(np.float64)
    for delta, subject in setting.subjects.items():
        own = tangent(subject.outputs, at_start(subject), batch).flat.astype(np.float64)
        learned = np.linalg.qr(numbers(found.decoders[delta].matrix))[0]
        bases = {"foretold": decoder_of_signals(signals, own, d), "random": random_row_space(own, d, rng)}
        made[delta] = {name: float(np.mean(np.sum((basis.T @ learned) ** 2, axis=0))) for name, basis in bases.items()}
    return made


def numbers(x: Tensor) -> np.ndarray:
    """Return a tensor as float64 numpy, without its graph."""
    return x.detach().double().cpu().numpy()


def packed(name: str, found: Decomposition) -> dict[str, np.ndarray]:
    """Return the decoders' matrices as arrays of a record, "name/delta"."""
    return {f"{name}/{delta}": decoder.matrix.cpu().numpy() for delta, decoder in found.decoders.items()}


def unpacked(setting: Setting, arrays: Mapping[str, np.ndarray], name: str) -> dict[str, Decoder]:
    """Return the decoders of a setting's subjects that `packed` wrote under a name."""
    made = {}
    for delta, one in setting.subjects.items():
        shapes = {key: tuple(value.shape) for key, value in one.initial.items()}
        made[delta] = Decoder(shapes, torch.as_tensor(arrays[f"{name}/{delta}"]).to(next(iter(one.initial.values()))))
    return made


def inside(setting: Setting, delta: str, decoders: Sequence[Subspace]) -> list[tuple[dict[str, float], Tensor]]:
    """Return what training a code through each of some decoders reaches on held-out text, and the code.

    All codes meet the same texts. Of several `code_rates` dev text chooses.
    """
    subject, rates, found = setting.subjects[delta], setting.options["code_rates"], []
    tried = codes(
        subject,
        [decoder for decoder in decoders for _ in rates],
        setting.train,
        rates=[*rates] * len(decoders),
        steps=setting.options["code_steps"],
        batch_size=setting.options.get("code_batch_size", setting.options["batch_size"]),
        seed=own_seed(setting, 251),
    )
    for k, decoder in enumerate(decoders):
        one, own = InCode(subject, decoder), tried[k * len(rates) : (k + 1) * len(rates)]
        code = own[0] if len(own) == 1 else min(own, key=lambda code, one=one: scores(one, {"code": code}, setting.dev)[0])
        found.append((told(*scores(one, {"code": code}, setting.test)), code))
    return found


@dataclass(frozen=True)
class _Arm:
    """Decoders of one kind and dimension, and codes that other tasks have in them, (tasks, d) by delta, if they do."""

    decoders: Mapping[str, Decoder]
    foreign: Mapping[str, Tensor] = field(default_factory=dict)


def _arms(setting: Setting, predicted: Record) -> dict[tuple[str, int], _Arm]:
    """Return all decoders through which a code is trained, by kind and dimension; see `measure`."""
    a, (dimensions, tested) = predicted.arrays, _dimensions(setting)
    solved, like = {delta: [solution(setting, delta)] for delta in setting.subjects}, next(iter(setting.subjects.values()))
    another = setting.other_tasks[own_rng(setting, 313).integers(len(setting.other_tasks))]
    arms: dict[tuple[str, int], _Arm] = {}

    def kept(codes: np.ndarray) -> Tensor:
        return torch.as_tensor(codes).to(next(iter(like.initial.values())))

    owns, strays = search(setting, solved, dimensions), _pooled(setting, dimensions, dealt=True)
    for d, own, dealt in zip(dimensions, owns, strays, strict=True):
        learned = unpacked(setting, a, f"learned {d}")
        arms["learned", d] = _Arm(learned, {delta: kept(a[f"codes {d}/{delta}"]) for delta in setting.subjects})
        theirs = {delta: own.encode(delta, solution(another, delta).displacement)[None] for delta in setting.subjects}
        arms["own", d] = _Arm(own.decoders, theirs)
        arms["random", d] = _Arm(random_decoders(learned, own_seed(setting, 257, d)))
        arms["dealt", d] = _Arm(dealt.decoders)
        if f"principal {d}/{next(iter(setting.subjects))}" in a:
            arms["principal", d] = _Arm(unpacked(setting, a, f"principal {d}"))
    pooled = tuple(setting.options.get("pooled", POOLED))
    arms |= {("pooled", d): _Arm(one.decoders) for d, one in zip(pooled, _pooled(setting, pooled, dealt=False), strict=True)}
    arms["stick", tested] = _Arm(search(setting, solved, [tested], "stick")[0].decoders)
    return arms


def measure(setting: Setting, predicted: Record) -> Record:
    """Return what every delta reaches on the task by itself, by a code of its own, and by another delta's code untrained.

    Decoders: learned on other tasks; own, found on the task itself, as published, and stick, the same with the published weights;
    pooled, found on all tasks, this one among them. Nulls: random of equal norm, and dealt, found on tasks whose labels were
    dealt out; for transfer the code turned by a random rotation, and a code of another task. Rival: the principal decoders of
    the same deltas. For every delta's loss over a plane of the code, see `landscape`.
    """
    tested, arms = _dimensions(setting)[1], _arms(setting, predicted)
    runs, optimised, found = {delta: trained(setting, delta) for delta in setting.subjects}, [], {}
    for delta in setting.subjects:
        reached = inside(setting, delta, [arm.decoders[delta] for arm in arms.values()])
        for (kind, d), (score, code) in zip(arms, reached, strict=True):
            found.setdefault((kind, d), {})[delta] = code
            optimised.append({"arm": kind, "dimension": d, "delta": delta} | score)
    rng = own_rng(setting, 263)
    transferred = [
        {"arm": kind, "dimension": d} | row
        for (kind, d), arm in arms.items()
        for row in _transferred(setting, arm, found[kind, d], rng)
    ]
    seen = first(setting.test, setting.options.get("seen", SEEN))
    limits = {
        delta: [scores(one, params, seen)[0] for params in (one.initial, runs[delta].params)]
        for delta, one in setting.subjects.items()
    }
    shown = ("learned", "own", "random")
    return Record(
        {
            "tested": tested,
            "full": {delta: told(run.chosen.loss, run.chosen.accuracy) | {"at_edge": run.at_edge} for delta, run in runs.items()},
            "optimised": optimised,
            "transferred": transferred,
            "limits": limits,
        },
        {f"code/{delta}": numbers(code) for delta, code in found["learned", tested].items()}
        | _landscapes(setting, {k: arms[k, tested].decoders for k in shown}, {k: found[k, tested] for k in shown}, seen),
    )


def _landscapes(
    setting: Setting, decoders: Mapping[str, Mapping[str, Decoder]], codes: Mapping[str, Mapping[str, Tensor]], seen: Any
) -> dict[str, np.ndarray]:
    """Return every delta's loss over the plane of an arm's codes, by arm, and with the code rotated for each delta."""
    made, rng = {}, own_rng(setting, 271)
    for arm, own in decoders.items():
        plane = Plane.of(np.stack([numbers(code) for code in codes[arm].values()]))
        turns = {"": dict.fromkeys(own)} | (
            {"rotated": {x: rotation(plane.dimension, rng) for x in own}} if arm == "learned" else {}
        )
        for name, turned in turns.items():
            for delta, decoder in own.items():
                one = InCode(setting.subjects[delta], decoder)
                made[f"landscape/{name or arm}/{delta}"] = over(plane, one, seen, turned[delta])
        made[f"plane/{arm}"] = plane.placed(np.stack([numbers(code) for code in codes[arm].values()]))
        made[f"extent/{arm}"] = np.array(plane.extent)
    return made


def _transferred(setting: Setting, arm: _Arm, codes: Mapping[str, Tensor], rng: np.random.Generator) -> Iterator[dict]:
    """Yield what every delta reaches by every other one's code, and where codes of other tasks are known by one and by it rotated."""

    def reached(delta: str, code: Tensor) -> dict[str, float]:
        return told(*scores(InCode(setting.subjects[delta], arm.decoders[delta]), {"code": code}, setting.test))

    for one, other in permutations(setting.subjects, 2):
        row = {"from": one, "to": other} | reached(other, codes[one])
        if arm.foreign:
            turned = torch.as_tensor(rotation(len(codes[one]), rng)).to(codes[one]) @ codes[one]
            their = arm.foreign[one][rng.integers(len(arm.foreign[one]))]
            row |= {"rotated": reached(other, turned)["accuracy"], "foreign": reached(other, their)["accuracy"]}
        yield row


def rotation(dimension: int, rng: np.random.Generator) -> np.ndarray:
    """Return an orthogonal matrix drawn uniformly."""
    q, r = np.linalg.qr(rng.standard_normal((dimension, dimension)))
    return q * np.sign(np.diagonal(r))


EXPERIMENT = Experiment(
    "subspace", "one code for several deltas", ("prefix", "adapter", "lora"), predict, measure,
    weight=200.0, further=True, needs_other_tasks=True,
)  # fmt: skip
