"""Which blocks and ports of a backbone a delta acts on; blocks are counted from 0, as in PEFT and in every parameter's name."""

from __future__ import annotations

from tuning.backbones import Backbone


def chosen_blocks(backbone: Backbone, blocks: tuple[int, ...] | None) -> tuple[int, ...]:
    """Return the blocks in forward order; None means all. Raises ValueError for none at all or one that does not exist."""
    everyone = range(backbone.blocks)
    if blocks is None:
        return tuple(everyone)
    if not blocks or not set(blocks) <= set(everyone):
        raise ValueError(
            f"expected blocks between 0 and {backbone.blocks - 1} of {backbone.name}, got {tuple(blocks)}; name others"
        )
    return tuple(block for block in everyone if block in blocks)


def chosen_ports(backbone: Backbone, ports: tuple[str, ...] | None, blocks: tuple[int, ...] | None = None) -> list[str]:
    """Return the keys of the ports in forward order, of these blocks; `ports` are sites ("mlp") or keys ("3.mlp"), None all."""
    inside = chosen_blocks(backbone, blocks)
    keys = [port.key for port in backbone.ports]
    sites = tuple(dict.fromkeys(port.site for port in backbone.ports))
    if ports is None:
        ports = sites
    unknown = [port for port in ports if port not in sites and port not in keys]
    if unknown or not ports:
        raise ValueError(f"expected ports among {sites} or '0.attention' to '{keys[-1]}', got {unknown or ports}")
    chosen = [port.key for port in backbone.ports if port.block in inside and (port.key in ports or port.site in ports)]
    if not chosen:
        raise ValueError(f"expected some of the ports {ports} within the blocks {inside}, found none; widen one of them")
    return chosen
