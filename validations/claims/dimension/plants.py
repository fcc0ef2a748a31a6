"""Plants of the dimension of random subspaces: controls at eight ports, or at one."""

from ..shared.network import (
    WIDTH,
    make_plant,
    plant_setting,
    port_keys,
)
from ..shared.setting import Setting

PORTS = (8, 8, 8, 8, 1, 1, 1, 1)  # of a subspace's controls, by system


def subspace_setting(system: int, seed: int) -> Setting:
    """Return controls at 8 ports or at 1, by system, so that dimensions differ by two to three octaves between partners."""
    ports = port_keys()[-PORTS[system] :]
    plant = make_plant(system, {f"{port}.bias": (WIDTH,) for port in ports}, uneven=True)
    dimensions = [round(len(ports) * WIDTH * share) for share in (0.06, 0.15, 0.3, 0.5, 0.7, 0.85, 1.0)]
    return plant_setting(system, seed, {"delta": plant}, 0.03, {"dimensions": dimensions})
