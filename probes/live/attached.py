"""A live model and its batches as what every probe takes: pure functions of the trainable numbers, batches, weights.

The model is called as it is, in evaluation mode, with its trainable numbers replaced for the length of the call; it is
bit-identical afterwards. Which loss a model of Hugging Face's has is found by comparison with the model's own.
"""

from __future__ import annotations

import fnmatch
import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, linear, mse_loss

from probes.curvature import hessian as curvature
from probes.curvature.operators import Operator
from probes.inputs import opened, settle
from probes.layout import check_batches, open_batch
from probes.live.head import head_loss, logit_loss
from probes.live.sharded import averaged, refuse_elsewhere, shards_of, turn_of
from probes.live.swap import swapped
from probes.live.tokens import REDUCTIONS, check_rows, counted, items, tokens
from probes.reach.response import Response, response

Params = Mapping[str, Tensor]
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
    _model: _Model = field(repr=False)
    _given: Loss | None = field(repr=False, default=None)

    @property
    def size(self) -> int:
        """Return how many numbers are trained."""
        return sum(x.numel() for x in self.params.values())

    @property
    def of_tokens(self) -> bool:
        """Return whether the loss is one of tokens."""
        return self.kind.endswith("token")

    @property
    def sharded(self) -> bool:
        """Return whether the model's frozen weights are cut over processes."""
        return shards_of(self._model.module) is not None

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
        with torch.no_grad(), turn_of(self._model.module):
            each = [float(opened(self.loss, "loss", "loss")(params, batch)) for batch in self.batches]
        sums = sum(w * x for w, x in zip(self.weights, each, strict=True)), sum(self.weights)
        shards = shards_of(self._model.module)
        value, total = sums if shards is None else map(sum, zip(*shards.told(sums), strict=True))
        return value / total

    def _tokens(self, batch):
        return tokens(batch["labels"], self.kind == "next token", self.reduction, self._model.wide)


_CRITERIA: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "classes": lambda y, labels: cross_entropy(y, labels),
    "numbers": lambda y, labels: mse_loss(y.squeeze(-1), labels.to(y.dtype)),
    "several classes": lambda y, labels: binary_cross_entropy_with_logits(y, labels.to(y.dtype)),
}


@dataclass(frozen=True, eq=False)
class _Model:
    """How the live module is called: which tensors stand in for its own, which it accepts, where its vocabulary map is."""

    module: nn.Module
    constants: dict[str, Tensor]  # in place of the module's own: cast, or detached from graphs
    own: dict[str, torch.dtype]  # of the trainable numbers, in the module
    accepted: frozenset[str] | None
    head: nn.Module | None
    wide: torch.dtype
    straight: bool = False  # whether the logits are the head's map of its input and nothing else
    defaults: dict = field(default_factory=dict)

    def call(self, params: Params, batch, *, labelled: bool = False):
        """The module's output for a batch, without its labels unless these are wanted."""
        values = self.constants | {name: x.to(self.own[name]) for name, x in params.items()}
        if isinstance(batch, Mapping):
            given = {k: v for k, v in batch.items() if self.accepted is None or k in self.accepted}
            if not labelled:
                given.pop("labels", None)
            arguments, named = (), given | self.defaults
        else:
            arguments, named = tuple(batch[:-1]) if isinstance(batch, tuple | list) and len(batch) > 1 else (batch,), {}
        with _evaluated(self.module), swapped(self.module, values):
            return self.module(*arguments, **named)

    def states(self, params: Params, batch, chosen) -> Tensor:
        """What enters the vocabulary map at the chosen positions, (n, d)."""
        return self._through(params, batch, lambda h: _at(h, batch, chosen), empty=True)[0]

    def logits(self, params: Params, batch, chosen) -> Tensor:
        """The logits (n, V) at the chosen positions; no others are computed where the vocabulary map is known."""
        if self.head is None:
            return _at(self.call(params, batch).logits, batch, chosen)
        return self._through(params, batch, lambda h: _at(h, batch, chosen))[1].logits[0]

    def gathered(self, params: Params, batch, columns: Tensor) -> Tensor:
        """The logits (B, K, V) at K columns of every row."""

        def at(h: Tensor) -> Tensor:
            places = columns + (h.shape[1] - batch["labels"].shape[1])
            return h.gather(1, places[..., None].expand(-1, -1, h.shape[-1]))

        if self.head is None:
            return at(self.call(params, batch).logits)
        return self._through(params, batch, at, whole=True)[1].logits

    def _through(self, params: Params, batch, pick: Callable, *, empty: bool = False, whole: bool = False) -> tuple:
        """(what was picked of the vocabulary map's input, the model's output with that, or nothing, in its place)."""
        found: list[Tensor] = []

        def narrow(_: nn.Module, given: tuple):
            picked = pick(given[0])
            found.append(picked)
            shown = picked if whole else picked[None]
            return (shown[:, :0] if empty else shown, *given[1:])

        hook = self.head.register_forward_pre_hook(narrow)
        try:
            output = self.call(params, batch)
        finally:
            hook.remove()
        if len(found) != 1:
            raise ValueError(f"expected a model that uses its vocabulary map once, it was used {len(found)} times; pass loss=")
        return found[0], output

    def vocabulary(self) -> tuple[Tensor, Tensor | None]:
        """The vocabulary map's weight (V, d) and bias (V,), constants."""
        names = {id(x): name for name, x in self.module.named_parameters()}
        pair = (self.head.weight, self.head.bias)
        return tuple(None if x is None else self.constants.get(names[id(x)], x.detach()) for x in pair)


def _at(x: Tensor, batch, chosen) -> Tensor:
    """The rows (n, ...) at the chosen positions, behind whatever virtual tokens the model puts in front."""
    return x[chosen.rows, chosen.columns + (x.shape[1] - batch["labels"].shape[1])]


@contextmanager
def _evaluated(module: nn.Module) -> Iterator[None]:
    """A context in which every part of the module is in evaluation mode; the modes are put back one by one."""
    training = [part for part in module.modules() if part.training]
    for part in training:
        part.training = False
    try:
        yield
    finally:
        for part in training:
            part.training = True


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
    made = _Model(model, constants, own, accepted, head, fine, False, defaults)
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
    kind, found = _kind(made, core, start, found)
    if not kind.endswith("token"):
        return Attached(start, found, settle(found, "rows" if weights is None else weights), kind, None, notes, made)
    if weights is not None:
        raise ValueError(
            f"expected reduction= to say what the mean of a token loss is over ({', '.join(REDUCTIONS)}), got weights="
        )
    shift = kind == "next token"
    made = replace(made, straight=_is_straight(made, start, found, shift))
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


def _kind(made: _Model, core: nn.Module, start: Params, batches: list[dict]) -> tuple[str, list[dict]]:
    """The kind of the model's loss, and the batches with the inputs that it needs besides."""
    labels, config = batches[0]["labels"], getattr(core, "config", None)
    if labels.ndim == 2 and not labels.is_floating_point():
        if getattr(config, "is_encoder_decoder", False):
            batches = [_decoded(core, batch) for batch in batches]
            check_rows(batches, False)
            return "aligned token", batches
        check_rows(batches, False)
        batches = [_placed(made, batch) for batch in batches]
        shift = _agreed(made, start, batches)
        check_rows(batches, shift)
        _refuse_prefix_under_checkpoints(made.module, core)
        return ("next token" if shift else "aligned token"), batches
    with torch.no_grad():
        y = getattr(made.call(start, batches[0]), "logits", None)
    if not isinstance(y, Tensor) or y.ndim != 2 or len(y) != len(labels):
        got = tuple(y.shape) if isinstance(y, Tensor) else type(y).__name__
        raise ValueError(
            f"expected a model whose output has .logits (B, C) for labels {tuple(labels.shape)}, got {got}; pass loss="
        )
    if labels.is_floating_point() or y.shape[1] == 1:
        return ("several classes" if labels.ndim == 2 and y.shape[1] > 1 else "numbers"), batches
    for i, batch in enumerate(batches):
        outside = batch["labels"][(batch["labels"] < 0) | (batch["labels"] >= y.shape[1])]
        if len(outside):
            raise ValueError(
                f"batches[{i}]: expected labels between 0 and {y.shape[1] - 1}, got {int(outside[0])}: leave such rows out"
            )
    return "classes", batches


def _decoded(core: nn.Module, batch: dict) -> dict:
    """The batch of an encoder-decoder with what its decoder reads: the labels, one place later."""
    if "decoder_input_ids" in batch or "decoder_inputs_embeds" in batch:
        return batch
    try:
        return batch | {"decoder_input_ids": core.prepare_decoder_input_ids_from_labels(labels=batch["labels"])}
    except AttributeError as error:
        raise ValueError(f"expected decoder_input_ids in a batch of an encoder-decoder, got none, and {error}") from error


def _placed(made: _Model, batch: dict) -> dict:
    """The batch with the positions of its tokens, where padding in front would move them."""
    mask = batch.get("attention_mask")
    missing = "position_ids" not in batch and made.accepted is not None and "position_ids" in made.accepted
    if missing and mask is not None and mask.ndim == 2 and bool((mask[:, 0] == 0).any()):
        return batch | {"position_ids": (mask.long().cumsum(1) - 1).clamp(min=0)}
    return batch


def _row(batch: dict, i: int) -> dict:
    return {k: (v[i : i + 1] if v.ndim else v) for k, v in batch.items()}


def _agreed(made: _Model, start: Params, batches: list[dict]) -> bool:
    """Whether the loss reads labels at the next position: what agrees with the model's own loss on one sequence."""
    longer = [(b, int(i)) for b in batches for i in counted(b["labels"], True).any(1).nonzero()[:1]]
    if not longer:
        check_rows(batches, True)
    row = _row(*longer[0])
    with torch.no_grad():
        own = getattr(made.call(start, row, labelled=True), "loss", None)
    if not isinstance(own, Tensor):
        raise ValueError("expected a model that gives a loss for labels (B, T), got none to compare with; pass loss=")
    found = {}
    for shift in (True, False):
        chosen = tokens(row["labels"], shift, "token", made.wide)
        if len(chosen.rows):
            with torch.no_grad():
                found[shift] = float(logit_loss(made.logits(start, row, chosen), chosen.targets, chosen.weights))
    coarse = max(torch.finfo(x.dtype).eps for x in made.module.parameters() if x.is_floating_point())
    best = min(found, key=lambda shift: abs(found[shift] - float(own)))
    if not abs(found[best] - float(own)) <= max(1e-4, 4 * coarse) * max(1.0, abs(float(own))):
        said = ", ".join(f"{x:.6g} with labels {'one place on' if shift else 'in place'}" for shift, x in found.items())
        raise ValueError(
            f"expected a model whose loss is the cross entropy of its labels, its own is {float(own):.6g} on a sequence "
            f"and this would be {said}; pass loss=function of (output, batch) with weights="
        )
    return best


def _refuse_prefix_under_checkpoints(model: nn.Module, core: nn.Module) -> None:
    """Refuse PEFT's prefix with gradient checkpointing, under which a model in training mode leaves its prefix out."""
    config = getattr(model, "peft_config", {})
    kinds = {
        str(getattr(c, "peft_type", "")).rpartition(".")[2] for c in (config.values() if isinstance(config, Mapping) else ())
    }
    if "PREFIX_TUNING" in kinds and _checkpointed(core):
        raise ValueError(
            "expected a prefix without gradient checkpointing, got both: in training mode checkpointing drops the key-value "
            "cache that the prefix stands in, so that it is not trained; call gradient_checkpointing_disable() and train it anew"
        )


def _checkpointed(core: nn.Module) -> bool:
    return any(getattr(part, "gradient_checkpointing", False) is True for part in core.modules())


def _is_straight(made: _Model, start: Params, batches: list[dict], shift: bool) -> bool:
    """Whether the logits are a frozen linear map of the states and nothing else (soft cap, scale), seen on one sequence."""
    if type(made.head) is not nn.Linear:
        return False
    trained = {id(x) for name, x in made.module.named_parameters() if name in made.own}
    if any(id(x) in trained for x in made.head.parameters()):
        return False
    row = _row(batches[0], 0)
    chosen = tokens(row["labels"], shift, "token", made.wide)
    with torch.no_grad():
        h, y = made.states(start, row, chosen), made.logits(start, row, chosen)
        z = linear(h, *made.vocabulary())
    return bool(torch.allclose(z.to(y.dtype), y, rtol=0, atol=8 * torch.finfo(z.dtype).eps * float(z.abs().max())))
