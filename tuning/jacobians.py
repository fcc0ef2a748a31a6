"""Jacobians of the frozen blocks in the state of one token, in closed form: matrix products, nothing is differentiated.

With h_t the state that enters block t, i the chosen token and the states of all other tokens held,

    h_{t+1}[i] = f_t(h_t[i], u_t)      A_t = d f_t / d h_t[i]      B_t = d f_t / d u_t.

A_t is the (i, i) block of the block's whole Jacobian. Products of such blocks leave out every path that passes through
another token: they are the derivative through the whole network only for the last token of a causal model that is
controlled at that token. Maps with all cross-token paths come from reverse sweeps instead (`probes.response`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tuning.architectures import ARCHITECTURES
from tuning.attention import RMSNorm, additive_mask, blocked, capped, turned
from tuning.backbones import SITES, Backbone, Batch, frame, hidden, transposed
from tuning.edits import Edits, Frame

PREFIX = ("keys", "values")
SCRATCH = 1 << 22  # numbers of W_2 diag(act') held at once; a few MiB stay in the cache


@dataclass(frozen=True, eq=False)
class LayerJacobians:
    """x_{t+1} = A_t x_t + B_t u_t around one trajectory, x_t and u_t the departures from it, example by example.

    A: per block (B, d, d). B: per site, per block (B, d, m): "attention" and "mlp" for vectors added to the output of
    that sublayer (m = d), and, where the trajectory has a prefix, "keys" and "values" for the prefix of that block,
    flattened from (length, key-value heads, head width); m = 0 in blocks without one. states: h_0 .. h_T at the token,
    each (B, d), h_T before a last normalisation. token: the positions (B,).
    """

    A: tuple[Tensor, ...]
    B: dict[str, tuple[Tensor, ...]]
    states: tuple[Tensor, ...]
    token: Tensor

    def of(self, example: int, sites: Sequence[str] = SITES) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Return the time-varying system (A, B) of one example: tuples of (d, d) and (d, m), the sites' columns side by side."""
        B = [torch.cat([self.B[site][t][example] for site in sites], dim=1) for t in range(len(self.A))]
        return tuple(a[example] for a in self.A), tuple(B)


def layer_jacobians(
    backbone: Backbone,
    batch: Batch,
    token: str | Tensor = "first",
    *,
    edits: Edits | None = None,
    signals: Mapping[str, Tensor] | None = None,
) -> LayerJacobians:
    """Return A_t and B_t of every frozen block at one token's state, along the frozen, a reference or a tuned trajectory.

    With attention weights a_j over all keys j, heads h, x the sublayer's input at the token i, o = sum_j a_j v_j:

        d attn / d x = sum_h W_o (S C W_q + a_i W_v + S a_i (v_i - o) q' W_k),    C = sum_j a_j (v_j - o) k_j'
        d mlp / d x  = W_2 diag(act'(W_1 x + b)) W_1      (gated: W_2 (diag(act' u) W_g + diag(act) W_u))
        LayerNorm    : diag(w) (I - 11'/d - n n'/d) / sigma, n the normalised input; RMSNorm without 11'/d
        d attn / d V_j = a_j W_o,    d attn / d K_j = S a_j W_o (v_j - o) q'      (prefix slot j, rank one per head)

    S is the attention's scale; C, q and k are turned by the rotary position where there is one. Every column of B is
    multiplied by what follows in the block.

    token: "first", "last" (the last real one) or positions (B,). The trajectory is the frozen one, the one with
    `signals` added at places ((d,), (B, d) or (B, T, d), as in `Subject.steered`), or the one under `edits`. A prefix
    of the edits stays in the attention, its keys and values being controls; whatever else the edits do is held as an
    added signal, so A and B are those of the frozen blocks in open loop. About a prefix in that sense too, pass its
    rolled-out signals. Raises ValueError for an architecture or activation whose closed form is not here, prompt
    tokens, unknown places and positions that are not real tokens.
    """
    edits, signals = edits or Edits(), dict(signals or {})
    act = _activation(backbone)
    if edits.prompt is not None:
        raise ValueError("expected edits without prompt tokens, got a prompt; pass its rolled-out signals instead")
    at = _positions(batch.mask, token)
    run = frame(backbone, edits, signals=signals, record=True)
    with torch.no_grad():
        hidden(backbone, batch, run)
        if unknown := sorted(set(signals) - set(run.outputs)):
            raise ValueError(f"expected signals at places such as {backbone.ports[0].key!r}, got {unknown[0]!r}")
        scores = _Scores(backbone, batch, run, at)
        steps = [_block(backbone, run, block, at, scores, act) for block in range(backbone.blocks)]
    last = run.outputs[f"{backbone.blocks - 1}.mlp_norm"] if backbone.layout.norms else run.inputs["final"]
    entries = [run.inputs[f"{block}.attention"] for block in range(backbone.blocks)]
    return LayerJacobians(
        A=tuple(A for A, _ in steps),
        B={site: tuple(B[site] for _, B in steps) for site in steps[0][1]},
        states=tuple(_rows(h, at) for h in (*entries, last)),
        token=at,
    )


def _block(
    backbone: Backbone, run: Frame, block: int, at: Tensor, scores: _Scores, act: tuple[Callable, Callable]
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return (A, {site: B}) of one block."""
    layout, one = backbone.layout, torch.eye(backbone.width, dtype=backbone.dtype, device=backbone.device)
    module = lambda path: backbone.model.get_submodule(backbone.path(block, path))  # noqa: E731
    h, middle = run.inputs[f"{block}.attention"], _rows(run.inputs[f"{block}.mlp"], at)
    within = _Open()
    if layout.pre_norm:
        first, second = (module(path) if layout.opened else nn.Identity() for path in layout.heads)
        head = _Attention(backbone, block, first(h), at, scores)
        met, (out, mlp) = head.jacobian(), _mlp(backbone, block, second(middle), act)
        if layout.closings is not None:
            within, closing = (_norm(module(path), y) for path, y in zip(layout.closings, (head.output(), out), strict=True))
            met, mlp = within.before(met), closing.before(mlp)
        inner, mlp = _norm(first, _rows(h, at)).after(met), _norm(second, middle).after(mlp)
        if getattr(backbone.model.config, "use_parallel_residual", False):
            rest = last = one.expand(len(h), -1, -1)
            A = inner + mlp + one
        else:
            rest, last = mlp + one, one.expand(len(h), -1, -1)
            A = torch.baddbmm(rest, rest, inner)
    else:
        first, second = (
            _norm(module(norm), _rows(run.inputs[f"{block}.{site}_norm"], at))
            for site, norm in zip(SITES, layout.norms, strict=True)
        )
        head = _Attention(backbone, block, h, at, scores)
        rest = second.before(first.after(_mlp(backbone, block, middle, act)[1] + one))
        last = second.before(one.expand(len(h), -1, -1))
        A = torch.baddbmm(rest, rest, head.jacobian())
    B = dict(zip(SITES, (rest, last), strict=True))
    return A, B | (dict(zip(PREFIX, head.prefix(within.after(rest)), strict=True)) if run.edits.prefix else {})


def _norm(module: nn.Module, x: Tensor) -> _Norm | _Open:
    """Return the derivative at x (B, d) of what stands where a normalisation may stand."""
    return _Open() if isinstance(module, nn.Identity) else _Norm(module, x)


class _Open:
    """The derivative of nothing in between."""

    def after(self, M: Tensor) -> Tensor:
        return M

    def before(self, M: Tensor) -> Tensor:
        return M


class _Norm:
    """The derivative of a normalisation at x (B, d): diag(w) (I - [11'/d] - n n'/d) / sigma, never formed."""

    def __init__(self, module: nn.Module, x: Tensor) -> None:
        if not isinstance(module, nn.LayerNorm | RMSNorm):
            raise ValueError(f"expected a LayerNorm or an RMSNorm, got {type(module).__name__}; add its derivative")
        self.centred = isinstance(module, nn.LayerNorm)
        x = x - x.mean(-1, keepdim=True) if self.centred else x
        scale = torch.rsqrt(x.square().mean(-1, keepdim=True) + module.eps)
        self.normal, self.gain = x * scale, (module.weight if self.centred else module.gain) * scale

    def after(self, M: Tensor) -> Tensor:
        """Return M J for M (B, n, d), the normalisation acting first."""
        M = M * self.gain[:, None]
        along = M @ self.normal[..., None] / -M.shape[-1]
        M = M - M.mean(-1, keepdim=True) if self.centred else M
        return torch.baddbmm(M, along, self.normal[:, None])

    def before(self, M: Tensor) -> Tensor:
        """Return J M for M (B, d, n), the normalisation acting last."""
        along = self.normal[:, None] @ M / -M.shape[1]
        M = M - M.mean(1, keepdim=True) if self.centred else M
        return torch.baddbmm(M, self.normal[..., None], along) * self.gain[..., None]


class _HeadNorm:
    """The normalisation of queries or of keys, over each head or over all of them at once, or none; and its derivative."""

    def __init__(self, module: nn.Module | None, width: int) -> None:
        self.module, self.width = module, width

    def __call__(self, x: Tensor) -> Tensor:
        """Return (..., heads, c) of a map's outputs (..., heads c)."""
        split = (-1, self.width)
        if self.module is None:
            return x.unflatten(-1, split)
        return self.module(x).unflatten(-1, split) if self._whole(x) else self.module(x.unflatten(-1, split))

    def after(self, M: Tensor, x: Tensor) -> Tensor:
        """Return M J as (B, n, heads c) for M (B, n, heads, c), J the derivative at the map's outputs x (B, heads c)."""
        if self.module is None:
            return M.flatten(2)
        if self._whole(x):
            return _Norm(self.module, x).after(M.flatten(2))
        x = x.unflatten(-1, (-1, self.width))
        made = _Norm(self.module, x.flatten(0, 1)).after(M.transpose(1, 2).flatten(0, 1))
        return made.unflatten(0, x.shape[:2]).transpose(1, 2).flatten(2)

    def _whole(self, x: Tensor) -> bool:
        return self.module.weight.numel() == x.shape[-1]


class _Scores:
    """What the blocks share: the mask row of the token (B, 1 or heads, T), rotary angles and the trajectory's edits."""

    def __init__(self, backbone: Backbone, batch: Batch, run: Frame, at: Tensor) -> None:
        length, causal = batch.mask.shape[1], backbone.kind == "decoder"
        mask = additive_mask(batch.mask, causal=causal, closed_slots=0, dtype=backbone.dtype)
        if backbone.layout.relative is not None:
            shared = backbone.model.get_submodule(backbone.layout.relative)
            mask = mask + shared.compute_position_bias(run.inputs["0.attention"])
        rows = mask.expand(-1, -1, length, -1)
        self.mask = rows[torch.arange(len(at), device=at.device), :, at]
        self.edits, self.at, self.angles = run.edits, at, [None] * backbone.blocks
        if (rotary := getattr(backbone.model, "rotary_emb", None)) is not None:
            h, positions = run.inputs["0.attention"], torch.arange(length, device=at.device) + run.edits.shift
            several = isinstance(rotary.rope_type, dict)  # one rotation for each kind of attention
            for block, module in enumerate(backbone.attentions):
                if getattr(module, "use_rope", True):
                    kind = (backbone.model.config.layer_types[block],) if several else ()
                    self.angles[block] = rotary(h, positions.expand(len(at), -1), *kind)

    def row(self, window: int | None, slots: int) -> Tensor:
        """Return the mask of the token's scores on a prefix and the text, the keys outside a sliding window blocked."""
        mask = F.pad(self.mask, (slots, 0), value=blocked(self.mask.dtype) if self.edits.closed else 0.0)
        if window is None:
            return mask
        far = (torch.arange(-slots, self.mask.shape[-1], device=self.at.device) - self.at[:, None]).abs() >= window
        return mask.masked_fill(far[:, None], blocked(mask.dtype))

    def turn(self, block: int, x: Tensor) -> Tensor:
        """Return keys (B, T, heads, c) turned to their positions."""
        angles = self.angles[block]
        return x if angles is None else turned(x, *(angle[:, :, None] for angle in angles))

    def turn_at(self, block: int, x: Tensor, *, back: bool = False) -> Tensor:
        """Return vectors (B, heads, ..., c) turned by the token's angle R, or by the transpose R'."""
        if self.angles[block] is None:
            return x
        at = self.at
        angles = (_rows(angle, at).reshape(len(at), *[1] * (x.ndim - 2), -1) for angle in self.angles[block])
        return turned(x, *angles, back=back)


class _Attention:
    """Frozen attention of the token i to all tokens, and to a prefix where the trajectory has one.

    Where q and k are normalised, W_q and W_k are followed by that derivative; where scores s_j are capped, a_j is multiplied by
    1 - tanh(s_j / cap)^2 in the derivative of the scores.
    """

    def __init__(self, backbone: Backbone, block: int, x: Tensor, at: Tensor, scores: _Scores) -> None:
        split, groups = (-1, backbone.head_width), backbone.heads // backbone.key_value_heads
        module, paths = backbone.attentions[block], backbone.layout.head_norms or ()
        norms = [backbone.model.get_submodule(backbone.path(block, path)) for path in paths] or [None, None]
        self.norm_q, self.norm_k = (_HeadNorm(norm, backbone.head_width) for norm in norms)
        self.scale = getattr(module, "scaling", backbone.head_width**-0.5)
        (Wq, bq), (Wk, bk), (Wv, bv), (Wo, self.bo) = (_weights(backbone, block, role) for role in "qkvo")
        self.Wq, self.Wk, self.Wo = Wq, Wk, Wo.unflatten(1, split)  # (H c, d), (K c, d), (d, H, c)
        self.Wv = Wv.unflatten(0, split).repeat_interleave(groups, dim=0)  # (H, c, d)
        self.block, self.at, self.scores, self.groups = block, at, scores, groups
        self.before_q, k = F.linear(_rows(x, at), Wq, bq), F.linear(x, Wk, bk)
        self.before_k = _rows(k, at)
        self.q = scores.turn_at(block, self.norm_q(self.before_q))  # (B, H, c)
        k, v = scores.turn(block, self.norm_k(k)), F.linear(x, Wv, bv).unflatten(-1, split)
        prefix = scores.edits.prefix.get(block)
        self.slots = 0 if prefix is None else len(prefix[0])
        if prefix is not None:
            k, v = (torch.cat([p.to(w).expand(len(w), -1, -1, -1), w], dim=1) for p, w in zip(prefix, (k, v), strict=True))
        k, v = (w.transpose(1, 2).repeat_interleave(groups, dim=1) for w in (k, v))  # (B, H, S, c)
        self.keys = k
        own, cap = (k @ self.q[..., None])[..., 0] * self.scale, getattr(module, "attn_logit_softcapping", None)
        self.a = torch.softmax(capped(own, cap) + scores.row(module.window, self.slots), dim=-1)  # (B, H, S)
        self.met = self.a[:, :, None] @ v  # o, (B, H, 1, c)
        self.apart = v - self.met  # v_j - o
        self.lever = self.scale * (self.a if cap is None else self.a * (1 - torch.tanh(own / cap) ** 2))  # of a score on them

    def output(self) -> Tensor:
        """Return the attention's output at the token, (B, d)."""
        return F.linear(self.met.flatten(1), self.Wo.flatten(1), self.bo)

    def jacobian(self) -> Tensor:
        """Return d attn / d x at the token, (B, d, d)."""
        size, (width, heads, _) = len(self.q), self.Wo.shape
        C = (self.lever[..., None] * self.apart).mT @ self.keys  # (B, H, c, c)
        left = self.Wo.transpose(0, 1) @ self.scores.turn_at(self.block, C, back=True)  # (B, H, d, c)
        left = self.norm_q.after(left.transpose(1, 2), self.before_q)
        J = (left.reshape(size * width, -1) @ self.Wq).view(size, width, width)
        own = self.at + self.slots
        each = torch.arange(size, device=own.device)
        a, lever, apart = (x[each, :, own] for x in (self.a, self.lever, self.apart))  # (B, H), (B, H), (B, H, c)
        through = (self.Wo.transpose(0, 1) @ self.Wv).view(heads, -1)  # W_o W_v per head
        J = torch.addmm(J.view(size, -1), a, through).view_as(J)
        columns = torch.einsum("dhc,bhc->bdh", self.Wo, apart * lever[..., None])
        return torch.baddbmm(J, columns, self._own_key())

    def _own_key(self) -> Tensor:
        """Return d (q k_i) / d x of the token's own key, head by head, (B, H, d)."""
        q, each = self.scores.turn_at(self.block, self.q, back=True), torch.arange(self.q.shape[1], device=self.q.device)
        placed = q.new_zeros(*q.shape[:2], len(each) // self.groups, q.shape[2])  # each head's query beside the key that it meets
        placed[:, each, each // self.groups] = q
        return self.norm_k.after(placed, self.before_k) @ self.Wk

    def prefix(self, rest: Tensor) -> tuple[Tensor, Tensor]:
        """Return rest @ d attn / d (keys, values) of the prefix, each (B, d, length * key-value heads * head width)."""
        a = self.a[..., : self.slots]
        out = (rest @ self.Wo.flatten(1)).unflatten(-1, self.Wo.shape[1:])  # rest W_o, (B, d, H, c)
        lever = torch.einsum("bdhc,bhlc->bdlh", out, self.lever[..., : self.slots, None] * self.apart[:, :, : self.slots])
        made = (lever[..., None] * self.q[:, None, None], torch.einsum("bhl,bdhc->bdlhc", a, out))
        grouped = (x.unflatten(3, (-1, self.groups)).sum(4) for x in made)  # heads that share a key and a value
        return tuple(x.flatten(2) for x in grouped)


def _mlp(backbone: Backbone, block: int, x: Tensor, act: tuple[Callable, Callable]) -> tuple[Tensor, Tensor]:
    """Return the mlp's output (B, d) at its input x (B, d) and d mlp / d x, (B, d, d)."""
    value, slope = act
    (up, bias), (down, down_bias) = (_weights(backbone, block, role) for role in ("up", "down"))
    u = F.linear(x, up, bias)
    if {"gate", "gate_up"} & backbone.layout.roles.keys():
        gate, gate_bias = _weights(backbone, block, "gate")
        g = F.linear(x, gate, gate_bias)
        inner, terms = value(g) * u, [(slope(g) * u, gate), (value(g), up)]
    else:
        inner, terms = value(u), [(slope(u), up)]
    chunk = max(1, SCRATCH // down.numel())
    made = [
        sum((down * d[:, None]) @ W for d, W in zip(part, (W for _, W in terms), strict=True))
        for part in zip(*(d.split(chunk) for d, _ in terms), strict=True)
    ]
    return F.linear(inner, down, down_bias), torch.cat(made)


def _weights(backbone: Backbone, block: int, role: str) -> tuple[Tensor, Tensor | None]:
    """Return (weight (outputs, inputs), bias) of one linear map, cut out of a fused module."""
    linear = backbone.linear(block, role)
    module = backbone.model.get_submodule(linear.path)
    weight, bias = module.weight.T if transposed(module) else module.weight, getattr(module, "bias", None)
    if linear.rows is None:
        return weight, bias
    return weight[linear.rows], None if bias is None else bias[linear.rows]


def _rows(x: Tensor, at: Tensor) -> Tensor:
    """Return x[b, at[b]] for x (B, T, ...)."""
    return x[torch.arange(len(x), device=x.device), at]


def _positions(mask: Tensor, token: str | Tensor) -> Tensor:
    """Return the positions (B,) that `token` names, checked to be real tokens."""
    mask = mask.bool()
    if isinstance(token, Tensor):
        at = token.to(mask.device)
        fits = at.shape == mask.shape[:1] and not at.is_floating_point() and at.dtype != torch.bool
        if not fits or bool(((at < 0) | (at >= mask.shape[1])).any()) or not bool(_rows(mask, at).all()):
            raise ValueError(f"expected one position of a real token for each of {len(mask)} examples, got {token.tolist()}")
        return at
    if token not in ("first", "last"):
        raise ValueError(f"expected token 'first', 'last' or a tensor of positions, got {token!r}")
    return torch.zeros_like(mask[:, 0], dtype=torch.int64) if token == "first" else mask.sum(1) - 1


def _gelu_tanh_slope(x: Tensor) -> Tensor:
    root = math.sqrt(2 / math.pi)
    t = torch.tanh(root * (x + 0.044715 * x**3))
    return (1 + t) / 2 + x / 2 * (1 - t**2) * root * (1 + 3 * 0.044715 * x**2)


_GELU = (F.gelu, lambda x: (1 + torch.erf(x / math.sqrt(2))) / 2 + x * torch.exp(-(x**2) / 2) / math.sqrt(2 * math.pi))
_GELU_TANH = (lambda x: F.gelu(x, approximate="tanh"), _gelu_tanh_slope)
_SILU = (F.silu, lambda x: torch.sigmoid(x) * (1 + x * torch.sigmoid(-x)))
DERIVATIVES: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "gelu": _GELU,
    "gelu_new": _GELU_TANH,
    "gelu_pytorch_tanh": _GELU_TANH,
    "relu": (F.relu, lambda x: (x > 0).to(x.dtype)),
    "silu": _SILU,
    "swish": _SILU,
    "tanh": (torch.tanh, lambda x: 1 - torch.tanh(x) ** 2),
}


def _activation(backbone: Backbone) -> tuple[Callable, Callable]:
    """Return the value and the slope of the mlp's activation; raises ValueError for one that has no closed form here."""
    if not backbone.layout.closed_form:
        kinds = ", ".join(kind for kind, row in ARCHITECTURES.items() if row.closed_form)
        raise ValueError(
            f"expected a backbone of one of the kinds {kinds}, got {backbone.architecture!r}; its blocks "
            "have no closed form here: differentiate a block with torch.func.jacrev"
        )
    config = backbone.model.config
    names = (getattr(config, key, None) for key in ("hidden_activation", "hidden_act", "activation_function", "activation"))
    name = next((name for name in names if isinstance(name, str)), None)
    if name not in DERIVATIVES:
        raise ValueError(f"expected an activation among {', '.join(DERIVATIVES)}, got {name!r} in {backbone.name}")
    return DERIVATIVES[name]
