"""A task that a pretrained decoder does not know: full tuning, a prefix with more iterations, and LoRA as large as the prefix.

Source: Petrov, Torr and Bibi (ICLR 2024), sections 4 and 5.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from torch import Tensor

from tuning.deltas import Full, LoRA, Prefix
from tuning.symbolic import LENGTH, Recipe, distinct, pretrain, sequence_subject, sequences
from tuning.training import minibatch

from ...store import Record
from ..shared.linearisation import Linearisation, linearise
from ..shared.setting import Experiment, Setting
from ..shared.training import first

TESTED, CHOOSING, SAMPLE = 1024, 256, 24
RIDGE = 1e-5  # the linearised optimum's penalty, a share of the largest curvature: nearly none, which favours every arm


@dataclass(frozen=True)
class Protocol:
    """What is pretrained, the task that is new to it, and the three arms.

    A prefix of 5 slots and a rank-1 LoRA on both maps of every mlp train 10 d numbers per block each; `rank` scales both. All
    of an arm's learning rates are tried, and the one that is best on sequences of their own counts. The prefix gets `patience`
    times the steps of full tuning.
    """

    recipe: Recipe
    new: str
    steps: int
    batch_size: int = 48
    rank: int = 1
    patience: int = 10
    lora_patience: int = 10
    rates: Mapping[str, tuple[float, ...]] = field(default_factory=dict)


FOUR = ("ascending", "descending", "add-one", "add-two")
PROTOCOLS: Mapping[str, Protocol] = {
    "sorting": Protocol(
        Recipe(("ascending",)), "descending", steps=300, rates={"full": (3e-3,), "prefix": (3e-3, 3e-2), "lora": (3e-2,)}
    ),
    "histogram": Protocol(
        Recipe(FOUR, blocks=3, steps=1500),
        "histogram",
        steps=1500,
        batch_size=64,
        patience=2,
        lora_patience=2,
        rates={"full": (1e-3,), "prefix": (2e-2,), "lora": (1e-2,)},
    ),
}


def setting(name: str, seed: int) -> Setting:
    """Return the subjects of a protocol on its pretrained decoder, and sequences of the new task to train and to test on."""
    protocol = PROTOCOLS[name]
    frozen, readout = pretrain(protocol.recipe, seed)
    deltas = {"full": Full(), "prefix": Prefix(5 * protocol.rank), "lora": LoRA(protocol.rank, targets=("mlp",))}
    patience = {"full": 1, "prefix": protocol.patience, "lora": protocol.lora_patience}
    steps = {role: times * protocol.steps for role, times in patience.items()}
    test = sequences([protocol.new], TESTED, seed + 2000, held_out=True)
    return Setting(
        subjects={role: sequence_subject(frozen, delta, readout, seed) for role, delta in deltas.items()},
        train=sequences([protocol.new], max(steps.values()) * protocol.batch_size, seed + 1000),
        test=test,
        seed=seed,
        penalty=RIDGE,
        tolerance=0.0,
        evaluations=max(steps.values()),
        options={
            "steps": steps,
            "rates": protocol.rates,
            "batch_size": protocol.batch_size,
            "dev": sequences([protocol.new], CHOOSING, seed + 3000),
            "groups": distinct(test.tokens[:, :LENGTH]),
        },
    )


def _linear(subject, batch) -> Linearisation:
    """Return the response of every position's logits, one row of G per sequence and position."""
    lin = linearise(lambda params, part: subject.outputs(params, part).flatten(1), subject.initial, batch)
    rows, classes = batch.labels.numel(), lin.y0.shape[1] // batch.labels.shape[1]
    G, y0 = lin.G.reshape(rows, classes, -1), lin.y0.reshape(rows, classes)
    return replace(lin, G=G, y0=y0, labels=lin.labels.ravel())


def _sequence_share(outputs: np.ndarray, labels: Tensor) -> float:
    """Return the share of sequences whose every position has its largest logit at the label."""
    return float(np.mean((outputs.argmax(-1).reshape(labels.shape) == labels.numpy()).all(-1)))


def predict(setting: Setting) -> Record:
    """Return, from the frozen decoder alone, what the linearised optimum of prefix and LoRA would solve of the new task.

    y(z) ~ y0 + G z for every position of a few sequences, z* = argmin of mean cross-entropy plus a nearly vanishing penalty; its
    held-out sequence accuracy says whether the delta's first-order reach contains the task at all.
    """
    sample, test = (first(batch, SAMPLE) for batch in (setting.train, setting.test))
    record = {}
    for role in ("prefix", "lora"):
        subject = setting.subjects[role]
        lin, held_out = _linear(subject, sample), _linear(subject, test)
        control = lin.optimum(setting.penalty * float(lin.curvatures(lin.y0)[0]))
        outputs = held_out.y0 + held_out.G @ control.z
        record[role] = {
            "parameters": int(lin.G.shape[-1]),
            "train_loss": float(control.loss),
            "token_accuracy": float(np.mean(outputs.argmax(-1) == held_out.labels)),
            "accuracy": _sequence_share(outputs, test.labels),
        }
    full = setting.subjects["full"]
    return Record(record | {"frozen": float(full.solved(full.initial, setting.test).double().mean())}, {})


def measure(setting: Setting, predicted: Record) -> Record:
    """Return the share of held-out sequences that each arm solves after AdamW on the new task.

    The step size is the one that solves most of other sequences (`dev`). Beside it: every step size's own result, the share by group of sequences (how many different digits), parameters, steps.
    """
    arms = {role: _arm(setting, role) for role in setting.options["steps"]}
    return Record(arms | {"frozen": predicted.values["frozen"]}, {})


def _arm(setting: Setting, role: str) -> dict:
    subject, options = setting.subjects[role], setting.options
    steps, groups = options["steps"][role], options["groups"]
    tried = []
    for rate in options["rates"][role]:
        fitted = minibatch(
            subject, setting.train, steps=steps, batch_size=options["batch_size"], lr=rate, seed=setting.seed
        ).params
        solved = subject.solved(fitted, setting.test).double()
        by_group = {str(g): float(solved[groups == g].mean()) for g in groups.unique().tolist()}
        chosen_by = float(subject.solved(fitted, options["dev"]).double().mean())
        tried.append({"rate": float(rate), "accuracy": float(solved.mean()), "dev": chosen_by, "by_group": by_group})
    best = max(tried, key=lambda t: t["dev"])
    return {**best, "parameters": int(subject.size), "steps": int(steps), "tried": tried}


EXPERIMENT = Experiment(
    "symbolic",
    "a new symbolic task for a small pretrained decoder",
    ("full", "prefix", "lora"),
    predict,
    measure,
    weight=60.0,
    protocols=tuple(PROTOCOLS),
    make=setting,
)
