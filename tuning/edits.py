"""What a delta does to one forward pass of a frozen model, and the forward pass that applies it.

A backbone is watched once, when it is loaded: each module of interest gets a hook that looks for a current
`Frame` and does nothing when there is none. A forward pass sets the frame for its own thread and clears it
afterwards, so edits nest, survive exceptions and never write to the model's parameters.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.func import functional_call

from tuning.packing import Packing

Maps = Mapping[str, tuple[Callable[..., Tensor], ...]]


@dataclass(frozen=True)
class Edits:
    """Everything a delta adds to one forward pass; an empty record is the frozen model.

    inputs:  {module path: functions x -> x} on what enters a linear map.
    outputs: {module path: functions (x, y) -> y} on what leaves it.
    ports:   {"block.site": functions (h, y) -> y}; h is the (normalised) sublayer input, y its output before
             the residual sum.
    prefix:  {block: (keys, values)}, each (length, key-value heads, head width), put in front of the
        attention ("block.cross": of that to an encoder's states); with a leading axis (B, ...), every example has its own.
    prompt:  (length, width) or (B, length, width) rows put in front of the token embeddings, or None.
    weights: {parameter name: tensor added to it}.
    shift:   how far the positions of the text are moved.
    closed:  the prefix and the prompt receive no attention, which is the point where they change nothing.
    """

    inputs: Maps = field(default_factory=dict)
    outputs: Maps = field(default_factory=dict)
    ports: Maps = field(default_factory=dict)
    prefix: Mapping[int | str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    prompt: Tensor | None = None
    weights: Mapping[str, Tensor] = field(default_factory=dict)
    shift: int = 0
    closed: bool = False

    @property
    def at_ports(self) -> bool:
        """Return whether they act on what leaves sublayers and nowhere else."""
        return self.prompt is None and not any((self.inputs, self.outputs, self.prefix, self.weights, self.shift, self.closed))

    @property
    def slots(self) -> int:
        """Return the number of prompt positions in front of the text."""
        return 0 if self.prompt is None else self.prompt.shape[-2]


def merge(parts: Iterable[Edits]) -> Edits:
    """Return the edits of several deltas at once: functions in order, prefixes and prompts joined, weights added."""
    functions: dict[str, dict[str, tuple]] = {"inputs": {}, "outputs": {}, "ports": {}}
    prefix: dict[int | str, tuple[Tensor, Tensor]] = {}
    weights: dict[str, Tensor] = {}
    prompts, shift, closed = [], 0, False
    for part in parts:
        for kind, table in functions.items():
            for place, added in getattr(part, kind).items():
                table[place] = table.get(place, ()) + tuple(added)
        for block, pair in part.prefix.items():
            old = prefix.get(block)
            prefix[block] = pair if old is None else tuple(torch.cat(two, -3) for two in zip(old, pair, strict=True))
        for name, change in part.weights.items():
            weights[name] = weights[name] + change if name in weights else change
        if part.prompt is not None:
            prompts.append(part.prompt)
        shift += part.shift
        closed = closed or part.closed
    prompt = torch.cat(prompts, -2) if prompts else None
    return Edits(**functions, prefix=prefix, prompt=prompt, weights=weights, shift=shift, closed=closed)


def noting(keys: Iterable[str], noted: dict[str, Tensor]) -> Edits:
    """Return edits that change nothing and note in a dict what stands at some places when they are reached."""

    def at(key: str) -> Callable:
        def edit(h: Tensor | None, y: Tensor) -> Tensor:
            noted[key] = y
            return y

        return edit

    return Edits(ports={key: (at(key),) for key in keys})


@dataclass
class Frame:
    """One forward pass: the edits, what to override, what to add, what to record, and the records.

    spoken: tokens (1, T) that a decoder beside an encoder reads instead of its start token.
    packed: the pass leaves padding out where it can (`packing` then says how); for edits that treat every token alike, and
    without overrides, signals and records.
    """

    model: nn.Module
    edits: Edits
    overrides: Mapping[str, Tensor] = field(default_factory=dict)
    signals: Mapping[str, Tensor] = field(default_factory=dict)
    record: bool = False
    record_keys: bool = False
    spoken: Tensor | None = None
    packed: bool = False
    packing: Packing | None = None
    served: bool = False
    inputs: dict[str, Tensor] = field(default_factory=dict)
    outputs: dict[str, Tensor] = field(default_factory=dict)
    entries: dict[str, Tensor] = field(default_factory=dict)
    keys: dict[int | str, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def text(self, x: Tensor) -> Tensor:
        """Return the rows that belong to the text, without the prompt in front of them."""
        return x[:, self.edits.slots :] if self.edits.slots else x


_FRAME: ContextVar[Frame | None] = ContextVar("frame", default=None)


def current(model: nn.Module | None = None) -> Frame | None:
    """Return the frame of the pass that runs in this thread (of this model, when one is given), or None."""
    frame = _FRAME.get()
    return frame if frame is not None and (model is None or frame.model is model) else None


@contextmanager
def framed(frame: Frame) -> Iterator[Frame]:
    """Set the frame for the enclosed forward pass and restore the one before it, whatever happens."""
    token = _FRAME.set(frame)
    try:
        yield frame
    finally:
        _FRAME.reset(token)


@dataclass(frozen=True)
class Watched:
    """What the hooks of one module are for.

    enters: the place (port, normalisation, final) whose input is this module's input.
    leaves: the place (those, and the embedding) whose output is this module's output.
    entry:  "input" or "output": which of the two the linear maps of the port `enters` read (a normalisation
            in front of a sublayer enters the port, and its output is what the sublayer reads); None
            elsewhere.
    word:   this is the word embedding.
    text:   its rows are the text's, behind a prompt; False in the decoder beside an encoder.
    """

    path: str
    enters: str | None = None
    leaves: str | None = None
    entry: str | None = None
    word: bool = False
    text: bool = True


def watch(model: nn.Module, places: Iterable[Watched]) -> None:
    """Attach the dormant hooks, once; they act only while a `Frame` of this very model is current."""
    if getattr(model, "watched_as", None) == id(model):
        return
    # A deep copy carries the mark of its original, whose hooks do not serve it.
    model.watched_as = id(model)
    for place in places:
        module = model.get_submodule(place.path)
        module.register_forward_pre_hook(_before(model, place))
        module.register_forward_hook(_after(model, place))


def _before(model: nn.Module, place: Watched) -> Callable:
    def hook(module: nn.Module, args: tuple) -> tuple | None:
        frame = current(model)
        if frame is None or not args or place.word:
            return None
        x, key = args[0], place.enters
        if key is not None:
            if key in frame.overrides:
                x = torch.cat([x[:, : frame.edits.slots if place.text else 0], frame.overrides[key]], dim=1)
            if frame.record:
                frame.inputs[key] = frame.text(x) if place.text else x
            if place.entry == "input":
                frame.entries[key] = x
        for edit in frame.edits.inputs.get(place.path, ()):
            x = edit(x)
        return (x, *args[1:])

    return hook


def _after(model: nn.Module, place: Watched) -> Callable:
    def hook(module: nn.Module, args: tuple, output):
        frame = current(model)
        if frame is None:
            return None
        frame.served = True
        y, key = output[0] if isinstance(output, tuple) else output, place.leaves
        for edit in frame.edits.outputs.get(place.path, ()):
            y = edit(args[0], y)
        if place.word and frame.edits.prompt is not None:
            prompt = frame.edits.prompt.to(y.dtype).expand(len(y), -1, -1)
            y = torch.cat([prompt, y[:, frame.edits.slots :]], dim=1)
        if place.entry == "output":
            frame.entries[place.enters] = y
        if key is not None:
            for edit in frame.edits.ports.get(key, ()):
                y = edit(frame.entries.get(key), y)
            if key in frame.signals:
                y = added(y, frame.signals[key])
            if frame.record:
                frame.outputs[key] = frame.text(y) if place.text else y
            if key == "memory":
                y = _crossing(frame, y)
        return (y, *output[1:]) if isinstance(output, tuple) else y

    return hook


def _crossing(frame: Frame, y: Tensor) -> Tensor:
    """Return what an encoder hands to the decoder, recorded, or overridden, as an input of the decoder's blocks."""
    if frame.record:
        frame.inputs["crossing"] = frame.text(y)
    return frame.overrides.get("crossing", y)


def spread(signal: Tensor) -> Tensor:
    """Return a signal of shape (d,), (B, d) or (B, T, d) in a shape that broadcasts over (B, T, d)."""
    return signal[:, None] if signal.ndim == 2 else signal


def added(y: Tensor, signal: Tensor) -> Tensor:
    """Return y (B, T, d) with a signal added; raises ValueError for one with more tokens than y has."""
    made = y + spread(signal)
    if made.shape != y.shape:
        raise ValueError(
            f"expected a signal that fits a port's output of shape {tuple(y.shape)}, got {tuple(signal.shape)}; in the "
            "decoder of an encoder-decoder every text has one token"
        )
    return made


# functional_call exchanges the model's tensors while it runs: one thread at a time may be inside a model.
LOCK = threading.RLock()


def call(frame: Frame, arguments: Mapping[str, Tensor]) -> Tensor:
    """Return the last hidden states (B, slots + T, d) of the frame's model under the frame's edits."""
    model, changes = frame.model, frame.edits.weights
    base = dict(model.named_parameters()) if changes else {}
    if unknown := sorted(set(changes) - set(base)):
        raise ValueError(
            f"expected edits of this backbone's parameters, got {unknown[0]!r}; use names from model.named_parameters()"
        )
    with LOCK, framed(frame):
        if changes:
            changed = {name: base[name] + change for name, change in changes.items()}
            states = functional_call(model, changed, (), dict(arguments)).last_hidden_state
        else:
            states = model(**arguments).last_hidden_state
    if not frame.served:
        raise ValueError("expected a model that was wrapped as a backbone, got a copy of one; wrap the copy")
    return states
