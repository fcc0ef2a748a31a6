"""Plants of restricted optima: full tuning beside a delta that holds a part of its weights."""

from ..shared.network import (
    WIDTH,
    Plant,
    make_plant,
    plant_setting,
    port_keys,
)
from ..shared.setting import Setting


def bounds_setting(system: int, seed: int, *, penalty: float) -> Setting:
    """Return full tuning of a system's weights beside a delta that tunes the last two blocks only."""
    names = {f"{port}.weight": (WIDTH, WIDTH) for port in port_keys()}
    full = make_plant(system, names)
    tuned = tuple(list(names)[-4:])
    delta = Plant(full.A, full.C, full.strength, {name: full.initial[name] for name in tuned})
    return plant_setting(system, seed, {"full": full, "delta": delta}, penalty, {})
