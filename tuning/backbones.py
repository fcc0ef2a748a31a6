"""Frozen pretrained encoders and decoders, and where their blocks, sublayers and ports are.

A port is (block, site), site in {"attention", "mlp"}: the output of that sublayer just before it is added to
the residual stream. One table says, per architecture, where these are; everything else follows from it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoModel, AutoTokenizer, PretrainedConfig
from transformers.utils import logging

from tuning.architectures import ARCHITECTURES, Architecture, row_of, site_of
from tuning.attention import additive_mask, write_out
from tuning.edits import Edits, Frame, Watched, call, watch
from tuning.lean import serves, states
from tuning.packing import Packing
from tuning.shipped import SHIPPED, folder_of, tokenizer_of

SITES = ("attention", "mlp")
UNBOUNDED = 1 << 20  # the longest text where neither the model nor the tokenizer says one
_PARTS = {"q": "qkv", "k": "qkv", "v": "qkv", "gate": "gate_up", "up": "gate_up"}  # what a role is a part of where it is fused


class Batch(NamedTuple):
    """tokens (B, T) int64, mask (B, T) bool (True on real tokens, padding on the right), labels (B,)."""

    tokens: Tensor
    mask: Tensor
    labels: Tensor

    def chunks(self, size: int = 64) -> list[Batch]:
        """Return the batch in pieces of at most `size` examples."""
        return [Batch(*(x[i : i + size] for x in self)) for i in range(0, len(self.labels), size)]


class Port(NamedTuple):
    """The output of the sublayer `site` of block `block`, before the residual sum."""

    block: int
    site: str

    @property
    def key(self) -> str:
        """Return the port's name, "block.site"."""
        return f"{self.block}.{self.site}"


class WeightMap(NamedTuple):
    """One linear map of a block: module path, inputs, outputs, its rows in a fused module (or None), the module's outputs."""

    path: str
    d_in: int
    d_out: int
    rows: Tensor | None
    whole: int


@dataclass(frozen=True, eq=False)
class Backbone:
    """A frozen model with its tokenizer and its addresses; equal weights have equal fingerprints.

    `pooler` is the layer that the model came with on the first token's state, if any: no part of the backbone, but
    of a classifier read from elsewhere.
    """

    name: str
    model: nn.Module = field(repr=False)
    tokenizer: object = field(repr=False)
    kind: str
    architecture: str
    blocks: int
    width: int
    heads: int
    key_value_heads: int
    ports: tuple[Port, ...] = field(repr=False)
    fingerprint: str
    pooler: nn.Module | None = field(default=None, repr=False)

    @property
    def layout(self) -> Architecture:
        """Return the row of the architecture table."""
        return ARCHITECTURES[self.architecture]

    @property
    def dtype(self) -> torch.dtype:
        """Return the precision of the weights."""
        return next(self.model.parameters()).dtype

    @property
    def fine(self) -> torch.dtype:
        """Return the precision of deltas, heads and logits: that of the weights, float32 at least."""
        return torch.promote_types(self.dtype, torch.float32)

    @property
    def device(self) -> torch.device:
        """Return where the weights are."""
        return next(self.model.parameters()).device

    @property
    def start(self) -> int:
        """Return the token that a decoder beside an encoder begins with: that of the configuration, else the padding."""
        config = self.model.config
        named = (getattr(config, key, None) for key in ("decoder_start_token_id", "pad_token_id"))
        return next((token for token in named if token is not None), 0)

    @property
    def head_width(self) -> int:
        """Return the numbers per attention head."""
        return getattr(self.model.config, "head_dim", None) or self.width // self.heads

    @property
    def windows(self) -> tuple[int | None, ...]:
        """Return the sliding window of every block: how many positions away a key is no longer met; None without one."""
        return tuple(module.window for module in self.attentions)

    @property
    def attentions(self) -> tuple[nn.Module, ...]:
        """Return the attention of every block."""
        return tuple(self.model.get_submodule(self.path(block, self.row(block).attention)) for block in range(self.blocks))

    @property
    def stacks(self) -> tuple[tuple[Architecture, range], ...]:
        """Return each stack's row with its blocks, which are counted through: a decoder's follow those of its encoder."""
        first = self.layout
        if first.second is None:
            return ((first, range(self.blocks)),)
        encoder = len(self.model.get_submodule(first.blocks))
        return (first, range(encoder)), (first.second, range(encoder, self.blocks))

    def row(self, block: int) -> Architecture:
        """Return the row of the stack that a block is part of."""
        return next(row for row, blocks in self.stacks if block in blocks)

    def path(self, block: int, inner: str) -> str:
        """Return the full module path of `inner` inside a block."""
        row, blocks = next((row, blocks) for row, blocks in self.stacks if block in blocks)
        return f"{row.blocks}.{block - blocks.start}.{inner}"

    def sites(self, block: int, role: str) -> tuple[str, ...]:
        """Return the sublayers of a block whose linear map has a role: two, where a decoder's block has two attentions."""
        row, own = self.row(block), site_of(role)
        return (own, "cross") if own == "attention" and row.cross is not None else (own,)

    def linear(self, block: int, role: str, site: str | None = None) -> WeightMap:
        """Return the linear map with the role "q", "k", "v", "qkv", "o", "up", "gate", "gate_up" or "down".

        site: the sublayer, where it is not the role's usual one but the attention "cross" to an encoder's states.
        """
        roles, maps, site = self.row(block).roles, self.row(block).maps, site or site_of(role)
        place = role if role in roles else _PARTS.get(role)
        if (site, place) not in maps:
            raise ValueError(f"expected a linear map of {self.architecture} ({', '.join(roles)}), got {role!r}")
        path = self.path(block, maps[site, place])
        d_in, d_out = linear_shape(self.model.get_submodule(path))
        if place == role:
            return WeightMap(path, d_in, d_out, None, d_out)
        rows = torch.arange(d_out, device=self.device)
        if place == "gate_up":
            rows = rows.chunk(2)[("gate", "up").index(role)]
        elif self.layout.fused == "heads":
            rows = rows.view(self.heads, 3, -1)[:, "qkv".index(role)].reshape(-1)
        else:
            sizes = [heads * self.head_width for heads in (self.heads, self.key_value_heads, self.key_value_heads)]
            rows = rows.split(sizes)["qkv".index(role)]
        return WeightMap(path, d_in, len(rows), rows, d_out)

    def key_of(self, parameter: str) -> str:
        """Return a model parameter's short name: "block.site.what", or "embedding.…" or "final.…" outside blocks."""
        for row, blocks in self.stacks:
            if parameter.startswith(row.blocks + "."):
                return self._key_inside(row, blocks.start, parameter.removeprefix(row.blocks + "."))
            if row.final is not None and parameter.startswith(row.final + "."):
                return f"{self.finals[row.final]}.{parameter.removeprefix(row.final + '.')}"
        return f"embedding.{parameter}"

    @property
    def finals(self) -> dict[str, str]:
        """Return {path of a stack's last normalisation: its place}: "final", and "memory" of what a decoder reads."""
        *first, last = [row.final for row, _ in self.stacks]
        return {path: "memory" for path in first} | {last: "final"}

    @staticmethod
    def _key_inside(row: Architecture, start: int, parameter: str) -> str:
        block, _, rest = parameter.partition(".")
        module, _, leaf = rest.rpartition(".")
        named = {path: role for (_, role), path in row.maps.items()}
        named |= {path: "norm" for path in (row.norms or row.heads)}
        named |= {path: "closing" for path in row.closings or ()}
        sites = {path: site for (site, _), path in row.maps.items()}
        for modules in (row.norms or row.heads, row.closings or ()):
            sites |= dict(zip(modules, row.sites, strict=bool(modules)))
        inside = SITES[0] if module.startswith(row.attention + ".") else SITES[1]
        return f"{int(block) + start}.{sites.get(module, inside)}.{named.get(module, module)}.{leaf}"


def linear_shape(module: nn.Module) -> tuple[int, int]:
    """Return (inputs, outputs) of a linear module; GPT-2 keeps its weights the other way round."""
    rows, columns = module.weight.shape
    return (rows, columns) if transposed(module) else (columns, rows)


def transposed(module: nn.Module) -> bool:
    """Return whether the module stores its weight as (inputs, outputs)."""
    return type(module).__name__ == "Conv1D"


def wrap(model: nn.Module, tokenizer: object = None, *, name: str = "unnamed") -> Backbone:
    """Return the backbone made of a Hugging Face base model, which is frozen and watched in place.

    Raises ValueError for an unsupported architecture, for attention that is neither full nor of a sliding window, for a
    decoder that reads later tokens, for weights that are not finite, and in an encoder-decoder of several precisions.
    """
    config = model.config
    _check_kind(config.to_dict(), name)
    name_of_row = row_of(config.to_dict())
    layout = ARCHITECTURES[name_of_row]
    stacks = [layout] if layout.second is None else [layout, layout.second]
    if other := sorted({*(getattr(config, "layer_types", None) or ())} - {"full_attention", "sliding_attention"}):
        raise ValueError(f"expected attention that is full or of a sliding window in {name}, got {other[0]!r}; use another model")
    if getattr(config, "is_decoder", False):
        raise ValueError(f"expected an encoder or a decoder by itself in {name}, got an encoder that was made a decoder")
    if layout.kind == "decoder" and getattr(config, "use_bidirectional_attention", False):
        raise ValueError(f"expected a decoder that reads earlier tokens only in {name}, got use_bidirectional_attention")
    for weight, values in model.named_parameters():
        if not torch.isfinite(values).all():
            raise ValueError(f"expected finite weights in {name}, got NaN or infinity in {weight}; fetch the model anew")
    kinds = sorted({str(values.dtype).removeprefix("torch.") for values in model.parameters()})
    if layout.second is not None and len(kinds) > 1:  # a T5 in float16 keeps maps in float32 in the library
        raise ValueError(
            f"expected weights of one precision in {name}, got {' and '.join(kinds)}; load it in bfloat16 or float32"
        )
    pooler = getattr(model, "pooler", None)
    if pooler is not None:
        model.pooler = None
    if layout.second is not None:
        _part_embeddings(model, layout)
    model.eval().requires_grad_(False)
    blocks = list(enumerate((row, block) for row in stacks for block in model.get_submodule(row.blocks)))
    fingerprint = _fingerprint(model)
    window = config.sliding_window if layout.window else None
    attentions = {index: block.get_submodule(row.attention) for index, (row, block) in blocks}
    attentions |= {f"{index}.cross": block.get_submodule(row.cross) for index, (row, block) in blocks if row.cross}
    write_out(model, attentions, window)
    model.requires_grad_(False)
    ports = tuple(Port(index, site) for index, (row, _) in blocks for site in row.sites)
    made = Backbone(
        name=name,
        model=model,
        tokenizer=tokenizer,
        kind=layout.kind,
        architecture=name_of_row,
        blocks=len(blocks),
        width=config.hidden_size,
        heads=config.num_attention_heads,
        key_value_heads=getattr(config, "num_key_value_heads", None) or config.num_attention_heads,
        ports=ports,
        fingerprint=fingerprint,
        pooler=pooler,
    )
    watch(model, _places(made))
    return made


def _part_embeddings(model: nn.Module, layout: Architecture) -> None:
    """Give the second stack an embedding of its own where one module serves both, their weight still being one."""
    shared, place = model.get_submodule(layout.embedding), layout.second.embedding
    if model.get_submodule(place) is shared:
        own = nn.Embedding(*shared.weight.shape, device="meta")
        own.weight = shared.weight
        model.set_submodule(place, own)


def _check_kind(config: dict, name: str) -> None:
    """Raise ValueError for a model that has no row in the table, with what may be done instead."""
    if row_of(config) in ARCHITECTURES:
        return
    kind = config.get("model_type")
    instead = "use another model or add a row to tuning/architectures.py"
    if config.get("is_encoder_decoder"):
        instead = "of models with an encoder and a decoder deltas know T5, but the probes (costate.hessian, ...) take any loss"
    elif f"{kind}_text" in ARCHITECTURES:
        instead = f"save its language model by itself, which is a {kind}_text"
    raise ValueError(f"expected a model of one of the kinds {', '.join(ARCHITECTURES)}, got {kind!r} in {name}; {instead}")


def _places(backbone: Backbone) -> list[Watched]:
    """Return every module that an edit, a signal or a record may touch, with its roles."""
    places: dict[str, dict] = {}
    places.setdefault(backbone.layout.word, {})["word"] = True
    for number, (row, blocks) in enumerate(backbone.stacks):
        own = {"text": number == 0}
        places.setdefault(row.embedding, {}).update(leaves=("embedding", "start")[number], **own)
        if row.final is not None:
            place = backbone.finals[row.final]
            places.setdefault(row.final, {}).update(enters=place, leaves=place, **own)
        ends = row.closings or tuple(row.maps[site, "down" if site == "mlp" else "o"] for site in row.sites)
        for block in blocks:
            for inner in row.maps.values():
                places.setdefault(backbone.path(block, inner), {}).update(own)
            for site, end in zip(row.sites, ends, strict=True):
                places.setdefault(backbone.path(block, end), {}).update(leaves=f"{block}.{site}", **own)
            for site, head in zip(row.sites, row.heads, strict=True):
                entry = "output" if row.opened else "input"
                places.setdefault(backbone.path(block, head), {}).update(enters=f"{block}.{site}", entry=entry, **own)
            for site, norm in zip(SITES, row.norms or (), strict=False):
                after = f"{block}.{site}_norm"
                places.setdefault(backbone.path(block, norm), {}).update(enters=after, leaves=after, **own)
    return [Watched(path, **roles) for path, roles in places.items()]


def _fingerprint(model: nn.Module) -> str:
    """Return the sha256 of the configuration that shapes the computation and the weights in float32."""
    volatile = ("_name_or_path", "transformers_version", "dtype", "torch_dtype", "architectures", "use_cache")
    settings = {key: value for key, value in model.config.to_dict().items() if key not in volatile}
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    for name, values in sorted(model.named_parameters()):
        digest.update(name.encode())
        digest.update(values.detach().to("cpu", torch.float32).contiguous().numpy().data)
    return digest.hexdigest()


def load(name_or_path: str, *, dtype: torch.dtype = torch.float32, device: str = "cpu") -> Backbone:
    """Return the backbone called "nano", "nano-2x64" (shipped), "minilm" or "smollm2" (made by make), in a folder, or on the hub.

    Weights are read from safetensors only and no code that comes with a model is run. Raises ValueError in
    one sentence for a missing folder, an unsupported architecture, missing, truncated or non-finite weights.
    """
    source = str(name_or_path)
    folder: str | Path = source
    reader: str | Path | None = None
    if source in SHIPPED and (Path(source) / "config.json").is_file():
        raise ValueError(f"{source!r} is a shipped backbone and also a model folder here: write ./{source} or rename the folder")
    if source in SHIPPED:
        folder, reader = folder_of(source), tokenizer_of(source)
    elif source.startswith((".", "/", "~")) or Path(source).exists():
        folder = Path(source).expanduser()
    if isinstance(folder, Path) and not (folder / "config.json").is_file():
        raise ValueError(f"expected a model folder with config.json at {folder}, found none; check the path")
    try:
        with quiet():
            model, missing = _read(folder, source, dtype)
            tokenizer = AutoTokenizer.from_pretrained(reader or folder, trust_remote_code=False)
    except SafetensorError as error:
        raise ValueError(f"expected whole safetensors weights at {source}, got a damaged file ({error})") from error
    except OSError as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"expected a model folder or a reachable hub name, got {source!r}: {reason}") from error
    if missing:
        raise ValueError(f"expected every weight of the model at {source}, {len(missing)} are missing, first {missing[0]}")
    return wrap(model.to(device), tokenizer, name=source)


def _read(folder: str | Path, source: str, dtype: torch.dtype) -> tuple[nn.Module, list[str]]:
    """Return the base model and the names of the weights that its file lacks; a pooler that it lacks is taken off."""
    _check_kind(PretrainedConfig.get_config_dict(folder)[0], source)
    model, report = AutoModel.from_pretrained(
        folder,
        dtype=dtype,
        trust_remote_code=False,
        use_safetensors=True,
        attn_implementation="eager",
        output_loading_info=True,
    )
    missing = [key for key in report["missing_keys"] if not key.startswith("pooler.")]
    if len(missing) < len(report["missing_keys"]):
        model.pooler = None
    return model, missing


@contextmanager
def quiet() -> Iterator[None]:
    """Take the library's progress bars and loading reports off the terminal for a while."""
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def encode(
    backbone: Backbone,
    texts: Sequence[str] | object,
    pairs: Sequence[str] | None = None,
    labels: Sequence[int] | None = None,
    *,
    length: int = 128,
) -> Batch:
    """Return the batch of texts, (B, T) with T the longest text but at most `length`, padded on the right.

    `texts` may be a split with `text_a`, `text_b`, `labels`. Encoders get a pair as the tokenizer's sequence
    pair, decoders as one text over two lines. Labels default to zeros. Raises ValueError for no texts,
    columns of different length, and a length that leaves no room for text beside the tokenizer's marks.
    """
    if hasattr(texts, "text_a"):
        texts, pairs, labels = texts.text_a, texts.text_b, texts.labels
    texts = [str(text) for text in texts]
    if pairs is not None and any(pair is not None for pair in pairs):
        pairs = ["" if pair is None else str(pair) for pair in pairs]
    else:
        pairs = None
    labels = [0] * len(texts) if labels is None else [int(label) for label in labels]
    if not texts or len(labels) != len(texts) or (pairs is not None and len(pairs) != len(texts)):
        counts = (len(texts), None if pairs is None else len(pairs), len(labels))
        raise ValueError(f"expected as many labels (and second texts) as texts and at least one, got {counts}")
    if backbone.tokenizer is None:
        raise ValueError(f"expected a tokenizer to encode text, {backbone.name} has none; load it from a folder")
    marks = backbone.tokenizer.num_special_tokens_to_add(pair=pairs is not None)
    if length <= marks:
        raise ValueError(
            f"expected texts of at least {marks + 1} tokens, {marks} of them marks of the tokenizer, got a length of "
            f"{length}: allow longer texts"
        )
    length = min(length, positions_left(backbone))
    if pairs is not None and backbone.kind == "decoder":
        texts, pairs = [f"{first}\n{second}" for first, second in zip(texts, pairs, strict=True)], None
    rows = backbone.tokenizer(texts, pairs, truncation=True, max_length=length)["input_ids"]
    filler = next((i for i in (backbone.tokenizer.pad_token_id, backbone.tokenizer.eos_token_id) if i is not None), 0)
    rows = [row or [filler] for row in rows]
    longest = max(map(len, rows))
    tokens = torch.tensor([row + [filler] * (longest - len(row)) for row in rows])
    mask = torch.arange(longest) < torch.tensor([len(row) for row in rows])[:, None]
    return Batch(*(x.to(backbone.device) for x in (tokens, mask, torch.tensor(labels))))


def check_one_stack(backbone: Backbone, what: str) -> None:
    """Raise ValueError for an encoder-decoder, whose decoder has tokens of its own, where `what` reads states token by token."""
    if backbone.layout.second is not None:
        raise ValueError(
            f"expected a backbone of one stack of blocks for {what}, got {backbone.name}, an {backbone.kind} whose decoder has "
            "tokens of its own; take an encoder or a decoder"
        )


def positions_left(backbone: Backbone, used: int = 0) -> int:
    """Return how many text positions the model has when `used` of them are taken by a prompt or a shift."""
    positions = getattr(backbone.model.config, "max_position_embeddings", None)
    if positions is None:  # relative positions have no end; the tokenizer says what the model was trained on
        positions = min(getattr(backbone.tokenizer, "model_max_length", UNBOUNDED), UNBOUNDED)
    return positions - (backbone.layout.first_position or 0) - used


def frame(backbone: Backbone, edits: Edits | None = None, **options) -> Frame:
    """Return a forward pass of this backbone that has not run yet."""
    return Frame(model=backbone.model, edits=Edits() if edits is None else edits, **options)


def hidden(backbone: Backbone, batch: Batch, prepared: Frame) -> Tensor:
    """Return the last hidden states (B, T, d) of the text tokens in one forward pass under the frame's edits.

    Of an encoder-decoder they are those (B, 1, d) of the decoder behind its start token, or behind the frame's `spoken` tokens.
    """
    edits, layout = prepared.edits, backbone.layout
    slots, (size, length) = edits.slots, batch.tokens.shape
    positions = torch.arange(-slots, length, device=batch.tokens.device) + edits.shift
    if layout.first_position is not None:
        if length > (left := positions_left(backbone, max(slots, edits.shift))):
            raise ValueError(f"expected at most {left} tokens beside the delta's positions, got {length}; shorten the text")
        # Learned positions have no negative index: an unshifted prompt shares the text's first positions.
        positions = torch.where(positions < 0, positions + slots, positions) + layout.first_position
    tokens, mask = batch.tokens, batch.mask.bool()
    if slots:
        tokens = torch.cat([tokens[:, :1].expand(size, slots), tokens], dim=1)
        mask = torch.cat([mask.new_ones(size, slots), mask], dim=1)
    additive = additive_mask(
        mask,
        causal=backbone.kind == "decoder",
        closed_slots=slots if edits.closed else 0,
        dtype=backbone.dtype,
    )
    if layout.second is not None:
        return call(prepared, {"input_ids": tokens, "attention_mask": additive} | _spoken(backbone, size, prepared.spoken))
    arguments = {"input_ids": tokens, "position_ids": positions.expand(size, -1)}
    if layout.segments and backbone.model.config.type_vocab_size > 1:
        arguments["token_type_ids"] = _segments(backbone, batch.tokens, slots)
    lean = prepared.packed and layout.lean and serves(backbone.model, layout.roles, layout.blocks, edits)
    if not prepared.packed or layout.relative is not None or (slots and not lean):
        return prepared.text(call(prepared, arguments | {"attention_mask": additive}))
    prepared.packing = packing = Packing(mask)
    arguments = {name: packing.joined(value) for name, value in arguments.items()}
    if lean:
        return prepared.text(packing.states(states(prepared, arguments, additive, backbone.heads)))
    return packing.states(call(prepared, arguments | {"attention_mask": additive})[0])


def _spoken(backbone: Backbone, size: int, tokens: Tensor | None) -> dict[str, Tensor | bool]:
    """Return what a decoder beside an encoder is given: the start token of every text, or these tokens (1, T)."""
    if tokens is None:
        tokens = torch.full((1, 1), backbone.start, device=backbone.device)
    tokens = tokens.expand(size, -1)
    seen = additive_mask(torch.ones_like(tokens, dtype=torch.bool), causal=True, closed_slots=0, dtype=backbone.dtype)
    return {"decoder_input_ids": tokens, "decoder_attention_mask": seen, "use_cache": False}


def _segments(backbone: Backbone, tokens: Tensor, slots: int) -> Tensor:
    """Return segment numbers, one after the first separator: a batch carries tokens only, and they tell."""
    separator = getattr(backbone.tokenizer, "sep_token_id", None)
    if separator is None:
        segments = torch.zeros_like(tokens)
    else:
        separators = (tokens == separator).long()
        segments = (separators.cumsum(-1) - separators).clamp(max=1)
    return torch.cat([segments[:, :1].expand(-1, slots) * 0, segments], dim=1) if slots else segments


def pool(backbone: Backbone, states: Tensor, mask: Tensor) -> Tensor:
    """Return the features (B, d) of states (B, T, d): their mean over real tokens (encoders) or the last (decoders).

    In an encoder-decoder the decoder's one state (B, 1, d), behind the start token, is its own mean.
    """
    weight = mask[:, : states.shape[1]].to(states.dtype)
    if backbone.kind == "decoder":
        following = torch.cat([weight[:, 1:], torch.zeros_like(weight[:, :1])], dim=1)
        weight = weight - following
    return (weight[..., None] * states).sum(1) / weight.sum(1, keepdim=True)


def features(backbone: Backbone, batch: Batch, edits: Edits | None = None) -> Tensor:
    """Return the pooled features (B, d) of a batch under some edits; the frozen ones without edits."""
    return pool(backbone, hidden(backbone, batch, frame(backbone, edits)), batch.mask)
