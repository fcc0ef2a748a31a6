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
from tuning.attention import RMSNorm, additive_mask, blocked
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
    if layout.pre_norm:
        first, second = module(layout.heads[0]), _Norm(module(layout.heads[1]), middle)
        head = _Attention(backbone, block, first(h), at, scores)
        inner = _Norm(first, _rows(h, at)).after(head.jacobian())
        mlp = second.after(_mlp(backbone, block, module(layout.heads[1])(middle), act))
        if getattr(backbone.model.config, "use_parallel_residual", False):
            rest = last = one.expand(len(h), -1, -1)
            A = inner + mlp + one
        else:
            rest, last = mlp + one, one.expand(len(h), -1, -1)
            A = torch.baddbmm(rest, rest, inner)
    else:
        first, second = (
            _Norm(module(norm), _rows(run.inputs[f"{block}.{site}_norm"], at))
            for site, norm in zip(SITES, layout.norms, strict=True)
        )
        head = _Attention(backbone, block, h, at, scores)
        rest = second.before(first.after(_mlp(backbone, block, middle, act) + one))
        last = second.before(one.expand(len(h), -1, -1))
        A = torch.baddbmm(rest, rest, head.jacobian())
    B = dict(zip(SITES, (rest, last), strict=True))
    return A, B | (dict(zip(PREFIX, head.prefix(rest), strict=True)) if run.edits.prefix else {})


class _Norm:
    """The derivative of a normalisation at x (B, d): diag(w) (I - [11'/d] - n n'/d) / sigma, never formed."""

    def __init__(self, module: nn.Module, x: Tensor) -> None:
        if not isinstance(module, nn.LayerNorm | RMSNorm):
            raise ValueError(f"expected a LayerNorm or an RMSNorm, got {type(module).__name__}; add its derivative")
        self.centred = isinstance(module, nn.LayerNorm)
        x = x - x.mean(-1, keepdim=True) if self.centred else x
        scale = torch.rsqrt(x.square().mean(-1, keepdim=True) + module.eps)
        self.normal, self.gain = x * scale, module.weight * scale

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
        self.edits, self.angles = run.edits, None
        if (rotary := getattr(backbone.model, "rotary_emb", None)) is not None:
            positions = torch.arange(length, device=at.device) + run.edits.shift
            self.angles = rotary(run.inputs["0.attention"], positions.expand(len(at), -1))

    def turn(self, x: Tensor) -> Tensor:
        """Return keys (B, T, heads, c) turned to their positions."""
        return x if self.angles is None else _turn(x, *(angle[:, :, None] for angle in self.angles))

    def turn_at(self, at: Tensor, x: Tensor, *, back: bool = False) -> Tensor:
        """Return vectors (B, heads, ..., c) turned by the token's angle R, or by the transpose R'."""
        if self.angles is None:
            return x
        angles = (_rows(angle, at).reshape(len(at), *[1] * (x.ndim - 2), -1) for angle in self.angles)
        return _turn(x, *angles, back=back)


class _Attention:
    """Frozen attention of the token i to all tokens, and to a prefix where the trajectory has one."""

    def __init__(self, backbone: Backbone, block: int, x: Tensor, at: Tensor, scores: _Scores) -> None:
        split, groups = (-1, backbone.head_width), backbone.heads // backbone.key_value_heads
        module = backbone.model.get_submodule(backbone.path(block, backbone.layout.attention))
        self.scale = getattr(module, "scaling", backbone.head_width**-0.5)
        (Wq, bq), (Wk, bk), (Wv, bv), (Wo, _) = (_weights(backbone, block, role) for role in "qkvo")
        self.Wq, self.Wo = Wq, Wo.unflatten(1, split)  # (H c, d), (d, H, c)
        self.Wk, self.Wv = (W.unflatten(0, split).repeat_interleave(groups, dim=0) for W in (Wk, Wv))  # (H, c, d)
        self.at, self.scores, self.groups = at, scores, groups
        self.q = scores.turn_at(at, F.linear(_rows(x, at), Wq, bq).unflatten(-1, split))  # (B, H, c)
        k, v, mask = scores.turn(F.linear(x, Wk, bk).unflatten(-1, split)), F.linear(x, Wv, bv).unflatten(-1, split), scores.mask
        prefix = scores.edits.prefix.get(block)
        self.slots = 0 if prefix is None else len(prefix[0])
        if prefix is not None:
            k, v = (torch.cat([p.to(w).expand(len(w), -1, -1, -1), w], dim=1) for p, w in zip(prefix, (k, v), strict=True))
            mask = F.pad(mask, (self.slots, 0), value=blocked(mask.dtype) if scores.edits.closed else 0.0)
        k, v = (w.transpose(1, 2).repeat_interleave(groups, dim=1) for w in (k, v))  # (B, H, S, c)
        self.keys = k
        self.a = torch.softmax((k @ self.q[..., None])[..., 0] * self.scale + mask, dim=-1)  # (B, H, S)
        self.apart = v - self.a[:, :, None] @ v  # v_j - o

    def jacobian(self) -> Tensor:
        """Return d attn / d x at the token, (B, d, d)."""
        size, (width, heads, _) = len(self.q), self.Wo.shape
        C = self.scale * (self.a[..., None] * self.apart).mT @ self.keys  # (B, H, c, c)
        left = self.Wo.transpose(0, 1) @ self.scores.turn_at(self.at, C, back=True)  # (B, H, d, c)
        J = (left.transpose(1, 2).reshape(size * width, -1) @ self.Wq).view(size, width, width)
        own = self.at + self.slots
        each = torch.arange(size, device=own.device)
        a, apart = self.a[each, :, own], self.apart[each, :, own]  # (B, H), (B, H, c)
        through = (self.Wo.transpose(0, 1) @ self.Wv).view(heads, -1)  # W_o W_v per head
        J = torch.addmm(J.view(size, -1), a, through).view_as(J)
        columns = torch.einsum("dhc,bhc->bdh", self.Wo, apart * (self.scale * a)[..., None])
        rows = torch.einsum("bhc,hcd->bhd", self.scores.turn_at(self.at, self.q, back=True), self.Wk)
        return torch.baddbmm(J, columns, rows)

    def prefix(self, rest: Tensor) -> tuple[Tensor, Tensor]:
        """Return rest @ d attn / d (keys, values) of the prefix, each (B, d, length * key-value heads * head width)."""
        a = self.a[..., : self.slots]
        out = (rest @ self.Wo.flatten(1)).unflatten(-1, self.Wo.shape[1:])  # rest W_o, (B, d, H, c)
        lever = torch.einsum("bdhc,bhlc->bdlh", out, self.scale * a[..., None] * self.apart[:, :, : self.slots])
        made = (lever[..., None] * self.q[:, None, None], torch.einsum("bhl,bdhc->bdlhc", a, out))
        grouped = (x.unflatten(3, (-1, self.groups)).sum(4) for x in made)  # heads that share a key and a value
        return tuple(x.flatten(2) for x in grouped)


def _mlp(backbone: Backbone, block: int, x: Tensor, act: tuple[Callable, Callable]) -> Tensor:
    """Return d mlp / d x at the mlp's input x (B, d), as (B, d, d)."""
    value, slope = act
    (up, bias), (down, _) = (_weights(backbone, block, role) for role in ("up", "down"))
    if "gate" in backbone.layout.roles:
        gate, gate_bias = _weights(backbone, block, "gate")
        g, u = F.linear(x, gate, gate_bias), F.linear(x, up, bias)
        terms = [(slope(g) * u, gate), (value(g), up)]
    else:
        terms = [(slope(F.linear(x, up, bias)), up)]
    chunk = max(1, SCRATCH // down.numel())
    made = [
        sum((down * d[:, None]) @ W for d, W in zip(part, (W for _, W in terms), strict=True))
        for part in zip(*(d.split(chunk) for d, _ in terms), strict=True)
    ]
    return torch.cat(made)


def _weights(backbone: Backbone, block: int, role: str) -> tuple[Tensor, Tensor | None]:
    """Return (weight (outputs, inputs), bias) of one linear map, cut out of a fused module."""
    linear = backbone.linear(block, role)
    module = backbone.model.get_submodule(linear.path)
    weight, bias = module.weight.T if transposed(module) else module.weight, getattr(module, "bias", None)
    if linear.rows is None:
        return weight, bias
    return weight[linear.rows], None if bias is None else bias[linear.rows]


def _turn(x: Tensor, cos: Tensor, sin: Tensor, *, back: bool = False) -> Tensor:
    """Return the rotary embedding R x of the first columns of x (Su et al. 2021, eq. 34, halves paired), or R' x."""
    width = cos.shape[-1]
    turned, kept = x[..., :width], x[..., width:]
    if back:
        low, high = (turned * sin).chunk(2, dim=-1)
        return torch.cat([turned * cos + torch.cat([high, -low], dim=-1), kept], dim=-1)
    low, high = turned.chunk(2, dim=-1)
    return torch.cat([turned * cos + torch.cat([-high, low], dim=-1) * sin, kept], dim=-1)


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
    names = (getattr(config, key, None) for key in ("hidden_act", "activation_function", "activation"))
    name = next((name for name in names if isinstance(name, str)), None)
    if name not in DERIVATIVES:
        raise ValueError(f"expected an activation among {', '.join(DERIVATIVES)}, got {name!r} in {backbone.name}")
    return DERIVATIVES[name]
