"""Deltas inside the blocks: bottleneck adapters, low-rank updates, biases, rescalings."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from tuning.backbones import SITES, Backbone, Linear, transposed
from tuning.deltas.places import chosen_blocks, chosen_ports
from tuning.edits import Edits

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "relu": F.relu,
    "tanh": torch.tanh,
    "identity": lambda x: x,
}
ROLES = ("q", "k", "v", "qkv", "o", "up", "gate", "down")
SITE_OF = {role: SITES[0 if role in ROLES[:5] else 1] for role in ROLES}


def _count(shapes: dict[str, tuple[int, ...]]) -> int:
    return sum(math.prod(shape) for shape in shapes.values())


def _gaussian(shape: tuple[int, ...], scale: float, generator: torch.Generator, like: Backbone) -> Tensor:
    return (torch.randn(shape, generator=generator, dtype=torch.float64) * scale).to(like.device, like.dtype)


def _zeros(shape: tuple[int, ...], like: Backbone) -> Tensor:
    return torch.zeros(shape, dtype=like.dtype, device=like.device)


def _add_rows(y: Tensor, rows: Tensor | None, change: Tensor) -> Tensor:
    """y with the change added to all of its columns, or to the columns `rows` of a fused output."""
    return y + change if rows is None else torch.index_add(y, -1, rows, change)


def _grouped(pairs: Iterable[tuple[str, Callable]]) -> dict[str, tuple[Callable, ...]]:
    table: dict[str, tuple[Callable, ...]] = {}
    for path, edit in pairs:
        table[path] = table.get(path, ()) + (edit,)
    return table


def _maps_of(backbone: Backbone, roles: Iterable[str], blocks: tuple[int, ...] | None) -> list[tuple[str, Linear]]:
    """("block.site.role", linear map) of these roles in these blocks."""
    return [
        (f"{block}.{SITE_OF[role]}.{role}", backbone.linear(block, role))
        for block in chosen_blocks(backbone, blocks)
        for role in roles
    ]


def _weight_change(backbone: Backbone, linear: Linear, change: Tensor) -> tuple[str, Tensor]:
    """(parameter, additive change in the layout the module stores) for a change (d_out, d_in) of a map."""
    module = backbone.model.get_submodule(linear.path)
    if linear.rows is not None:
        full = torch.zeros((3 * linear.d_out, linear.d_in), dtype=change.dtype, device=change.device)
        change = torch.index_add(full, 0, linear.rows, change)
    return f"{linear.path}.weight", change.T if transposed(module) else change


@dataclass(frozen=True)
class Adapter:
    """A bottleneck network at the ports: y + s W_up act(W_down x + b_down) + b_up.

    "sequential": x = y, the sublayer's own output (Houlsby et al. 2019). "parallel": x = h, the sublayer's
    input (He et al. 2022, section 4.1). W_up and b_up start at zero, W_down as in a linear layer, so the
    identity is exact. `ports` holds sites or keys, `blocks` restricts them further; None means all.
    """

    bottleneck: int
    placement: str = "sequential"
    ports: tuple[str, ...] | None = None
    activation: str = "gelu"
    scale: float = 1.0
    blocks: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if self.bottleneck < 1:
            raise ValueError(f"expected an adapter with a positive bottleneck, got {self.bottleneck}")
        if self.placement not in ("sequential", "parallel"):
            raise ValueError(f"expected placement 'sequential' or 'parallel', got {self.placement!r}")
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"expected an activation among {', '.join(ACTIVATIONS)}, got {self.activation!r}")

    @property
    def name(self) -> str:
        """A short name with the placement and the size."""
        return f"{'adapter' if self.placement == 'sequential' else 'parallel-adapter'}-{self.bottleneck}"

    def shapes(self, backbone: Backbone) -> dict[str, tuple[int, ...]]:
        """down (r, d), down_bias (r,), up (d, r), up_bias (d,) per port."""
        r, d = self.bottleneck, backbone.width
        parts = {"down": (r, d), "down_bias": (r,), "up": (d, r), "up_bias": (d,)}
        return {
            f"{key}.{what}": shape for key in chosen_ports(backbone, self.ports, self.blocks) for what, shape in parts.items()
        }

    def initial(self, backbone: Backbone, seed: int) -> dict[str, Tensor]:
        """W_down uniform in +-1/sqrt(d) with the seed, everything else zero."""
        generator, bound = torch.Generator().manual_seed(seed), backbone.width**-0.5
        made = {}
        for name, shape in self.shapes(backbone).items():
            made[name] = _zeros(shape, backbone)
            if name.endswith(".down"):
                drawn = torch.rand(shape, generator=generator, dtype=torch.float64) * 2 * bound - bound
                made[name] = drawn.to(made[name])
        return made

    def edits(self, backbone: Backbone, params: dict[str, Tensor]) -> Edits:
        """One function per port."""
        act = ACTIVATIONS[self.activation]

        def at(key: str) -> Callable:
            down, down_bias, up, up_bias = (params[f"{key}.{w}"] for w in ("down", "down_bias", "up", "up_bias"))

            def edit(h: Tensor, y: Tensor) -> Tensor:
                x = y if self.placement == "sequential" else h
                return y + self.scale * F.linear(act(F.linear(x, down, down_bias)), up, up_bias)

            return edit

        return Edits(ports={key: (at(key),) for key in chosen_ports(backbone, self.ports, self.blocks)})

    def size(self, backbone: Backbone) -> int:
        """2 r d + r + d per port."""
        return _count(self.shapes(backbone))


@dataclass(frozen=True)
class LoRA:
    """W + (alpha / rank) B A on the target linear maps (Hu et al. 2022).

    A is gaussian with variance 1/d_in at the start, B zero. Targets are a subset of q, k, v, qkv (a fused map
    as a whole), o, up, gate, down and mlp, which stands for up and down; `blocks` restricts it to some blocks.
    """

    rank: int
    alpha: float | None = None
    targets: tuple[str, ...] = ("q", "v")
    blocks: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"expected LoRA with a positive rank, got {self.rank}")
        if not self.targets or not set(self.targets) <= {*ROLES, "mlp"}:
            raise ValueError(f"expected LoRA targets among {', '.join(ROLES)}, mlp, got {self.targets}")

    @property
    def name(self) -> str:
        """A short name with the rank."""
        return f"lora-{self.rank}"

    @property
    def scale(self) -> float:
        """alpha / rank; alpha defaults to the rank."""
        return 1.0 if self.alpha is None else self.alpha / self.rank

    @property
    def roles(self) -> tuple[str, ...]:
        """The targets as roles of linear maps, in forward order."""
        wanted = [role for t in self.targets for role in (("up", "down") if t == "mlp" else (t,))]
        return tuple(role for role in ROLES if role in wanted)

    def _maps(self, backbone: Backbone) -> list[tuple[str, Linear]]:
        return _maps_of(backbone, self.roles, self.blocks)

    def shapes(self, backbone: Backbone) -> dict[str, tuple[int, ...]]:
        """A (rank, d_in) and B (d_out, rank) per target."""
        made: dict[str, tuple[int, ...]] = {}
        for key, linear in self._maps(backbone):
            made |= {f"{key}.A": (self.rank, linear.d_in), f"{key}.B": (linear.d_out, self.rank)}
        return made

    def initial(self, backbone: Backbone, seed: int) -> dict[str, Tensor]:
        """A gaussian with the seed, B zero."""
        generator = torch.Generator().manual_seed(seed)
        return {
            name: _gaussian(shape, shape[1] ** -0.5, generator, backbone) if name[-1] == "A" else _zeros(shape, backbone)
            for name, shape in self.shapes(backbone).items()
        }

    def edits(self, backbone: Backbone, params: dict[str, Tensor]) -> Edits:
        """The low-rank product added to what each target computes; the full matrix is never formed."""

        def at(key: str, rows: Tensor | None) -> Callable:
            a, b = params[f"{key}.A"], params[f"{key}.B"]
            return lambda x, y: _add_rows(y, rows, self.scale * F.linear(F.linear(x, a), b))

        return Edits(outputs=_grouped((linear.path, at(key, linear.rows)) for key, linear in self._maps(backbone)))

    def weight_changes(self, backbone: Backbone, params: dict[str, Tensor]) -> dict[str, Tensor]:
        """{model parameter: (alpha / rank) B A}, the same function written as a change of the weights."""
        made: dict[str, Tensor] = {}
        for key, linear in self._maps(backbone):
            product = self.scale * params[f"{key}.B"] @ params[f"{key}.A"]
            name, change = _weight_change(backbone, linear, product)
            made[name] = made[name] + change if name in made else change
        return made

    def size(self, backbone: Backbone) -> int:
        """rank * (d_in + d_out) per target."""
        return _count(self.shapes(backbone))


@dataclass(frozen=True)
class BitFit:
    """Every bias of the backbone, normalisations included, moved by a trained vector (Ben Zaken et al. 2022).

    A backbone that has no bias anywhere (Llama) gets one on the output of each linear map of its blocks
    instead. `blocks` leaves only the biases inside these blocks.
    """

    blocks: tuple[int, ...] | None = None

    @property
    def name(self) -> str:
        """A short name."""
        return "bitfit"

    def _biases(self, backbone: Backbone) -> dict[str, str]:
        names = [name for name, _ in backbone.model.named_parameters() if name.endswith(".bias")]
        found = {backbone.key_of(name): name for name in names}
        if self.blocks is None or not found:
            return found
        inside = {str(block) for block in chosen_blocks(backbone, self.blocks)}
        return {key: name for key, name in found.items() if key.partition(".")[0] in inside}

    def _added(self, backbone: Backbone) -> dict[str, Linear]:
        maps = _maps_of(backbone, backbone.layout.roles, self.blocks)
        return {f"{key}.bias": linear for key, linear in maps}

    def shapes(self, backbone: Backbone) -> dict[str, tuple[int, ...]]:
        """One vector per bias."""
        biases = self._biases(backbone)
        if biases:
            return {key: tuple(backbone.model.get_parameter(name).shape) for key, name in biases.items()}
        return {key: (linear.d_out,) for key, linear in self._added(backbone).items()}

    def initial(self, backbone: Backbone, seed: int) -> dict[str, Tensor]:
        """Zero for every seed."""
        return {name: _zeros(shape, backbone) for name, shape in self.shapes(backbone).items()}

    def edits(self, backbone: Backbone, params: dict[str, Tensor]) -> Edits:
        """The vectors added to the biases, or to the outputs of the linear maps."""
        biases = self._biases(backbone)
        if biases:
            return Edits(weights={name: params[key] for key, name in biases.items()})

        def at(key: str) -> Callable:
            return lambda x, y: y + params[key]

        return Edits(outputs={linear.path: (at(key),) for key, linear in self._added(backbone).items()})

    def weight_changes(self, backbone: Backbone, params: dict[str, Tensor]) -> dict[str, Tensor]:
        """{model parameter: change}; raises ValueError for a backbone without biases."""
        changes = self.edits(backbone, params).weights
        if not changes:
            raise ValueError(f"expected a backbone with biases to write BitFit as weight changes, {backbone.name} has none")
        return dict(changes)

    def size(self, backbone: Backbone) -> int:
        """The number of bias entries."""
        return _count(self.shapes(backbone))


@dataclass(frozen=True)
class PortBias:
    """One trained vector per port, added to the sublayer's output: the plainest open-loop control."""

    ports: tuple[str, ...] | None = None
    blocks: tuple[int, ...] | None = None

    @property
    def name(self) -> str:
        """A short name."""
        return "port-bias"

    def shapes(self, backbone: Backbone) -> dict[str, tuple[int, ...]]:
        """(d,) per port."""
        return {f"{key}.bias": (backbone.width,) for key in chosen_ports(backbone, self.ports, self.blocks)}

    def initial(self, backbone: Backbone, seed: int) -> dict[str, Tensor]:
        """Zero for every seed."""
        return {name: _zeros(shape, backbone) for name, shape in self.shapes(backbone).items()}

    def edits(self, backbone: Backbone, params: dict[str, Tensor]) -> Edits:
        """The vectors added at the ports."""

        def at(key: str) -> Callable:
            return lambda h, y: y + params[f"{key}.bias"]

        return Edits(ports={key: (at(key),) for key in chosen_ports(backbone, self.ports, self.blocks)})

    def size(self, backbone: Backbone) -> int:
        """d per port."""
        return backbone.width * len(chosen_ports(backbone, self.ports, self.blocks))


@dataclass(frozen=True)
class IA3:
    """Trained factors on keys, values and the mlp's hidden layer, all one at the start (Liu et al. 2022).

    `targets` are roles of linear maps; those among `inputs` have what enters them scaled, the others what
    leaves them. `blocks` restricts it to some blocks.
    """

    targets: tuple[str, ...] = ("k", "v", "down")
    inputs: tuple[str, ...] = ("down",)
    blocks: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if not self.targets or not {*self.targets, *self.inputs} <= set(ROLES):
            raise ValueError(f"expected IA3 targets and inputs among {', '.join(ROLES)}, got {self.targets} and {self.inputs}")

    @property
    def name(self) -> str:
        """A short name."""
        return "ia3"

    def _maps(self, backbone: Backbone) -> list[tuple[str, Linear, bool]]:
        maps = _maps_of(backbone, [role for role in ROLES if role in self.targets], self.blocks)
        made = [(key, linear, key.rpartition(".")[2] in self.inputs) for key, linear in maps]
        if parts := [key for key, linear, enters in made if enters and linear.rows is not None]:
            raise ValueError(f"expected inputs of whole maps, {parts[0]} of {backbone.name} is fused; name qkv there")
        return made

    def shapes(self, backbone: Backbone) -> dict[str, tuple[int, ...]]:
        """(d_in,) for the maps whose input is scaled, (d_out,) for the others."""
        return {key: (m.d_in if enters else m.d_out,) for key, m, enters in self._maps(backbone)}

    def initial(self, backbone: Backbone, seed: int) -> dict[str, Tensor]:
        """One for every seed."""
        return {name: _zeros(shape, backbone) + 1 for name, shape in self.shapes(backbone).items()}

    def edits(self, backbone: Backbone, params: dict[str, Tensor]) -> Edits:
        """Products with what leaves the maps, or with what enters them."""

        def after(key: str, rows: Tensor | None, d_out: int) -> Callable:
            factor = params[key]
            if rows is not None:
                factor = torch.index_add(_zeros((3 * d_out,), backbone) + 1, 0, rows, factor - 1)
            return lambda x, y: y * factor

        def before(key: str) -> Callable:
            return lambda x: x * params[key]

        maps = self._maps(backbone)
        return Edits(
            outputs=_grouped((m.path, after(key, m.rows, m.d_out)) for key, m, enters in maps if not enters),
            inputs=_grouped((m.path, before(key)) for key, m, enters in maps if enters),
        )

    def size(self, backbone: Backbone) -> int:
        """Counted from the shapes."""
        return _count(self.shapes(backbone))
