"""Known-good and known-bad controls: small gated networks on which a claim must come out supported, and refuted."""

from .network import SEEDS, SYSTEMS
from .settings import bias_setting, bounds_setting, law_setting, loop_setting, palette_setting, subspace_setting

__all__ = [
    "SEEDS",
    "SYSTEMS",
    "bias_setting",
    "bounds_setting",
    "law_setting",
    "loop_setting",
    "palette_setting",
    "subspace_setting",
]
