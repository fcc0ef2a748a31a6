"""Full tuning that shares the code of deltas through a random projection: what it reaches there, alone and by their codes."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations

import numpy as np
import torch
from torch import Tensor

from probes.dimension.projection import Projection, random_subspace
from tuning.decomposition import Decomposition, InCode, random_decoders
from tuning.ensembles import Subspace
from tuning.practice import scores

from ...statistics import cosine
from ...store import Record
from ..practice.tangent import tangent
from ..shared.setting import Experiment, Params, Setting, own_rng, own_seed
from ..shared.training import first, majority
from ..subspace.experiment import (
    check_options,
    inside,
    misled,
    numbers,
    packed,
    rotation,
    search,
    solution,
    sources_of,
    told,
    trained,
    unpacked,
)
from .alignment import cka, dealt_cka, fitted

FULL = "full"
DIMENSIONS, POINTS, TEXTS = (4, 16, 64), 6, 32  # numbers of a code; places on a segment; texts of Jacobians
DRAWS, STRAYS = 2, 4  # of a null; of labels dealt out
Decoders = Mapping[str, Subspace]


@dataclass(frozen=True)
class Projected:
    """All weights moved in a random subspace: a code of numbers of size one takes them `unit` sqrt(d) far, d the dimension."""

    projection: Projection = field(repr=False)
    unit: float

    @property
    def dimension(self) -> int:
        """Return d, the numbers of a code."""
        return self.projection.dimension

    def apply(self, theta: Tensor) -> Params:
        """Return the displacement at a code, differentiable."""
        return self.projection.apply(self.unit * theta)


def _deltas(setting: Setting) -> Setting:
    """Return the setting of the deltas alone, without full tuning."""
    return replace(setting, subjects={name: one for name, one in setting.subjects.items() if name != FULL})


def _dimensions(setting: Setting) -> list[int]:
    """Return the dimensions that are tried, in order: Jacobians are compared at the least, full tuning is judged at the largest."""
    return sorted({*setting.options.get("dimensions", DIMENSIONS)})


def branches(setting: Setting) -> dict[int, Projected]:
    """Return the random projection through which full tuning reads codes, by dimension; the same for all tasks of a seed.

    P theta as in Li et al. 2018, whose smaller subspaces lie in the larger ones. Codes of size one take the weights as far as full
    tuning took them on the other tasks, as the decoders of deltas are measured in what training moved.
    """
    start, dimensions = setting.subjects[FULL].initial, _dimensions(setting)
    shapes, like = {name: tuple(value.shape) for name, value in start.items()}, next(iter(start.values()))
    drawn = random_subspace(shapes, dimensions[-1], seed=setting.seed, dtype=like.dtype, device=like.device)
    moved = [float(solution(source, FULL).displacement.square().sum()) for source in sources_of(setting)]
    return {d: Projected(drawn.first(d), math.sqrt(float(np.mean(moved)) / d)) for d in dimensions}


def _joined(
    setting: Setting, tasks: Sequence[Setting], dimension: int, branch: Projected | None, full: bool = False, solve=solution
) -> Decomposition:
    """Return decoders of the deltas, found on some tasks, beside full tuning through a branch where one is given.

    With `full`, a decoder is found for full tuning too, from what training all its numbers made of them.
    """
    names = setting.subjects if full else _deltas(setting).subjects
    beside = [] if branch is None else [InCode(one.subjects[FULL], branch) for one in tasks]
    solved = {name: [solve(one, name) for one in tasks] for name in names}
    return search(setting, solved, [dimension], beside=beside)[0]


def _alone(setting: Setting, dimension: int) -> dict[str, Subspace]:
    """Return the decoder of every delta that is found on the task without the other deltas."""
    return {
        name: search(setting, {name: [solution(setting, name)]}, [dimension])[0].decoders[name]
        for name in _deltas(setting).subjects
    }


def predict(setting: Setting) -> Record:
    """Return the decoders that are found on other tasks with full tuning beside them, by dimension, and the codes of these tasks.

    Of the task itself only how the frozen network does on held-out text is read. Options: dev, sources, dimensions, joint_steps,
    joint_rate, joint_batch and joint_reconstruction of the joint search, code_steps, code_batch_size and code_rates, and those of
    `tuning.practice.Recipe`, with rates by delta where they are a table.
    """
    check_options(setting, "joint_steps", "joint_rate", "code_steps", "code_rates")
    sources, arrays, through = sources_of(setting), {}, branches(setting)
    for d, branch in through.items():
        found = _joined(setting, sources, d, branch)
        arrays |= packed(f"learned {d}", found)
        for name in found.decoders:
            made = [found.encode(name, solution(one, name).displacement) for one in sources]
            arrays[f"codes {d}/{name}"] = np.stack([numbers(code) for code in made])
    frozen = {name: told(*scores(one, one.initial, setting.test)) for name, one in setting.subjects.items()}
    units = {d: branch.unit for d, branch in through.items()}
    least = {name: arrays[f"codes {min(through)}/{name}"] for name in _deltas(setting).subjects}
    alike = {
        "cka": float(np.mean([cka(a, b) for a, b in combinations(least.values(), 2)])),
        "cka_dealt": float(np.mean([dealt_cka(a, b) for a, b in combinations(least.values(), 2)])),
    }
    values = {"sources": len(sources), "frozen": frozen, "majority": majority(setting.test)} | alike
    return Record(values | {"units": {str(d): unit for d, unit in units.items()}}, arrays)


def _arms(setting: Setting, predicted: Record) -> dict[tuple[str, int], Decoders]:
    """Return all decoders through which codes are trained, by kind and dimension, full tuning's among them; see `measure`."""
    through, alone = branches(setting), _deltas(setting)
    least, most = min(through), max(through)
    arms: dict[tuple[str, int], Decoders] = {}
    for d, branch in through.items():
        arms["learned", d] = {**unpacked(alone, predicted.arrays, f"learned {d}"), FULL: branch}
        arms["own", d] = {**_joined(setting, [setting], d, branch).decoders, FULL: branch}
    arms["apart", most] = {**_joined(setting, sources_of(setting), most, None).decoders, FULL: through[most]}
    arms["searched", least] = _joined(setting, sources_of(setting), least, None, full=True).decoders
    arms["searched own", least] = _joined(setting, [setting], least, None, full=True).decoders
    arms["dealt", least] = _joined(setting, [setting], least, None, solve=misled).decoders
    arms["alone", least] = _alone(setting, least)
    arms["random", least] = random_decoders(
        {name: arms["learned", least][name] for name in alone.subjects}, own_seed(setting, 331)
    )
    return arms


def _codes(setting: Setting, arms: Mapping[tuple[str, int], Decoders]) -> tuple[list[dict], dict[tuple[str, int], Params]]:
    """Return what a code reaches through every decoder of every arm, and the codes by arm; decoders that arms share are read once."""
    rows, found = [], {arm: {} for arm in arms}
    for name in setting.subjects:
        own = {id(decoders[name]): decoders[name] for decoders in arms.values() if name in decoders}
        reached = dict(zip(own, inside(setting, name, list(own.values())), strict=True))
        for (kind, d), decoders in arms.items():
            if name in decoders:
                score, found[kind, d][name] = reached[id(decoders[name])]
                rows.append({"arm": kind, "dimension": d, "delta": name} | score)
    return rows, found


def measure(setting: Setting, predicted: Record) -> Record:
    """Return what codes reach through every decoder, what full tuning makes of deltas' codes and they of its, and between both.

    Arms: learned on other tasks and own, found on the task itself as published, both with full tuning beside the search through a
    random projection; apart, on other tasks without it there; searched, where a decoder is found for full tuning too, on other tasks or, searched
    own, on the task. For Jacobians also decoders of dealt-out labels, of every delta alone, and random ones. Nulls of a code that
    another reads: rotated at random, and dealt, its numbers in another order with signs of chance.
    """
    arms, runs = _arms(setting, predicted), {name: trained(setting, name) for name in setting.subjects}
    rows, codes = _codes(setting, arms)
    rng, most = own_rng(setting, 337), _dimensions(setting)[-1]
    lost = [_stray(setting, arms["own", most][FULL], draw) for draw in range(STRAYS)]
    shared = {arm: decoders for arm, decoders in arms.items() if FULL in decoders}
    return Record(
        {
            "full": {name: told(run.chosen.loss, run.chosen.accuracy) | {"at_edge": run.at_edge} for name, run in runs.items()},
            "lost": {"accuracy": float(np.mean(lost))},
            "optimised": rows,
            "transferred": [
                {"arm": kind, "dimension": d} | row
                for (kind, d), decoders in shared.items()
                for row in _transferred(setting, decoders, codes[kind, d], rng)
            ],
            "segments": [
                {"arm": kind} | row
                for kind in ("own", "learned")
                for row in _segments(setting, arms[kind, most], codes[kind, most], rng)
            ],
            "aligned": [{"arm": kind} | row for (kind, d), decoders in arms.items() if d == min(_dimensions(setting))
                        for row in _aligned(setting, decoders, codes[kind, d], rng)],
        },
        {f"code {kind} {d}/{name}": numbers(code) for (kind, d), own in codes.items() for name, code in own.items()},
    )  # fmt: skip


def _stray(setting: Setting, branch: Projected, draw: int) -> float:
    """Return the held-out accuracy of full tuning's code that was trained on labels dealt out."""
    order = torch.as_tensor(own_rng(setting, 347, draw).permutation(len(setting.train.labels)))
    train = setting.train._replace(labels=setting.train.labels[order])
    ((score, _),) = inside(replace(setting, train=train), FULL, [branch])
    return score["accuracy"]


def _reached(setting: Setting, decoders: Decoders, name: str, code: Tensor) -> dict[str, float]:
    """Return what a reader of a code makes of the held-out text."""
    return told(*scores(InCode(setting.subjects[name], decoders[name]), {"code": code}, setting.test))


def _dealt(code: Tensor, rng: np.random.Generator) -> Tensor:
    """Return a code's numbers in another order, none of them in its place, with signs of chance."""
    order, signs = rng.permutation(len(code)), torch.as_tensor(rng.choice([-1.0, 1.0], len(code))).to(code)
    return torch.empty_like(code).index_copy_(0, torch.as_tensor(np.roll(order, 1)), signs * code[torch.as_tensor(order)])


def _turned(code: Tensor, rng: np.random.Generator) -> Tensor:
    """Return a code turned by a random rotation."""
    return torch.as_tensor(rotation(len(code), rng)).to(code) @ code


def _with_full(decoders: Decoders) -> Iterator[tuple[str, str]]:
    """Yield all pairs of a code's owner and its reader of which one is full tuning."""
    for name in decoders:
        if name != FULL:
            yield from ((name, FULL), (FULL, name))


def _transferred(setting: Setting, decoders: Decoders, codes: Params, rng: np.random.Generator) -> Iterator[dict]:
    """Yield what full tuning makes of every delta's code untrained, and they of its, with nulls."""
    for one, other in _with_full(decoders):
        nulls = {
            null: float(np.mean([_reached(setting, decoders, other, turn(codes[one], rng))["accuracy"] for _ in range(DRAWS)]))
            for null, turn in (("rotated", _turned), ("dealt", _dealt))
        }
        yield {"from": one, "to": other} | _reached(setting, decoders, other, codes[one]) | nulls


def _segments(setting: Setting, decoders: Decoders, codes: Params, rng: np.random.Generator) -> Iterator[dict]:
    """Yield what a reader makes of the codes between its own and the other's, and between its own and the other's dealt out."""
    for one, other in _with_full(decoders):
        for kind, end in (("between", codes[one]), ("dealt", _dealt(codes[one], rng))):
            for at in np.linspace(0.0, 1.0, POINTS):
                code = (1.0 - at) * codes[other] + at * end
                yield {"from": one, "to": other, "kind": kind, "at": float(at)} | _reached(setting, decoders, other, code)


def _aligned(setting: Setting, decoders: Decoders, codes: Params, rng: np.random.Generator) -> Iterator[dict]:
    """Yield, by pair of readers, how alike the code moves their logits, each at its own code, and with one's code turned."""
    texts, slopes = first(setting.test, TEXTS), {}
    for name, decoder in decoders.items():
        at = InCode(setting.subjects[name], decoder)
        slopes[name] = tangent(at.outputs, {"code": codes[name]}, texts).flat.astype(np.float64)
    for one, other in combinations(slopes, 2):
        a, b = slopes[one], slopes[other]
        turned = [cosine(a @ rotation(a.shape[1], rng), b) for _ in range(DRAWS)]
        found = {"cosine": cosine(a, b), "rotated": float(np.mean(turned)), "fitted": fitted(a, b)}
        yield {"one": one, "other": other} | found


EXPERIMENT = Experiment(
    "full_code", "one code for full tuning and deltas", ("prefix", "adapter", "lora", FULL), predict, measure,
    weight=200.0, needs_other_tasks=True,
)  # fmt: skip
