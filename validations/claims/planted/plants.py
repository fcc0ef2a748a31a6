"""Plants of known dimension: exactly linear, their directions all alike or unlike."""

from dataclasses import replace

from ..shared.network import WIDTH, make_plant, plant_setting, port_keys
from ..shared.setting import Setting

KNOWN = 16


def planted_setting(system: int, seed: int, *, decades: float) -> Setting:
    """Return additive controls at the one port of a system cut off behind it: exactly linear; curvatures over so many decades."""
    whole = make_plant(system, {f"{port}.bias": (WIDTH,) for port in port_keys()[:1]}, uneven=True)
    plant = replace(whole, A=whole.A[:1], strength=whole.strength[:1])
    return plant_setting(system, seed, {"delta": plant}, 0.03, {"known": KNOWN, "decades": decades}, tolerance=3e-3)
