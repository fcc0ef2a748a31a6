"""Decoders of one code into several deltas, found on other tasks, and what a code reaches on a task that they never saw."""

import functools
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import permutations
from typing import Any

import numpy as np
import torch
from torch import Tensor

from theory.signals import decoder_of_signals, random_row_space
from tuning.decomposition import Decoder, Decomposition, InCode, Solved, Tasks, decompose, principal, random_decoders
from tuning.practice import Practised, Recipe, practised, scores

from ...store import Record
from ..practice.experiment import recipe_of
from ..practice.tangent import tangent
from ..shared.setting import Experiment, Setting, own_rng, own_seed
from ..shared.training import at_rest, at_start, first
from .landscape import Plane, over

SOURCES, DIMENSIONS, TESTED = 8, (1, 2, 4, 8, 16, 64), 4
DRAWS = 4  # rotations of a code
FORETOLD, TEXTS, SEEN = 16, 128, 64  # directions foretold, texts that they are from, and held-out texts of the landscape


def told(loss: float, accuracy: float) -> dict[str, float]:
    """Return a loss and an accuracy as plain numbers."""
    return {"loss": loss, "accuracy": accuracy}


def majority(batch: Any) -> float:
    """Return the share of the largest class."""
    return float(np.bincount(batch.labels.cpu().numpy()).max() / len(batch.labels))


def code_recipe(options: Mapping[str, Any]) -> Recipe:
    """Return how a code is trained: as a delta, with steps and rates of its own and without decay."""
    own = {name.removeprefix("code_"): value for name, value in options.items() if name.startswith("code_")}
    return recipe_of({**options, "decay": 0.0, **own})


@dataclass(frozen=True)
class _Asked:
    """A training by the mark of all that determines it."""

    mark: str
    setting: Setting = field(compare=False, repr=False)
    delta: str = field(compare=False)


def trained(setting: Setting, delta: str) -> Practised:
    """Return one of a setting's deltas tuned as in practice; its rates are its own where the option `rates` is a table by delta.

    A task is a source of every other one: within a process, equal networks on equal texts are trained once.
    """
    subject = setting.subjects[delta]
    alone = replace(setting, subjects={delta: subject}, other_tasks=(), perturbed={})
    fingerprint = getattr(subject.backbone, "fingerprint", None)
    if fingerprint is None:
        return _trained(alone, delta)
    mark = hashlib.sha256(repr((fingerprint, subject.delta, delta, setting.seed, setting.options)).encode())
    readout = (subject.readout.weight, subject.readout.bias)
    for value in (*setting.train, *setting.dev, *setting.test, *readout, *subject.initial.values()):
        mark.update(np.ascontiguousarray(value.detach().cpu().numpy()).tobytes())
    return _trained_once(_Asked(mark.hexdigest(), alone, delta))


@functools.lru_cache(maxsize=64)
def _trained_once(asked: _Asked) -> Practised:
    return _trained(asked.setting, asked.delta)


def _trained(setting: Setting, delta: str) -> Practised:
    rates = setting.options.get("rates", ())
    own = {"rates": rates[delta]} if isinstance(rates, Mapping) else {}
    recipe, seed = recipe_of({**setting.options, **own}), own_seed(setting, 241)
    return practised(setting.subjects[delta], setting.train, setting.dev, setting.test, recipe=recipe, seed=seed)


def check_options(setting: Setting, *names: str) -> None:
    """Raise ValueError for a setting without dev text or without one of the options that are named."""
    if setting.dev is None:
        raise ValueError("deltas and codes choose their rates on dev text: give the part's option dev, a number of texts")
    if missing := [name for name in names if name not in setting.options]:
        raise ValueError(f"expected the options {', '.join(names)} in the study's part, {missing[0]} is missing: give it")


def _sources(setting: Setting) -> list[Setting]:
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


def _found(setting: Setting, tasks: Tasks, dimension: int) -> Decomposition:
    options = setting.options
    return decompose(
        tasks,
        dimension,
        steps=options["joint_steps"],
        batch_size=options.get("joint_batch", 32),
        rate=options["joint_rate"],
        reconstruction=options.get("joint_reconstruction", 1.0),
        seed=own_seed(setting, 239, dimension),
    )


def predict(setting: Setting) -> Record:
    """Return the decoders found on other tasks, for every dimension, with the codes of their own deltas, and principal ones.

    Every delta is tuned on every source; of the task itself only how the frozen network does on held-out text is read, and its
    responses on training text, which foretell where decoders lie. Options: dev, sources, dimensions, tested (the dimension of
    transfer and landscape), joint_steps, joint_rate, joint_batch and joint_reconstruction of the decomposition, code_steps and
    code_rates, dimension and texts of the foretold directions, and those of `tuning.practice.Recipe`, with rates by delta where
    they are a table.
    """
    check_options(setting, "joint_steps", "joint_rate", "code_steps", "code_rates")
    sources, arrays = _sources(setting), {}
    tasks = {
        delta: [Solved(source.subjects[delta], trained(source, delta).params, source.train) for source in sources]
        for delta in setting.subjects
    }
    dimensions, tested = _dimensions(setting)
    learned = {d: _found(setting, tasks, d) for d in dimensions}
    for d, found in learned.items():
        arrays |= _packed(f"learned {d}", found)
    for delta, solved in tasks.items():
        codes = [_numbers(learned[tested].encode(delta, one.displacement)) for one in solved]
        arrays[f"codes/{delta}"] = np.stack(codes)
    arrays |= _packed("principal", principal(tasks, tested))
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
        learned = np.linalg.qr(_numbers(found.decoders[delta].matrix))[0]
        bases = {"foretold": decoder_of_signals(signals, own, d), "random": random_row_space(own, d, rng)}
        made[delta] = {name: float(np.mean(np.sum((basis.T @ learned) ** 2, axis=0))) for name, basis in bases.items()}
    return made


def _numbers(x: Tensor) -> np.ndarray:
    return x.detach().double().cpu().numpy()


def _packed(name: str, found: Decomposition) -> dict[str, np.ndarray]:
    return {f"{name}/{delta}": decoder.matrix.cpu().numpy() for delta, decoder in found.decoders.items()}


def _decoders(setting: Setting, arrays: Mapping[str, np.ndarray], name: str) -> dict[str, Decoder]:
    made = {}
    for delta, one in setting.subjects.items():
        shapes = {key: tuple(value.shape) for key, value in one.initial.items()}
        made[delta] = Decoder(shapes, torch.as_tensor(arrays[f"{name}/{delta}"]).to(next(iter(one.initial.values()))))
    return made


def inside(setting: Setting, delta: str, decoder: Decoder) -> tuple[dict[str, float], Tensor]:
    """Return what training a code through a decoder reaches on held-out text, and the code."""
    found = practised(
        InCode(setting.subjects[delta], decoder),
        setting.train,
        setting.dev,
        setting.test,
        recipe=code_recipe(setting.options),
        seed=own_seed(setting, 251),
    )
    return told(found.chosen.loss, found.chosen.accuracy), found.params["code"]


def measure(setting: Setting, predicted: Record) -> Record:
    """Return what every delta reaches on the task by itself, by a code of its own, and by another delta's code untrained.

    Nulls: decoders of equal norm drawn at random, and for transfer the code turned by random rotations, and the codes of the
    sources. Rival: the principal decoders of the same deltas. Beside them stand decoders found on the task itself, as published.
    For every delta's loss over a plane of the code, see `landscape`.
    """
    a, (dimensions, tested) = predicted.arrays, _dimensions(setting)
    runs = {delta: trained(setting, delta) for delta in setting.subjects}
    tasks = {delta: [Solved(setting.subjects[delta], run.params, setting.train)] for delta, run in runs.items()}
    encoders = dict.fromkeys(setting.subjects, torch.zeros(0))
    arms = {("principal", tested): _decoders(setting, a, "principal")}
    for d in dimensions:
        learned = _decoders(setting, a, f"learned {d}")
        arms["learned", d], arms["own", d] = learned, _found(setting, tasks, d).decoders
        arms["random", d] = random_decoders(Decomposition(learned, encoders), own_seed(setting, 257, d))
    optimised, codes = [], {}
    for (arm, d), decoders in arms.items():
        for delta, decoder in decoders.items():
            reached, codes[arm, d, delta] = inside(setting, delta, decoder)
            optimised.append({"arm": arm, "dimension": d, "delta": delta} | reached)
    kept = {arm: {delta: codes[arm, tested, delta] for delta in setting.subjects} for arm in ("learned", "own", "random")}
    transferred = list(_transferred(setting, arms["learned", tested], kept["learned"], a))
    own = {(r["from"], r["to"]): r for r in _transferred(setting, arms["own", tested], kept["own"], {})}
    seen = first(setting.test, SEEN)
    limits = {
        delta: [scores(one, params, seen)[0] for params in (one.initial, runs[delta].params)]
        for delta, one in setting.subjects.items()
    }
    return Record(
        {
            "tested": tested,
            "full": {delta: told(run.chosen.loss, run.chosen.accuracy) | {"at_edge": run.at_edge} for delta, run in runs.items()},
            "optimised": optimised,
            "transferred": [r | {"own": own[r["from"], r["to"]]["accuracy"]} for r in transferred],
            "limits": limits,
        },
        {f"code/{delta}": _numbers(code) for delta, code in kept["learned"].items()}
        | _landscapes(setting, {arm: arms[arm, tested] for arm in kept}, kept, seen),
    )


def _landscapes(
    setting: Setting, decoders: Mapping[str, Mapping[str, Decoder]], codes: Mapping[str, Mapping[str, Tensor]], seen: Any
) -> dict[str, np.ndarray]:
    """Return every delta's loss over the plane of an arm's codes, by arm, and with the code rotated for each delta."""
    made, rng = {}, own_rng(setting, 271)
    for arm, own in decoders.items():
        plane = Plane.of(np.stack([_numbers(code) for code in codes[arm].values()]))
        turns = {"": dict.fromkeys(own)} | (
            {"rotated": {x: _rotation(plane.dimension, rng) for x in own}} if arm == "learned" else {}
        )
        for name, turned in turns.items():
            for delta, decoder in own.items():
                one = InCode(setting.subjects[delta], decoder)
                made[f"landscape/{name or arm}/{delta}"] = over(plane, one, seen, turned[delta])
        made[f"plane/{arm}"] = plane.placed(np.stack([_numbers(code) for code in codes[arm].values()]))
        made[f"extent/{arm}"] = np.array(plane.extent)
    return made


def _transferred(
    setting: Setting, decoders: Mapping[str, Decoder], codes: Mapping[str, Tensor], arrays: Mapping[str, np.ndarray]
) -> Iterator[dict]:
    """Yield what every delta reaches by every other one's code, and, given the sources' codes, by these and by that code rotated."""
    rng = own_rng(setting, 263)

    def reached(delta: str, code: Tensor) -> dict[str, float]:
        one = InCode(setting.subjects[delta], decoders[delta])
        return told(*scores(one, {"code": code}, setting.test))

    for one, other in permutations(setting.subjects, 2):
        code = codes[one]
        if not arrays:
            yield {"from": one, "to": other} | reached(other, code)
            continue
        turns = [torch.as_tensor(_rotation(len(code), rng)).to(code) @ code for _ in range(DRAWS)]
        theirs = torch.as_tensor(arrays[f"codes/{one}"]).to(code)
        yield (
            {"from": one, "to": other}
            | reached(other, code)
            | {
                "rotated": float(np.mean([reached(other, turned)["accuracy"] for turned in turns])),
                "foreign": float(np.mean([reached(other, their)["accuracy"] for their in theirs])),
            }
        )


def _rotation(dimension: int, rng: np.random.Generator) -> np.ndarray:
    """Return an orthogonal matrix drawn uniformly."""
    q, r = np.linalg.qr(rng.standard_normal((dimension, dimension)))
    return q * np.sign(np.diagonal(r))


EXPERIMENT = Experiment(
    "subspace", "one code for several deltas", ("prefix", "adapter", "lora"), predict, measure,
    weight=200.0, further=True, needs_other_tasks=True,
)  # fmt: skip
