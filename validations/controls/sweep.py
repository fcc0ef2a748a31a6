"""Plants on which a sweep of random subspaces is run: their dimensions differ by octaves, and the linear theory is exact."""

from dataclasses import replace

from ..experiments import Setting
from .network import WIDTH
from .settings import subspace_setting

READOUT = 0.3


def sweep_setting(system: int, seed: int) -> Setting:
    """Return the plant of `subspace_setting` with a weaker readout, on which the loss is nearly quadratic, and a small sweep."""
    size = (8 >> system) * WIDTH
    dimensions = [round(share * size) for share in (0.08, 0.25, 0.5, 0.75, 0.9)]
    options = {"dimensions": dimensions, "rates": [0.1, 0.3], "seeds": 2, "steps": 30, "batch": 64}
    setting = subspace_setting(system, seed)
    plant = setting.subjects["delta"]
    return replace(setting, subjects={"delta": replace(plant, C=READOUT * plant.C)}, options=options)
