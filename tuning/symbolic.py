"""Tasks on short sequences of digits, and a small decoder trained on them from scratch: sorting, adding, counting.

The protocol of Petrov, Torr and Bibi (ICLR 2024): ten digits are followed by their image under a task, the decoder predicts
the image token by token, and a sequence counts as solved when all ten tokens are right. The decoder is an ordinary backbone,
so every delta acts on it through the code that it acts on a language model with.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import GPT2Config, GPT2Model

from tuning.backbones import Backbone, Batch, wrap
from tuning.deltas import Full
from tuning.subjects import READOUT_PARAMETERS, Params, Readout, Subject, subject
from tuning.training import minibatch

DIGITS, LENGTH = 8, 10
VOCABULARY = LENGTH + 1  # digits are 1..8, adding two gives 10, counts reach 10; token 0 is never used


def counts(digits: Tensor) -> Tensor:
    """Return how often each element of a sequence occurs in it, (B, n) for digits (B, n)."""
    return (digits[:, :, None] == digits[:, None, :]).sum(-1)


def distinct(digits: Tensor) -> Tensor:
    """Return the number of different digits in each sequence, (B,) for digits (B, n)."""
    return F.one_hot(digits, DIGITS + 1).amax(1).sum(-1)


TASKS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "ascending": lambda x: x.sort(-1).values,
    "descending": lambda x: x.sort(-1, descending=True).values,
    "add-one": lambda x: x + 1,
    "add-two": lambda x: x + 2,
    "ascending-add-one": lambda x: x.sort(-1).values + 1,
    "histogram": counts,  # what the paper calls the double histogram
}


def sequences(tasks: Sequence[str], size: int, seed: int, *, held_out: bool = False) -> Batch:
    """Return `size` sequences of ten digits with their images under the tasks, taken in turn; labels are the images (size, 10).

    tokens are x_1 .. x_10, y_1 .. y_9, (size, 19), and position 9 + k is to predict y_k: all of them right under these true
    tokens is the same event as greedy generation being right. Nothing in the tokens names the task. Digits are uniform on
    1..8, but with probability 1/2 a sequence of more than 5 different ones is drawn anew. A quarter of all sequences, those
    whose checksum sum_i (2 i + 1) x_i is divisible by 4, is never trained on; `held_out` draws from it. Raises ValueError for
    an unknown task and for no task or sequence.
    """
    if unknown := sorted(set(tasks) - set(TASKS)):
        raise ValueError(f"expected tasks among {', '.join(TASKS)}, got {unknown[0]!r}")
    if not tasks or size < 1:
        raise ValueError(f"expected at least one task and one sequence, got {list(tasks)} and {size}")
    generator = torch.Generator().manual_seed(seed)
    kept, found = [], 0
    while found < size:
        digits = torch.randint(1, DIGITS + 1, (4 * size, LENGTH), generator=generator)
        any_will_do = torch.rand(len(digits), generator=generator) < 0.5
        checksum = (digits * (2 * torch.arange(LENGTH) + 1)).sum(-1) % 4
        kept.append(digits[(any_will_do | (distinct(digits) <= LENGTH // 2)) & ((checksum == 0) == held_out)])
        found += len(kept[-1])
    digits = torch.cat(kept)[:size]
    image = torch.empty_like(digits)
    for turn, task in enumerate(tasks):
        image[turn :: len(tasks)] = TASKS[task](digits[turn :: len(tasks)])
    tokens = torch.cat([digits, image[:, :-1]], dim=1)
    return Batch(tokens, torch.ones_like(tokens, dtype=torch.bool), image)


@dataclass(frozen=True, eq=False)
class SequenceSubject(Subject):
    """A subject that predicts a whole sequence: outputs (B, n, V) at the last n positions for labels (B, n)."""

    def _read(self, states: Tensor, batch: Batch, delta: Params) -> Tensor:
        weight = delta.get("readout.weight", self.readout.weight)
        bias = delta.get("readout.bias", self.readout.bias)
        return F.linear(states[:, -batch.labels.shape[1] :], weight, bias)

    def loss(self, delta: Params, batch: Batch, *, packed: bool = False) -> Tensor:
        """Return the mean cross-entropy over sequences and positions; `packed` as in `Subject.outputs`."""
        return F.cross_entropy(self.outputs(delta, batch, packed=packed).flatten(0, 1), batch.labels.flatten())

    def solved(self, delta: Params, batch: Batch) -> Tensor:
        """Return which sequences are right at every position, (B,) bool."""
        with torch.no_grad():
            return (self.outputs(delta, batch).argmax(-1) == batch.labels).all(-1)

    def accuracy(self, delta: Params, batch: Batch) -> float:
        """Return the share of sequences that are right at every position."""
        return self.solved(delta, batch).double().mean().item()


def sequence_subject(backbone: Backbone, delta: object, readout: Readout, seed: int) -> SequenceSubject:
    """Return the subject on whole sequences; `Full` tunes the readout too, every other delta leaves it frozen."""
    whole = isinstance(delta, Full) and delta.patterns == ("*",)
    made = subject(backbone, delta, readout, seed, train_readout=whole)
    return SequenceSubject(backbone, delta, readout, made.initial, seed)


@dataclass(frozen=True)
class Recipe:
    """How a decoder is made: its size, the tasks it is pretrained on in equal parts, and that training."""

    tasks: tuple[str, ...]
    blocks: int = 1
    width: int = 64
    heads: int = 4
    steps: int = 600
    batch_size: int = 64
    lr: float = 3e-3

    def model(self, seed: int) -> GPT2Model:
        """Return the decoder with random weights."""
        config = GPT2Config(
            vocab_size=VOCABULARY,
            n_positions=2 * LENGTH,
            n_embd=self.width,
            n_layer=self.blocks,
            n_head=self.heads,
            activation_function="gelu_pytorch_tanh",
            bos_token_id=0,
            eos_token_id=0,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return GPT2Model(config)


def pretrain(recipe: Recipe, seed: int) -> tuple[Backbone, Readout]:
    """Return the decoder trained from scratch as its recipe says, frozen, and its readout over the vocabulary.

    It is trained as a full delta on its own random start. With several tasks it learns to answer any of them and, as nothing
    names the task, draws the first token from their mixture.
    """
    start = wrap(recipe.model(seed), name=f"digits-{seed}-untrained")
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(VOCABULARY, recipe.width, generator=generator) * start.model.config.initializer_range
    whole = sequence_subject(start, Full(), Readout(weight, torch.zeros(VOCABULARY)), seed)
    data = sequences(recipe.tasks, recipe.steps * recipe.batch_size, seed)
    found = minibatch(whole, data, steps=recipe.steps, batch_size=recipe.batch_size, lr=recipe.lr, seed=seed).params
    changes = whole.delta.weight_changes(start, {k: v for k, v in found.items() if k not in READOUT_PARAMETERS})
    weights = {name: value + changes[name] for name, value in start.model.named_parameters()}
    trained = recipe.model(seed)
    trained.load_state_dict(weights)
    return wrap(trained, name=f"digits-{seed}"), Readout(*(found[name] for name in READOUT_PARAMETERS))
