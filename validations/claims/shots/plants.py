"""Plants of few texts: linear layers on few texts or on many (see `facts.plants`).

What sees all numbers x, of which few carry what labels need, is misled by few texts, and the less the more texts there are.
"""

from dataclasses import replace
from functools import partial

from ..facts.plants import SEEN, Kind, compared
from ..shared.setting import Setting
from .experiment import EXPERIMENT

TEXTS = (16, 64, 256)
FULL = "full"
DELTAS = ("lora", "adapter", "bitfit")
USED = 3  # of the numbers x, that carry what labels need


def called(name: str, texts: int) -> str:
    """Return what a study calls a delta on so many texts: by its bare name on the most of them."""
    return name if texts == TEXTS[-1] else f"{name}-{texts}"


def amount(called_so: str) -> int:
    """Return the number of texts of a delta that is called so."""
    return int(called_so.rpartition("-")[2]) if "-" in called_so else TEXTS[-1]


FEWEST = called(FULL, TEXTS[0])


def _few(name: str, setting: Setting) -> Setting:
    """Return a setting with as many texts to train and to choose on as the delta's name says."""
    texts = amount(name)
    return replace(setting, train=setting.train.chunks(texts)[0], dev=setting.dev.chunks(texts)[0])


def _kind(full: int, delta: int) -> Kind:
    seen = {FULL: full} | dict.fromkeys(DELTAS, delta)
    return Kind({called(name, texts): count for name, count in seen.items() for texts in TEXTS}, used=USED)


misled, spared = (
    partial(compared, EXPERIMENT, kind, (FEWEST,), _few, looks=8, steps=120, batch_size=16)
    for kind in (_kind(SEEN, USED), _kind(USED, SEEN))
)
