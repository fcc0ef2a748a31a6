"""Plants of combinations: linear layers that see parts of what labels need, alone and together (see `facts.plants`)."""

from functools import partial

from ..facts.plants import Kind, compared
from .experiment import EXPERIMENT

SINGLES = ("prompt", "bitfit", "adapter")
AT_ONCE = ("prompt-bitfit", "prompt-adapter", "bitfit-adapter", "all-three")
IN_SEQUENCE = (
    "prompt-bitfit-adapter", "prompt-adapter-bitfit", "bitfit-prompt-adapter", "bitfit-adapter-prompt",
    "adapter-prompt-bitfit", "adapter-bitfit-prompt",
)  # fmt: skip
COMBINED = (*AT_ONCE, *IN_SEQUENCE)
SEEN = dict(zip(SINGLES, (3, 5, 7), strict=True))

joined = partial(compared, EXPERIMENT, Kind(SEEN | dict.fromkeys(COMBINED, 16)), ("adapter",), looks=6, steps=120)
spoilt = partial(
    compared, EXPERIMENT, Kind(dict.fromkeys(SINGLES, 12) | dict.fromkeys(COMBINED, 5)), ("adapter",), looks=6, steps=120
)
