"""Plants of the budget law: additive controls at every port of gated networks."""

from dataclasses import replace

from ..shared.network import bias_setting, draw
from ..shared.setting import Setting


def budget_setting(system: int, seed: int) -> Setting:
    """Return one additive control per port on a system with a small readout and few examples, so that the law costs little."""
    setting = bias_setting(system, seed)
    plant = replace(setting.subjects["bias"], C=0.1 * setting.subjects["bias"].C)
    options = {"smallest": 0.05, "radii": 6}
    return replace(setting, subjects={"bias": plant}, train=draw(system, seed, 0, 16, 0.4), tolerance=1e-3, options=options)
