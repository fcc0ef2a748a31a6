"""Plants of a data base of options: those of choosing, told from few texts; and linear layers in a unit of their own.

AdamW moves every number by its rate, so that the best rate goes with the reciprocal of the unit: no mean over other systems knows
it, and the curvature does.
"""

import functools
from dataclasses import replace

import torch

from ..choice.plants import KNOWN, MISTAKEN, OPTIONS, RATES, cells, settings
from ..practice.plants import scaled
from ..shared.setting import Setting
from .experiment import EXPERIMENT

RECIPE = {"steps": 400, "batch_size": 32, "looks": 11, "rates": RATES, "texts": 256}
DEV = 1024  # of the texts that choosing holds out
LARGER = 400.0  # units are by so much than those of practice, so that the head, which is trained too, hardly moves at these rates


def told_from_few(system: int) -> dict[str, Setting]:
    """Return the setting of every option of a system of choosing, told from two thirds of its texts, with more to choose on."""
    return {name: _chosen_on(setting) for name, setting in settings(system).items()}


def _chosen_on(setting: Setting) -> Setting:
    dev, *rest = setting.test.chunks(DEV)
    test = type(dev)(*map(torch.cat, zip(*rest, strict=True)))
    return replace(setting, dev=dev, test=test, options=RECIPE)


def measured_in(system: int) -> dict[str, Setting]:
    """Return the linear layer in a system's own unit on texts of their own for every option."""
    made = {name: scaled(system, seed) for seed, name in enumerate(OPTIONS)}
    return {name: _in_larger(setting) for name, setting in made.items()}


def _in_larger(setting: Setting) -> Setting:
    layer = setting.subjects["delta"]
    options = setting.options | {
        "rates": tuple(rate / LARGER for rate in setting.options["rates"]),
        "texts": len(setting.train.labels),
    }
    return replace(setting, subjects={"delta": replace(layer, unit=LARGER * layer.unit)}, options=options)


known, mistaken, in_units, in_others = (
    functools.partial(cells, EXPERIMENT, told_of, made) for made in (told_from_few, measured_in) for told_of in (KNOWN, MISTAKEN)
)
