"""Plants of synthesised controllers: bias, prefix and a linear adapter, on which affine laws are exact."""

from ..shared.law_plants import law_plant
from ..shared.network import LATENT, WIDTH, plant_setting, port_keys
from ..shared.setting import Setting


def synthesis_setting(system: int, seed: int) -> Setting:
    """Return bias, prefix (here a bias) and a linear adapter on the attention ports of a system."""
    ports = port_keys("attention")
    shapes = {"down": (LATENT, WIDTH), "down_bias": (LATENT,), "up": (WIDTH, LATENT), "up_bias": (WIDTH,)}
    bias = law_plant(system, {f"{port}.bias": (WIDTH,) for port in ports})
    adapter = law_plant(system, {f"{port}.{what}": shape for port in ports for what, shape in shapes.items()}, seed)
    return plant_setting(
        system, seed, {"bias": bias, "prefix": bias, "adapter": adapter}, 0.03, {"bottleneck": LATENT}, tolerance=3e-2
    )
