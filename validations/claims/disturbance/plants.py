"""Plants of disturbances: what they do to the outputs is linear, and only an adapter can answer them."""

from dataclasses import replace

from ..shared.network import WIDTH, bias_and_adapter, draw, partner, plant_setting
from ..shared.setting import Setting

SIZES = (1.2, 2.4)  # of the readout, for the first half of the systems and for their partners


def disturbance_setting(system: int, seed: int, *, blind: bool = False) -> Setting:
    """Return a prefix (here a bias) and an adapter at the attention ports of a system; a blind adapter is a bias too.

    A system and its partner (0 and 7, 1 and 6 ...) differ by a factor of two in the readout, so that noise costs four times
    as much on the one as is predicted for the other. States point every way and the labels do not answer to them: an adapter
    pays by cancelling what states do to the logits, and so what disturbances do. Control is cheap, examples differ little and
    are many, so that one law serves them all and cannot learn their labels by heart.
    """
    bias, adapter = bias_and_adapter(system, seed, SIZES[system > partner(system)])
    setting = plant_setting(
        system,
        seed,
        {"prefix": bias, "adapter": bias if blind else adapter},
        0.1,
        {"draws": 12, "players": 8, "attacked": 24, "rounds": 60},
        tolerance=3e-2,
    )
    train, test = (draw(system, seed, split, size, 0.02, WIDTH, answers=False) for split, size in enumerate((512, 128)))
    return replace(setting, train=train, test=test)
