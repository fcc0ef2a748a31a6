"""A live model and its batches as what every probe takes: pure functions of the trainable numbers, batches, weights.

The model is called as it is, in evaluation mode, with its trainable numbers replaced for the length of the call; it is
bit-identical afterwards. Which loss a model of Hugging Face's has is found by comparison with the model's own.
"""

from __future__ import annotations

import fnmatch
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, mse_loss

from probes.curvature import hessian as curvature
from probes.curvature.operators import Operator
from probes.inputs import opened, settle
from probes.layout import check_batches, open_batch
from probes.live.calls import LiveModel, Params
from probes.live.head import head_loss, logit_loss
from probes.live.kinds import is_straight, kind_of
from probes.live.sharded import averaged, refuse_elsewhere, shards_of, turn_of
from probes.live.tokens import REDUCTIONS, counted, items, tokens
from probes.reach.response import Response, response

Loss = Callable[[object, object], Tensor]  # of the model's output and the batch: the mean over the batch's items


@dataclass(frozen=True, eq=False)
class Attached:
    """A live model as functions of its trainable numbers.

    params: {name: tensor}, float32 at least. batches: as the probes take them, on the model's device. weights: how many
    items each batch's mean is over. kind: "next token", "aligned token", "classes", "numbers", "several classes" or "given".
    reduction: of token losses, "token", "sequence" or "sum". size: numbers in params. notes: what a reader must know.
    """

    params: dict[str, Tensor] = field(repr=False)
    batches: list = field(repr=False)
    weights: list[float]
    kind: str
    reduction: str | None
    notes: tuple[str, ...]
    _model: LiveModel = field(repr=False)
    _given: Loss | None = field(repr=False, default=None)

    @property
    def size(self) -> int:
        """Return how many numbers are trained."""
        return sum(x.numel() for x in self.params.values())

    @property
    def of_tokens(self) -> bool:
        """Return whether the loss is one of tokens."""
        return self.kind.endswith("token")

    def turn(self) -> AbstractContextManager:
        """Return the context in which all processes that share the model call it; one that does nothing for a whole model."""
        return turn_of(self._model.module)

    def summed(self, values: Tensor) -> Tensor:
        """Return the sum over the processes that share the model; for a whole model the tensor itself."""
        shards = shards_of(self._model.module)
        return values if shards is None else shards.summed(values)

    @property
    def rank(self) -> int:
        """Return the number of this process among those that share the model, 0 for a whole one."""
        shards = shards_of(self._model.module)
        return 0 if shards is None else dist.get_rank(shards.group)

    def loss(self, params: Params, batch) -> Tensor:
        """Return the batch's mean loss, a scalar: of the items that `weights` counts."""
        if self._given is not None:
            return self._given(self._model.call(params, batch), batch)
        if not self.of_tokens:
            return self.criterion(self.outputs(params, batch), batch)
        chosen = self._tokens(batch)
        if self._model.straight:
            h = self._model.states(params, batch, chosen)
            return head_loss(h, *self._model.vocabulary(), chosen.targets, chosen.weights)
        return logit_loss(self._model.logits(params, batch, chosen), chosen.targets, chosen.weights)

    def outputs(self, params: Params, batch) -> Tensor:
        """Return the logits that are scored: (n, V) at the n positions that count, row by row, or (B, C) of a classifier."""
        if self.of_tokens:
            return self._model.logits(params, batch, self._tokens(batch))
        return self._model.call(params, batch).logits

    def criterion(self, y: Tensor, batch) -> Tensor:
        """Return the loss of such outputs, a scalar; ValueError where the loss was given whole."""
        if self._given is not None:
            raise ValueError("expected a loss that attach chose, got one given as a whole, which has no outputs of its own")
        if self.of_tokens:
            chosen = self._tokens(batch)
            return logit_loss(y, chosen.targets, chosen.weights)
        return _CRITERIA[self.kind](y, batch["labels"])

    def sampled(self, y: Tensor, batch, generator: torch.Generator) -> Tensor:
        """Return a random covector of outputs y whose covariance is the second derivative of `criterion` at y."""
        p, coin = y.to(torch.promote_types(y.dtype, torch.float32)), torch.rand(len(y), 2, generator=generator)
        sign, coin = (coin[:, :1] < 0.5).to(p.device) * 2.0 - 1, coin[:, 1:].to(p.device)
        if self.kind == "numbers":
            return sign * math.sqrt(2 / len(p)) * torch.ones_like(p)
        if self.kind == "several classes":
            flips = (torch.rand(p.shape, generator=generator) < 0.5).to(p.device) * 2.0 - 1
            return flips * (p.sigmoid() * (-p).sigmoid() / p.numel()).sqrt()
        weights = self._tokens(batch).weights if self.of_tokens else torch.full((len(p),), 1 / len(p), device=p.device)
        p = p.softmax(-1)
        drawn = (p.cumsum(-1) < coin).sum(-1, keepdim=True).clamp(max=p.shape[1] - 1)
        made = -p
        made.scatter_add_(-1, drawn, made.new_ones(drawn.shape))
        return made * sign * weights.to(made)[:, None].sqrt()

    def hessian(self, **options) -> Operator:
        """Return the Hessian of the mean loss over all batches; options are those of `probes.hessian`."""

        def make(**given) -> Operator:
            return curvature.hessian(self.loss, self.params, self.batches, **given)

        return averaged(self._model.module, make, {"weights": self.weights} | options)

    def gauss_newton(self, **options) -> Operator:
        """Return the Gauss-Newton matrix, which is the Fisher matrix of a softmax; options are those of `probes.gauss_newton`.

        Where the vocabulary map is frozen it is J'(W'(diag p - pp')W)J with J = dh/dz, of the states in front of the map.
        """
        options = {"weights": self.weights} | options
        if self.of_tokens and self._model.straight:
            head = self._model.vocabulary()

            def bent(h: Tensor, batch) -> Tensor:
                chosen = self._tokens(batch)
                return head_loss(h, *head, chosen.targets, chosen.weights)

            return curvature.gauss_newton(
                lambda params, batch: self._model.states(params, batch, self._tokens(batch)),
                bent,
                self.params,
                self.batches,
                **options,
            )

        def make(**given) -> Operator:
            return curvature.gauss_newton(self.outputs, self.criterion, self.params, self.batches, **given)

        return averaged(self._model.module, make, options)

    def response(self, words: Sequence[int] | None = None, **options) -> Response:
        """Return G = dy/dz of a few outputs of every example; options are those of `probes.response`.

        Of a classifier, y are its logits (B, C). Of a token model, y (B, K) is the log-probability of each label that counts,
        K the most that a sequence has (zero where one has fewer); with `words`, the logits of these tokens at the first
        position that counts (B, len(words)), as a verbaliser reads them.
        """
        if self._given is not None:
            raise ValueError(
                "expected a model whose outputs are known, got a loss given as a whole: call probes.response yourself"
            )
        if not self.of_tokens:
            with turn_of(self._model.module):
                return response(
                    lambda params, batch: self._model.call(params, batch).logits, self.params, self.batches, **options
                )
        shift = self.kind == "next token"
        most = 1 if words is not None else max(int(counted(b["labels"], shift).sum(1).max()) for b in self.batches)

        def read(params: Params, batch) -> Tensor:
            mask = counted(batch["labels"], shift)
            columns = torch.sort(mask.int(), dim=1, descending=True, stable=True).indices[:, :most]
            z = self._model.gathered(params, batch, columns)
            z = z.to(torch.promote_types(z.dtype, torch.float32))
            if words is not None:
                return z[:, 0][:, torch.as_tensor(words, device=z.device)]
            targets = batch["labels"].gather(1, (columns + shift).clamp(max=mask.shape[1] - 1)).clamp(min=0)
            scored = z.gather(-1, targets[..., None])[..., 0] - z.logsumexp(-1)
            return torch.where(mask.gather(1, columns), scored, torch.zeros_like(scored))

        with turn_of(self._model.module):
            return response(read, self.params, self.batches, **options)

    def first(self, batches: int, rows: int | None = None) -> Attached:
        """Return the same of the first batches alone, the last of these cut to its first `rows`."""
        kept = list(self.batches[:batches])
        if rows is not None:
            kept[-1] = {k: (v[:rows] if v.ndim else v) for k, v in kept[-1].items()}
        weights = self.weights[:batches]
        if rows is not None:
            token = self.of_tokens and self.reduction == "token"
            count = items(kept[-1]["labels"], self.kind == "next token", "token") if token else float(len(kept[-1]["labels"]))
            weights = [*weights[:-1], count]
        return replace(self, batches=kept, weights=weights)

    def losses(self, params: Params | None = None) -> list[Tensor]:
        """Return, batch by batch, the loss of every token that counts (n,), or of every example (B,), without gradients."""
        if self._given is not None:
            raise ValueError("expected a loss that attach chose, got one given as a whole, which has no parts")
        params = self.params if params is None else params
        found = []
        with torch.no_grad(), turn_of(self._model.module):
            for batch in self.batches:
                y = self.outputs(params, batch)
                wide = y.to(torch.promote_types(y.dtype, torch.float32))
                if self.of_tokens:
                    found.append(cross_entropy(wide, self._tokens(batch).targets, reduction="none"))
                else:
                    each = [_CRITERIA[self.kind](wide[i : i + 1], batch["labels"][i : i + 1]) for i in range(len(wide))]
                    found.append(torch.stack(each))
        return found

    def mean_loss(self, params: Params | None = None) -> float:
        """Return the mean loss over all batches, those of all processes for a sharded model, without gradients."""
        params = self.params if params is None else params
        with torch.no_grad(), self.turn():
            each = [float(opened(self.loss, "loss", "loss")(params, batch)) for batch in self.batches]
        value = sum(w * x for w, x in zip(self.weights, each, strict=True))
        value, total = self.summed(torch.tensor([value, sum(self.weights)], dtype=torch.float64)).tolist()
        return value / total

    def _tokens(self, batch):
        return tokens(batch["labels"], self.kind == "next token", self.reduction, self._model.wide)


_CRITERIA: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "classes": lambda y, labels: cross_entropy(y, labels),
    "numbers": lambda y, labels: mse_loss(y.squeeze(-1), labels.to(y.dtype)),
    "several classes": lambda y, labels: binary_cross_entropy_with_logits(y, labels.to(y.dtype)),
}


def attach(
    model: nn.Module,
    batches: Sequence,
    *,
    loss: Loss | None = None,
    reduction: str = "token",
    params: str | Sequence[str] | None = None,
    weights: Sequence[float] | Callable[[object], float] | str | None = None,
    dtype: torch.dtype | None = None,
) -> Attached:
    """Return the live model as functions of its trainable numbers, for every probe; the model stays bit-identical.

    batches: a DataLoader or list of dicts with labels, as the model's own forward takes them. The loss is the model's
    kind: next token or aligned token (by comparison with the model's own loss), classes, numbers; or loss(output, batch),
    a mean over items that weights= counts. reduction: see `probes.live.tokens`. params: names or globs, by default what
    requires gradients, else the active PEFT adapter. dtype: computes all in it, float32 for a bfloat16 base say.
    Raises ValueError for sequences without labels, quantised bases, nothing to train, and a loss of no known kind. A model
    that `probes.shard` cut is attached in all its processes together, each with batches of its own.
    """
    with turn_of(model):
        made = _attached(model, batches, loss, reduction, params, weights, dtype)
    shards = shards_of(model)
    if shards is None:
        return made
    shards.check_same("trainable numbers", made.params)
    note = f"the frozen matrices lie in {shards.ranks} processes: mean loss, Hessian and Gauss-Newton matrix are means over all"
    return replace(made, notes=(*made.notes, f"{note} their batches, losses and responses are of this process's own"))


def _attached(model: nn.Module, batches: Sequence, loss, reduction: str, params, weights, dtype) -> Attached:
    """What `attach` returns, of this process's batches."""
    core = _core(model)
    if reduction not in REDUCTIONS:
        raise ValueError(f"expected reduction {', '.join(REDUCTIONS)}, got {reduction!r}")
    _refuse_quantised(model)
    refuse_elsewhere(model)
    names, notes = _trainable(model, params)
    values = dict(model.named_parameters())
    _refuse_cut(model, {name: values[name] for name in names})
    kinds = {values[name].dtype for name in names}
    fine = dtype or max((torch.promote_types(kind, torch.float32) for kind in kinds), key=lambda kind: kind.itemsize)
    device = values[names[0]].device
    found = [_moved(batch, device, dtype) for batch in check_batches(_listed(batches))]
    accepted = _accepted(core)
    head = _vocabulary_map(model)
    constants = _constants(model, set(names), dtype)
    own = {name: dtype or values[name].dtype for name in names}
    start = {name: values[name].detach().to(fine, copy=True) for name in names}
    defaults = {"use_cache": False} if accepted is not None and "use_cache" in accepted and head is not None else {}
    made = LiveModel(model, constants, own, accepted, head, fine, False, defaults)
    if any(len(getattr(part, "lora_magnitude_vector", None) or ()) for part in model.modules()):
        notes = (*notes, "DoRA takes no derivative of its norms (Liu et al. 2024, sec. 4.3), and neither does this curvature")
    if loss is not None:
        return Attached(start, found, settle(found, weights), "given", None, notes, made, loss)
    for i, batch in enumerate(found):
        if not isinstance(batch, Mapping) or not isinstance(batch.get("labels"), Tensor):
            held = ", ".join(map(str, batch)) if isinstance(batch, Mapping) else type(batch).__name__
            raise ValueError(
                f"batches[{i}]: expected a dict with labels, got {held}; add labels, or pass loss=function of (output, batch)"
            )
    kind, found = kind_of(made, core, start, found)
    if not kind.endswith("token"):
        return Attached(start, found, settle(found, "rows" if weights is None else weights), kind, None, notes, made)
    if weights is not None:
        raise ValueError(
            f"expected reduction= to say what the mean of a token loss is over ({', '.join(REDUCTIONS)}), got weights="
        )
    shift = kind == "next token"
    made = replace(made, straight=is_straight(made, start, found, shift))
    counts = [items(b["labels"], shift, reduction) for b in found]
    return Attached(start, found, counts, kind, reduction, notes, made)


def _core(model: nn.Module) -> nn.Module:
    """The model inside what PEFT wraps around it."""
    return model.get_base_model() if callable(getattr(model, "get_base_model", None)) else model


def _listed(batches):
    return batches if isinstance(batches, Mapping) or hasattr(batches, "_fields") else list(batches)


def _moved(batch, device: torch.device, dtype: torch.dtype | None):
    """The batch on the device, a mapping as a plain dict of its tensors."""
    if isinstance(batch, Mapping):
        batch = {k: v for k, v in batch.items() if isinstance(v, Tensor)}
    leaves, fill = open_batch(batch)
    moved = [x.to(device) if isinstance(x, Tensor) else x for x in leaves]
    return fill([x.to(dtype) if dtype is not None and isinstance(x, Tensor) and x.is_floating_point() else x for x in moved])


def _accepted(core: nn.Module) -> frozenset[str] | None:
    """The names that the model's forward takes; None where it takes any."""
    parameters = inspect.signature(core.forward).parameters.values()
    named = frozenset(p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY))
    return named or None


def _vocabulary_map(model: nn.Module) -> nn.Module | None:
    """The module that makes logits of states, as Hugging Face's models tell it."""
    try:
        found = model.get_output_embeddings()
    except (AttributeError, NotImplementedError):
        return None
    return found if isinstance(found, nn.Module) else None


def _refuse_quantised(model: nn.Module) -> None:
    for name, x in model.named_parameters():
        if not x.is_floating_point() or hasattr(x, "quant_state") or hasattr(x, "SCB"):
            raise ValueError(
                f"expected weights in floating point, got {name} in {x.dtype}, which is quantised: second derivatives go "
                "through the numbers that it stands for, so load the base model in bfloat16 or float32 and attach that"
            )


def _refuse_cut(model: nn.Module, wanted: Params) -> None:
    shards = shards_of(model)
    cut = set() if shards is None else {id(x) for x in shards.slices}
    for name, x in wanted.items():
        if id(x) in cut:
            raise ValueError(
                f"expected numbers that every process holds, got {name}, which is cut over them: let it require gradients "
                "before probes.shard(model) is called"
            )


def _trainable(model: nn.Module, wanted: str | Sequence[str] | None) -> tuple[list[str], tuple[str, ...]]:
    """The names to differentiate, and a note where the choice was not the caller's."""
    values = dict(model.named_parameters())
    if wanted is not None:
        patterns = [wanted] if isinstance(wanted, str) else list(wanted)
        for pattern in patterns:
            if not any(fnmatch.fnmatchcase(name, pattern) for name in values):
                raise ValueError(
                    f"expected parameters of the model, got {pattern!r}, which matches none of {len(values)} such as "
                    f"{next(iter(values))}"
                )
        return [name for name in values if any(fnmatch.fnmatchcase(name, p) for p in patterns)], ()
    names = [name for name, x in values.items() if x.requires_grad]
    if names:
        return names, ()
    names = [name for name in values if _of_adapter(model, name)]
    if not names:
        raise ValueError(
            f"expected parameters to differentiate, got {len(values)} tensors none of which requires gradients, "
            'and no PEFT adapter: set requires_grad, or name them, params="*.bias" say'
        )
    return names, ("nothing in the model requires gradients: measured are the numbers of its active adapter",)


def _of_adapter(model: nn.Module, name: str) -> bool:
    """Whether a parameter belongs to an active adapter of PEFT, by its path."""
    active = getattr(model, "active_adapters", None) if hasattr(model, "peft_config") else None
    if active is None:
        return False
    active, path = [active] if isinstance(active, str) else list(active), name.split(".")
    holders = {"modules_to_save", "prompt_encoder"}
    for part in model.modules():
        holders |= set(getattr(type(part), "adapter_layer_names", ()))
    return any(a in active and h in holders for h, a in zip(path, path[1:], strict=False))


def _constants(model: nn.Module, names: set[str], dtype: torch.dtype | None) -> dict[str, Tensor]:
    """What stands in for the numbers that are not differentiated: out of every graph, and in dtype where it is finer."""
    found, shards = {}, shards_of(model)
    cut = set() if shards is None else {id(x) for x in shards.slices}
    for name, x in [*model.named_parameters(), *model.named_buffers()]:
        if name in names or not x.is_floating_point():
            continue
        if id(x) in cut:  # gathered as it is and cast then; here it only says in which dtype
            found[name] = torch.empty((), dtype=dtype or x.dtype, device=x.device).expand(x.shape)
            continue
        coarse = dtype is not None and x.dtype != dtype and (isinstance(x, nn.Parameter) or x.dtype.itemsize < dtype.itemsize)
        if coarse:
            found[name] = x.detach().to(dtype)
        elif x.requires_grad:
            found[name] = x.detach()
    return found
