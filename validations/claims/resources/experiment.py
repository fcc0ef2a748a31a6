"""Steps of training on one backbone with texts of one length: memory and time of full tuning and of five deltas, by batch.

A step is the one of `tuning.training.adamw`, through the network as its library has it: the loss, its derivatives, AdamW. Memory is what
storages of torch hold at most above the loaded model, counted operation by operation. Time is CPU time on one thread, of steps that
take turns. Neither depends on what the texts say: they are cut from docstrings, and labels alternate.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from safetensors.torch import save
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tuning import tasks
from tuning.backbones import Backbone, Batch, features, load
from tuning.deltas import Adapter, BitFit, LoRA, Prefix, Prompt

from ...store import Record
from ..shared.setting import Experiment, Setting
from .counted import BOTTLENECK, DELTAS, FULL, RANK, SLOTS, Shape, activations, numbers, passes, peak, state

OPTIONS = (FULL, *DELTAS)
KINDS = {
    "lora": LoRA(rank=RANK),
    "adapter": Adapter(bottleneck=BOTTLENECK),
    "prefix": Prefix(length=SLOTS),
    "prompt": Prompt(length=SLOTS),
    "bitfit": BitFit(),
}
BATCHES = (1, 4, 16, 64)
LENGTHS = (24, 48, 96)
MOST = {"nano-2x64": 6144, "nano": 6144, "nano-4x192": 6144, "minilm": 1536}  # tokens of a batch, by backbone
ROUNDS, SHORTEST = 5, 0.02  # of steps in turn, and the seconds of CPU time that a sample takes at least
PROTOCOLS = {f"{name} {length} tokens": (name, length) for name in MOST for length in LENGTHS}


@dataclass(frozen=True)
class Network:
    """A backbone and texts of one length, as many as the largest batch has."""

    backbone: Backbone
    texts: Batch
    batches: tuple[int, ...]

    @property
    def shape(self) -> Shape:
        """Return what steps are counted from."""
        config, weights = self.backbone.model.config, sum(p.numel() for p in self.backbone.model.parameters())
        return Shape(
            config.num_hidden_layers, config.hidden_size, config.intermediate_size, config.num_attention_heads, weights,
            self.texts.tokens.shape[1],
        )  # fmt: skip

    def measured(self, batch: int) -> dict[str, dict]:
        """Return, for every option, the bytes of its second step above the loaded model, and the seconds of further ones."""
        texts = self.texts.chunks(batch)[0]
        steps = {option: Step.of(self.backbone, option, texts) for option in OPTIONS}
        peaks = {option: peak_of(step) for option, step in steps.items()}
        seconds = in_turn(steps)
        return {option: {"peak": peaks[option], "seconds": seconds[option]} for option in OPTIONS}

    def stored(self) -> dict[str, int]:
        """Return the bytes of every option's numbers as a safetensors file."""
        own = {option: kind.initial(self.backbone, 0) for option, kind in KINDS.items()}
        made = {FULL: dict(self.backbone.model.named_parameters())} | own
        return {option: len(save({k: v.detach().clone() for k, v in made[option].items()})) for option in OPTIONS}


@dataclass(frozen=True)
class Step:
    """One step of AdamW on the numbers of a delta, or on all weights of a network of its own, and on a head.

    own: bytes of the tuned numbers that are held besides the loaded model.
    """

    loss: Callable[[], Tensor]
    optimizer: torch.optim.Optimizer
    own: int

    @classmethod
    def of(cls, backbone: Backbone, option: str, texts: Batch) -> "Step":
        """Return the step of an option on a batch; full tuning trains a copy of the network's weights, the loaded model's."""
        params: dict[str, Tensor] = {}
        if option == FULL:
            backbone = load(backbone.name, device=str(backbone.device))
            tuned = [value.requires_grad_() for value in backbone.model.parameters()]
        else:
            params = {k: v.detach().clone().requires_grad_() for k, v in KINDS[option].initial(backbone, 0).items()}
            tuned = [*params.values()]
        head = [torch.zeros(size, device=backbone.device, requires_grad=True) for size in ((2, backbone.width), (2,))]

        def loss() -> Tensor:
            edits = KINDS[option].edits(backbone, params) if params else None
            return F.cross_entropy(F.linear(features(backbone, texts, edits), *head), texts.labels)

        optimizer = torch.optim.AdamW([*tuned, *head], lr=1e-4, fused=True)
        return cls(loss, optimizer, sum(value.nbytes for value in params.values()))

    def __call__(self) -> None:
        value = self.loss()
        self.optimizer.zero_grad()
        value.backward()
        self.optimizer.step()


class Held(TorchDispatchMode):
    """Counts the bytes of the storages that operations have made and that are still held, and the most of them at once."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[int, tuple[StorageWeakRef, int]] = {}
        self.most = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        taken = {x.untyped_storage()._cdata for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
        result = func(*args, **(kwargs or {}))
        for x in tree_leaves(result):
            if isinstance(x, Tensor) and (storage := x.untyped_storage())._cdata not in taken:
                self.found.setdefault(storage._cdata, (StorageWeakRef(storage), storage.nbytes()))
        self.found = {key: (ref, size) for key, (ref, size) in self.found.items() if not ref.expired()}
        self.most = max(self.most, sum(size for _, size in self.found.values()))
        return result


def peak_of(step: Step) -> int:
    """Return the most bytes that a step's second run holds above the loaded model, the first run's gradients and moments among them.

    On a GPU it is what its allocator says, which has workspaces too.
    """
    device = step.optimizer.param_groups[0]["params"][0].device
    if device.type == "cuda":
        step()
        before = torch.cuda.memory_allocated(device) - _kept(step)
        torch.cuda.reset_peak_memory_stats(device)
        step()
        return torch.cuda.max_memory_allocated(device) - before + step.own
    with Held() as held:
        step()
        held.most = 0
        step()
    return held.most + step.own


def _kept(step: Step) -> int:
    """Return the bytes of gradients and moments that a step leaves."""
    params = [value for group in step.optimizer.param_groups for value in group["params"]]
    moments = [value for own in step.optimizer.state.values() for value in own.values() if isinstance(value, Tensor)]
    return sum(value.nbytes for value in (*(p.grad for p in params if p.grad is not None), *moments))


def in_turn(steps: Mapping[str, Step]) -> dict[str, list[float]]:
    """Return CPU seconds of every step in `ROUNDS` rounds, in which they take turns from another one on; short ones are repeated."""
    count = {name: max(1, round(SHORTEST / max(_seconds(step, 1), 1e-6))) for name, step in steps.items()}
    names, found = [*steps], {name: [] for name in steps}
    for turn in range(ROUNDS):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            found[name].append(_seconds(steps[name], count[name]) / count[name])
    return found


def _seconds(step: Step, count: int) -> float:
    start = time.process_time()
    for _ in range(count):
        step()
    return time.process_time() - start


def setting(protocol: str, seed: int) -> Setting:
    """Return the network of a protocol with texts of its length; a seed changes nothing that is measured."""
    torch.set_num_threads(1)
    name, length = PROTOCOLS[protocol]
    backbone = load(name)
    batches = tuple(batch for batch in BATCHES if batch * length <= MOST[name])
    texts = cut(backbone, length, batches[-1])
    return Setting({"network": Network(backbone, texts, batches)}, texts, texts, seed, 1.0, 1.0, 1)


def cut(backbone: Backbone, length: int, count: int) -> Batch:
    """Return so many texts of exactly a length, in tokens, cut from the sentences of docstrings one after another."""
    task = tasks.load("docstring-section")
    words = backbone.tokenizer(" ".join(task.splits["train"].text_a), add_special_tokens=False, verbose=False)["input_ids"]
    tokens = torch.tensor(words[: count * length], device=backbone.device).view(count, length)
    return Batch(tokens, torch.ones_like(tokens, dtype=torch.bool), torch.arange(count, device=backbone.device) % 2)


def predict(setting: Setting) -> Record:
    """Return what is counted from shapes: the bytes of every option's step by batch, and its multiplications.

    Values are tables by option; those of bytes hold a number for every batch, as text.
    """
    network = setting.subjects["network"]
    shape = network.shape
    made = {
        option: {
            "numbers": numbers(shape, option),
            "state": state(shape, option),
            "passes": passes(shape, option),
            "peak": {str(batch): peak(shape, option, batch) for batch in network.batches},
            "activations": {str(batch): activations(shape, option, batch) for batch in network.batches},
        }
        for option in OPTIONS
    }
    return Record({"model": shape.model, "batches": list(network.batches), "options": made}, {})


def measure(setting: Setting, predicted: Record) -> Record:
    """Return the bytes and the CPU seconds of every option's steps by batch, and the bytes of its numbers on disk."""
    network = setting.subjects["network"]
    steps = {str(batch): network.measured(batch) for batch in predicted.values["batches"]}
    return Record({"steps": steps, "stored": network.stored()}, {})


EXPERIMENT = Experiment(
    "resources", "what a step of training takes", ("network",), predict, measure,
    weight=60.0, protocols=tuple(PROTOCOLS), make=setting,
)  # fmt: skip
