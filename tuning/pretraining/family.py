"""The nano family: students of four sizes and of five stages of pretraining, all made by one recipe."""

import itertools
import json
import math
import pathlib

import numpy as np
import torch

from tuning.pretraining.distillation import Recipe, loaded, student
from tuning.pretraining.evaluation import TASKS, accuracies, worth
from tuning.shipped import CHECKPOINTS, MEMBERS, folder_of

STEPS, SHARDS = 3200, 8


def students(work: pathlib.Path, seed: int, *, steps: int, device: str = "cpu") -> None:
    """Write nano-family/NAME/, configuration and weights in float16, of every member that is trained, the smallest first.

    Members differ in blocks and width alone. The tokenizer is nano's and is not repeated.
    """
    for name, (layers, width) in MEMBERS.items():
        kept = tuple(step for checkpoint, step in CHECKPOINTS.items() if checkpoint.startswith(f"{name}-step-"))
        student(work, Recipe(name, layers, width, steps, seed, shards=SHARDS, kept=kept), folder_of("nano"), device)
        for made in (name, *(f"{name}-step-{step}" for step in kept)):
            model, _ = loaded(work / made)
            model.pooler = None  # which the library draws at random where a file has none
            model.to(torch.float16).save_pretrained(work / "nano-family" / made)


def evaluate(work: pathlib.Path, tasks: pathlib.Path) -> dict:
    """Write family.json and nano-family/CARD.md: what frozen features are worth by size and by step."""
    folders = {name: work / "nano-family" / name for name in (*MEMBERS, *CHECKPOINTS)} | {"nano": folder_of("nano")}
    reader = folder_of("nano")
    reached = {name: accuracies(work, name, *loaded(folder, reader), tasks) for name, folder in folders.items()}
    reached["minilm"] = accuracies(work, "minilm", *loaded(folder_of("minilm")), tasks)
    result = {
        "worth": reached,
        "students": {name: json.loads((work / f"{name}.json").read_text(encoding="utf-8")) for name in MEMBERS},
        "numbers": {name: _numbers(folder) for name, folder in folders.items()},
        "bytes": {name: (folder / "model.safetensors").stat().st_size for name, folder in folders.items()},
        "text": json.loads((work / "text.json").read_text(encoding="utf-8")),
    }
    (work / "family.json").write_text(json.dumps(result, indent=1), encoding="utf-8")
    (work / "nano-family" / "CARD.md").write_text(card(result), encoding="utf-8")
    return result


def _numbers(folder: pathlib.Path) -> int:
    """Return how many weights the file of a folder holds."""
    from safetensors import safe_open

    with safe_open(folder / "model.safetensors", framework="numpy") as weights:
        return sum(math.prod(weights.get_slice(name).get_shape()) for name in weights.keys())  # noqa: SIM118


CARD = """\
# The nano family

BERT encoders of four sizes, and one of them at five stages of its pretraining, made from scratch by one recipe
(`python -m tuning.pretraining WORK --family`), so that facts about delta tuning can be followed over size and over
pretraining. They share nano's vocabulary of 8000 entries (`tuning/nano/tokenizer.json`), its 128 positions and its heads of
width 32; feed-forward layers are four times as wide as the model. Load them by name: `costate.load("nano-2x64")`,
`--backbone nano-2x64-step-100`. Weights are stored in float16 and computed with in float32. nano itself has the shape of
nano-4x128 and another recipe: a warm start, more text and four times the steps.

| name | blocks | width | numbers | weights, MB | step |
|---|---|---|---|---|---|
{shapes}

With nano {total:.1f} MB of weights are shipped.

## How

Text and teacher are nano's (see its card; {lines:,} lines made anew, for the docstrings follow the installed packages), of
which the first {sentences:,} were read. Loss 1 - cosine + 4 x mean squared error of the batch's similarity matrix, through a
linear map to the teacher's 384 numbers; {steps:,} AdamW steps of {batch} sentences ({millions:.2f} M examples), one-cycle
learning rate with peak {peak:g}, matrix products in bfloat16, seed {seed}, one run a member. Every weight starts at random, the
token embeddings too. All members see the same batches in the same order. The schedule follows the steps, so the same text,
processor and library versions give the same weights: {minutes:.0f} minutes for the four members on a share of one core. Losses at
the end: {losses}.

The rate is nano's. In short runs with another seed, judged by the loss alone, nano-2x64 learnt a little faster at twice that rate
(0.506 against 0.531 after 800 steps), at which nano-4x192 did not learn (3.3 against 1.3 after 200). The learning rate of a
checkpoint between has not come down yet: it is nano-2x64 on its way, not a run of so many steps.

## Reaches

Accuracy of logistic regression on frozen features, measured as in nano's card (first 1000 training and 500 test rows; the
half-width of a 95 % interval is 0.03 to 0.04 for one task, about {half:.2f} for the mean share: neighbours that are less apart
are not told from each other). Share = (model - majority) / (MiniLM - majority), averaged over the tasks.

| model | {heads} | mean share |
|---|{rules}---|
{worth}

{order}

## Limits

Those of nano. One seed a member: a difference between two members is that of two runs. Trained for few steps, so that one
processor makes them all within an hour; `--steps` trains longer. nano-2x64-step-0 has learnt nothing, on purpose: its features
are worth what random ones are.
"""


def card(result: dict) -> str:
    """Return the family's model card: shapes, how it was made, what it reaches by size and by step."""
    logs = result["students"]
    log = next(iter(logs.values()))
    steps = {name: log["steps"] for name in MEMBERS} | CHECKPOINTS
    shapes = []
    for name, step in steps.items():
        blocks, width = MEMBERS[name.partition("-step-")[0]]
        weights = result["bytes"][name] / 1e6
        shapes.append(f"| {name} | {blocks} | {width} | {result['numbers'][name]:,} | {weights:.2f} | {step:,} |")
    reached, reference = result["worth"], result["worth"]["minilm"]
    shares = {name: float(np.mean([worth(rows[task], reference[task]) for task in TASKS])) for name, rows in reached.items()}
    pretrained = [*CHECKPOINTS, "nano-2x64"]
    lines = [f"| majority | {' | '.join(format(reference[task]['majority'], '.3f') for task in TASKS)} | 0.00 |"]
    for name in (*pretrained, *(other for other in MEMBERS if other != "nano-2x64"), "nano", "minilm"):
        cells = " | ".join(format(reached[name][task]["accuracy"], ".3f") for task in TASKS)
        lines.append(f"| {name} | {cells} | {shares[name]:.2f} |")
    errors = [_error(reached["nano-2x64"][task], reference[task]) for task in TASKS]
    return CARD.format(
        **{key: log[key] for key in ("sentences", "steps", "batch", "peak", "seed")},
        shapes="\n".join(shapes),
        total=sum(result["bytes"].values()) / 1e6,
        lines=sum(result["text"].values()),
        millions=log["examples"] / 1e6,
        minutes=sum(one["seconds"] for one in logs.values()) / 60,
        losses=", ".join(f"{one['loss']:.3f} ({name})" for name, one in logs.items()),
        heads=" | ".join(TASKS),
        rules="---|" * len(TASKS),
        worth="\n".join(lines),
        half=1.96 * float(np.sqrt(np.sum(np.square(errors)))) / len(TASKS),
        order=_order("size", [shares[name] for name in MEMBERS]) + "\n" + _order("step", [shares[name] for name in pretrained]),
    )


def _error(row: dict, reference: dict, rows: int = 500) -> float:
    """Return the standard error of a share from so many test rows, the reference taken as it is."""
    return float(np.sqrt(row["accuracy"] * (1 - row["accuracy"]) / rows)) / (reference["accuracy"] - reference["majority"])


def _order(what: str, shares: list[float]) -> str:
    """Return in a sentence whether the mean share rises along a row of models."""
    falls = sum(later <= earlier for earlier, later in itertools.pairwise(shares))
    said = "rises at every place" if not falls else f"does not rise at {falls} of {len(shares) - 1} places"
    return f"By {what} the mean share {said} in the row: {', '.join(f'{share:.3f}' for share in shares)}."
