"""The model under study: a frozen backbone, a delta and a readout as pure functions of the delta."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tuning.backbones import Backbone, Batch, features, frame, hidden, pool, wrap
from tuning.edits import Edits, Frame, added, merge, noting

Params = dict[str, Tensor]
READOUT_PARAMETERS = ("readout.weight", "readout.bias")
HEAD_C = 0.03  # scikit-learn's inverse penalty of every frozen head of the lab, on standardised features


@dataclass(frozen=True)
class Readout:
    """The linear map from features x to logits: weight (C, d), bias (C,).

    x is the pooled state, or, with `first` = (D (d, d), b (d,), "tanh" or "relu"), the layer act(D h + b) on the
    state h of the first token, as classifiers of the BERT family have it.
    """

    weight: Tensor
    bias: Tensor
    first: tuple[Tensor, Tensor, str] | None = None

    def features(self, backbone: Backbone, states: Tensor, mask: Tensor) -> Tensor:
        """Return what the linear map reads, (B, d), of last states (B, T, d) and their mask."""
        if self.first is None:
            return pool(backbone, states, mask)
        weight, bias, activation = self.first
        return {"tanh": torch.tanh, "relu": torch.relu}[activation](F.linear(states[:, 0], weight, bias))

    @property
    def classes(self) -> int:
        """Return the number of classes C."""
        return len(self.bias)


@dataclass(frozen=True)
class Rollout:
    """One tuned forward pass, place by place; keys are "block.site", and others listed at `Subject.rollout`.

    inputs:  the sublayer's input h on the tuned trajectory, (B, T, d), before the normalisation that opens
        the sublayer.
    base:    what the frozen sublayer makes of that input, f(h).
    signals: u = G(h, delta) - f(h), what the delta adds there.
    outputs: the logits (B, C).
    """

    inputs: dict[str, Tensor]
    base: dict[str, Tensor]
    signals: dict[str, Tensor]
    outputs: Tensor


@dataclass(frozen=True)
class Feedback:
    """The Jacobian du/dh of a port's signal in the sublayer's input, an operator on (B, T, d) tensors."""

    matvec: Callable[[Tensor], Tensor]
    rmatvec: Callable[[Tensor], Tensor]
    shape: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Subject:
    """A frozen backbone with a delta and a readout; methods are pure functions of `delta`, a dict.

    `initial` holds the delta's starting values (drawn with `seed`), and the readout's when it is trained with
    the delta.
    """

    backbone: Backbone
    delta: object
    readout: Readout
    initial: Params = field(repr=False)
    seed: int = 0

    @property
    def size(self) -> int:
        """Return how many numbers are trained."""
        return sum(value.numel() for value in self.initial.values())

    @property
    def ports(self) -> tuple[str, ...]:
        """Return the keys of the backbone's ports, in the order of the forward pass."""
        return tuple(port.key for port in self.backbone.ports)

    @property
    def width(self) -> int:
        """Return the width d of a state and of a signal."""
        return self.backbone.width

    @property
    def dtype(self) -> torch.dtype:
        """Return the precision of delta, head and logits: that of the backbone's weights, float32 at least."""
        return self.backbone.fine

    def with_readout(self) -> Subject:
        """Return the subject whose readout is trained with the delta, from where it stands."""
        own = dict(zip(READOUT_PARAMETERS, (self.readout.weight.clone(), self.readout.bias.clone()), strict=True))
        return replace(self, initial=self.initial | own)

    def edits(self, delta: Params) -> Edits:
        """Return what the delta does to a forward pass."""
        own = {k: v for k, v in delta.items() if k not in READOUT_PARAMETERS}
        return self.delta.edits(self.backbone, self._coarse(own))

    def _coarse(self, numbers: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Numbers as a backbone in half precision takes them; any other takes them as they are."""
        coarse = self.backbone.dtype
        return dict(numbers) if coarse == self.dtype else {name: value.to(coarse) for name, value in numbers.items()}

    def _fine(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {k: v.to(torch.promote_types(v.dtype, self.dtype)) for k, v in values.items()}

    def _read(self, states: Tensor, batch: Batch, delta: Params) -> Tensor:
        weight = delta.get("readout.weight", self.readout.weight)
        bias = delta.get("readout.bias", self.readout.bias)
        states = states.to(torch.promote_types(states.dtype, self.dtype))
        return F.linear(self.readout.features(self.backbone, states, batch.mask), weight, bias)

    def outputs(self, delta: Params, batch: Batch, *, packed: bool = False) -> Tensor:
        """Return the logits (B, C); `packed` leaves padding out of the pass, for first derivatives by backward sweeps only."""
        states = hidden(self.backbone, batch, frame(self.backbone, self.edits(delta), packed=packed))
        return self._read(states, batch, delta)

    def loss(self, delta: Params, batch: Batch, *, packed: bool = False) -> Tensor:
        """Return the mean cross-entropy of the batch; `packed` as in `outputs`."""
        return F.cross_entropy(self.outputs(delta, batch, packed=packed), batch.labels)

    def accuracy(self, delta: Params, batch: Batch) -> float:
        """Return the share of examples whose largest logit is the label's."""
        with torch.no_grad():
            return (self.outputs(delta, batch).argmax(-1) == batch.labels).double().mean().item()

    def rollout(self, delta: Params, batch: Batch, disturbance: Mapping[str, Tensor] | None = None) -> Rollout:
        """Return inputs, frozen outputs, signals and logits along the tuned trajectory, under a `disturbed` one if given.

        u_t = G_t(h_t, delta) - f_t(h_t) at every port. A delta that also changes a normalisation after a
        residual sum, the embeddings or the last normalisation has signals there too, under
        "block.attention_norm", "block.mlp_norm", "embedding" and "final" (of an encoder-decoder also "memory", the
        encoder's last normalisation, and "start", the decoder's embedding), so that the signals always say
        everything the delta does. f(h) is what a delta that acts on sublayer outputs alone is given there; else it comes from
        a second, frozen pass in which every sublayer is fed the recorded input. A disturbance is part of it. Differentiable in
        `delta` and `disturbance`.
        """
        edits, pushes = self.edits(delta), _pushes(self._coarse(disturbance or {}))
        base: dict[str, Tensor] = {}
        heard = [noting(self.ports, base)] if edits.at_ports else []
        tuned = frame(self.backbone, merge([pushes, *heard, edits]), record=True)
        states = hidden(self.backbone, batch, tuned)
        places = [*self.ports, *self._changed(edits, tuned)]
        if not heard:
            replay = frame(self.backbone, pushes, overrides=tuned.inputs, record=True)
            hidden(self.backbone, batch, replay)
            base = replay.outputs
        return Rollout(
            inputs=self._fine({key: tuned.inputs[key] for key in places if key in tuned.inputs}),
            base=self._fine({key: base[key] for key in places}),
            signals=self._fine({key: tuned.outputs[key] - base[key] for key in places}),
            outputs=self._read(states, batch, delta),
        )

    def _changed(self, edits: Edits, tuned: Frame) -> list[str]:
        """Return the places other than ports at which the edits act directly."""
        found = ["embedding"] if edits.shift and self.backbone.layout.first_position is not None else []
        for name in edits.weights:
            key = self.backbone.key_of(name)
            block, _, rest = key.partition(".")
            site, _, what = rest.partition(".")
            place = block if not block.isdigit() else f"{block}.{site}_norm" if what.startswith("norm.") else ""
            # One embedding serves both stacks of an encoder-decoder.
            found += [p for p in (place, "start" if place == "embedding" else "") if p in tuned.outputs and p not in found]
        return found

    def energy(self, delta: Params, batch: Batch) -> Tensor:
        """Return the mean over examples of the sum over places of the mean over real tokens of |u|^2; differentiable."""
        return self._energy(self.rollout(delta, batch), batch)

    @staticmethod
    def _energy(rolled: Rollout, batch: Batch) -> Tensor:
        return sum(place_energy(signal, batch.mask) for signal in rolled.signals.values())

    def priced_loss(self, delta: Params, batch: Batch, price: float, disturbance: Mapping[str, Tensor] | None = None) -> Tensor:
        """Return the mean cross-entropy plus price/2 times the energy, from one rollout."""
        rolled = self.rollout(delta, batch, disturbance)
        return F.cross_entropy(rolled.outputs, batch.labels) + price / 2 * self._energy(rolled, batch)

    def steered(self, signals: Mapping[str, Tensor], batch: Batch) -> Tensor:
        """Return the logits (B, C) of the frozen backbone with signals (d,), (B, d) or (B, T, d) added at places."""
        places = {port.key for port in self.backbone.ports} | {"embedding", "final"}
        if self.backbone.layout.norms is not None:
            places |= {f"{port.key}_norm" for port in self.backbone.ports}
        if self.backbone.layout.second is not None:
            places |= {"memory", "start"}
        unknown = sorted(set(signals) - places)
        if unknown:
            raise ValueError(f"expected signals at ports such as {self.backbone.ports[0].key!r}, got {unknown[0]!r}")
        run = frame(self.backbone, signals=self._coarse(signals))
        return self._read(hidden(self.backbone, batch, run), batch, {})

    def disturbed(self, disturbance: Mapping[str, Tensor], delta: Params, batch: Batch) -> Tensor:
        """Return the tuned logits (B, C) with vectors added to sublayer outputs before the delta sees them.

        They are (d,), (B, d) or, without a prompt, (B, T, d).
        """
        edits = merge([_pushes(self._coarse(disturbance)), self.edits(delta)])
        return self._read(hidden(self.backbone, batch, frame(self.backbone, edits)), batch, delta)

    def gain(self, delta: Params, port: str, base: Tensor, mask: Tensor) -> Tensor:
        """Return the mean over real tokens of d pi / d y (d, d) at the sublayer output y = `base`.

        pi is what the delta adds at the port to what the sublayer puts out. Zero for a delta that does not
        read the sublayer's output there.
        """
        mask = mask[:, : base.shape[1]]  # of a decoder beside an encoder there is one token, and every text has one
        weight = mask.to(base.dtype)[..., None] / mask.sum()

        def added(shift: Tensor) -> Tensor:
            y = moved = (base + shift).to(self.backbone.dtype)
            for edit in self.edits(delta).ports.get(port, ()):
                moved = edit(base, moved)
            return ((moved - y).to(base.dtype) * weight).sum((0, 1))

        return torch.func.jacrev(added)(torch.zeros_like(base[0, 0]))

    def shuffled(self, seed: int) -> Subject:
        """Return the subject on a copy of its network whose weight matrices each have their entries permuted.

        A null: sizes and statistics of the weights stay, what they have learnt goes. Delta and readout stay too.
        """
        model = copy.deepcopy(self.backbone.model)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for weight in model.parameters():
                if weight.ndim > 1:
                    order = torch.randperm(weight.numel(), generator=generator).to(weight.device)
                    weight.copy_(weight.flatten()[order].view_as(weight))
        name = f"{self.backbone.name}, shuffled"
        return replace(self, backbone=wrap(model, self.backbone.tokenizer, name=name))

    def weight_changes(self, delta: Params) -> Params:
        """Return {short weight name: change} for a delta that is a change of the backbone's weights."""
        changes = self.delta.weight_changes(self.backbone, delta)
        return {self.backbone.key_of(name): change for name, change in changes.items()}

    def feedback(self, delta: Params, batch: Batch, port: str) -> Feedback:
        """Return du/dh at one port on the tuned trajectory, h the input of that sublayer at all real positions.

        v -> J v by forward mode, w -> J' w by one reverse sweep, both (B, T, d) -> (B, T, d). An open-loop
        delta (a bias at the port) has J = 0.
        """
        edits = self.edits(delta)
        tuned = frame(self.backbone, edits, record=True)
        with torch.no_grad():
            hidden(self.backbone, batch, tuned)
        if port not in tuned.inputs:
            raise ValueError(f"expected a port such as {self.backbone.ports[0].key!r}, got {port!r}")

        def signal(h: Tensor) -> Tensor:
            made = []
            for chosen in (edits, Edits()):
                run = frame(self.backbone, chosen, overrides=self._coarse({port: h}), record=True)
                hidden(self.backbone, batch, run)
                made.append(run.outputs[port])
            return (made[0] - made[1]).to(h.dtype)

        at = self._fine({port: tuned.inputs[port].detach()})[port]
        _, pull = torch.func.vjp(signal, at)
        return Feedback(
            matvec=lambda v: torch.func.jvp(signal, (at,), (v,))[1],
            rmatvec=lambda w: pull(w)[0],
            shape=tuple(at.shape),
        )


def _pushes(disturbance: Mapping[str, Tensor]) -> Edits:
    """Return vectors (d,), (B, d) or (B, T, d) added to sublayer outputs."""
    return Edits(ports={key: (lambda h, y, w=w: added(y, w),) for key, w in disturbance.items()})


def place_energy(signal: Tensor, mask: Tensor) -> Tensor:
    """Return the mean over examples of the mean over real tokens of |u|^2, for one signal (B, T, d)."""
    real = mask.to(signal.dtype)
    return ((signal.square().sum(-1) * real).sum(-1) / real.sum(-1)).mean()


def check_labels(labels: Tensor, classes: int) -> None:
    """Raise ValueError when a label lies outside 0 ... classes - 1."""
    outside = labels[(labels < 0) | (labels >= classes)]
    if len(outside):
        raise ValueError(f"expected labels between 0 and {classes - 1}, got {int(outside[0])}; check the task's classes")


def fit_readout(backbone: Backbone, batch: Batch, classes: int, *, C: float = HEAD_C) -> Readout:
    """Return the multinomial logistic regression on standardised frozen features, folded into one weight and bias.

    W z + b with z = (x - mean) / sd is returned as W / sd and b - W (mean / sd), the logits shifted to mean
    zero over classes; C is scikit-learn's inverse penalty. Raises ValueError for labels outside the classes
    or a single class.
    """
    from sklearn.linear_model import LogisticRegression

    check_labels(batch.labels, classes)
    with torch.no_grad():
        pieces = [features(backbone, piece) for piece in batch.chunks(256)]
    x, y = torch.cat(pieces).double().cpu().numpy(), batch.labels.cpu().numpy()
    present = np.unique(y)
    if len(present) < 2:
        raise ValueError(f"expected at least two classes among the labels, got only {present.tolist()}")
    mean, deviation = x.mean(0), x.std(0)
    deviation[deviation < 1e-12] = 1.0
    model = LogisticRegression(C=C, max_iter=2000, tol=1e-8).fit((x - mean) / deviation, y)
    weight, bias = np.zeros((classes, x.shape[1])), np.full(classes, model.intercept_.min() - 4.0)
    if len(present) == 2:
        weight[present] = np.concatenate([-model.coef_, model.coef_]) / 2
        bias[present] = np.concatenate([-model.intercept_, model.intercept_]) / 2
    else:
        weight[present], bias[present] = model.coef_, model.intercept_
    weight = weight / deviation
    bias = bias - weight @ mean
    return Readout(*(torch.tensor(v, dtype=backbone.fine, device=backbone.device) for v in (weight, bias)))


def subject(backbone: Backbone, delta: object, readout: Readout, seed: int, train_readout: bool = False) -> Subject:
    """Return the subject with the delta's initial values for this seed, and the readout's if it is to be trained."""
    if readout.weight.shape[1] != backbone.width:
        raise ValueError(f"expected a readout over {backbone.width} features, got {readout.weight.shape[1]}")
    initial = {name: value.to(backbone.fine) for name, value in delta.initial(backbone, seed).items()}
    made = Subject(backbone, delta, readout, initial, seed)
    return made.with_readout() if train_readout else made
