"""Decoders of one code into several deltas, found on other tasks, and what a code reaches on a task that they never saw."""

from collections.abc import Iterator, Mapping
from itertools import permutations
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tuning.decomposition import Decoder, Decomposition, InCode, Solved, decompose, principal, random_decoders
from tuning.practice import Practised, Recipe, practised, scores

from ...store import Record
from ..practice.experiment import recipe_of
from ..shared.setting import Experiment, Setting, own_rng, own_seed

SOURCES, DIMENSIONS, TESTED = 4, (1, 4, 16), 4
DRAWS = 4  # rotations of a code


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


def trained(setting: Setting, delta: str) -> Practised:
    """Return one of a setting's deltas tuned as in practice; its rates are its own where the option `rates` is a table by delta."""
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


def predict(setting: Setting) -> Record:
    """Return the decoders found on other tasks, for every dimension, with the codes of their own deltas, and principal ones.

    Every delta is tuned on every source; of the task itself only how the frozen network does on held-out text is read. Options:
    dev, sources, dimensions, tested (the dimension of nulls and rivals), joint_steps and joint_rate of the decomposition,
    code_steps and code_rates, and those of `tuning.practice.Recipe`, with rates by delta where they are a table.
    """
    check_options(setting, "joint_steps", "joint_rate", "code_steps", "code_rates")
    options, sources = setting.options, _sources(setting)
    tasks = {
        delta: [Solved(source.subjects[delta], trained(source, delta).params, source.train) for source in sources]
        for delta in setting.subjects
    }
    arrays, tested = {}, options.get("tested", TESTED)
    for d in sorted({*options.get("dimensions", DIMENSIONS), tested}):
        found = decompose(tasks, d, steps=options["joint_steps"], rate=options["joint_rate"], seed=own_seed(setting, 239, d))
        arrays |= _packed(f"learned {d}", found)
        if d == tested:
            arrays |= {
                f"codes/{delta}": np.stack([_numbers(found.encode(delta, one.displacement)) for one in solved])
                for delta, solved in tasks.items()
            }
    arrays |= _packed("principal", principal(tasks, tested))
    frozen = {name: told(*scores(one, one.initial, setting.test)) for name, one in setting.subjects.items()}
    return Record({"sources": len(sources), "frozen": frozen, "majority": majority(setting.test)}, arrays)


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
    sources. Rival: the principal decoders of the same deltas.
    """
    a, tested = predicted.arrays, setting.options.get("tested", TESTED)
    learned = {d: _decoders(setting, a, f"learned {d}") for d in sorted({*setting.options.get("dimensions", DIMENSIONS), tested})}
    encoders = dict.fromkeys(setting.subjects, torch.zeros(0))
    random = random_decoders(Decomposition(learned[tested], encoders), own_seed(setting, 257))
    arms = [("learned", d, decoders) for d, decoders in learned.items()]
    arms += [("random", tested, random), ("principal", tested, _decoders(setting, a, "principal"))]
    optimised, codes = [], {}
    for arm, d, decoders in arms:
        for delta, decoder in decoders.items():
            reached, code = inside(setting, delta, decoder)
            optimised.append({"arm": arm, "dimension": d, "delta": delta} | reached)
            if (arm, d) == ("learned", tested):
                codes[delta] = code
    own = {delta: trained(setting, delta) for delta in setting.subjects}
    return Record(
        {
            "full": {delta: told(run.chosen.loss, run.chosen.accuracy) | {"at_edge": run.at_edge} for delta, run in own.items()},
            "optimised": optimised,
            "transferred": list(_transferred(setting, learned[tested], codes, a)),
        },
        {f"code/{delta}": _numbers(code) for delta, code in codes.items()},
    )


def _transferred(
    setting: Setting, decoders: Mapping[str, Decoder], codes: Mapping[str, Tensor], arrays: Mapping[str, np.ndarray]
) -> Iterator[dict]:
    """Yield what every delta reaches by every other one's code, by that code rotated, and by the sources' codes."""
    rng = own_rng(setting, 263)

    def reached(delta: str, code: Tensor) -> dict[str, float]:
        one = InCode(setting.subjects[delta], decoders[delta])
        return told(*scores(one, {"code": code}, setting.test))

    for one, other in permutations(setting.subjects, 2):
        code = codes[one]
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
