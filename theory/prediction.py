"""What the theory says before anything is measured, as plain data."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np


def _plain(x):
    """Numbers and nested sequences of numbers as floats and tuples."""
    if isinstance(x, str) or x is None:
        raise TypeError(f"a number or an array of numbers was expected, got {x!r}")
    if isinstance(x, np.ndarray):
        x = x.tolist()
    if isinstance(x, list | tuple):
        return tuple(_plain(v) for v in x)
    number = float(x)
    if not math.isfinite(number):
        raise ValueError(f"a finite number was expected, got {number}; state an unbounded side as a large band")
    return number


@dataclass(frozen=True)
class Prediction:
    """One number (or array), or one band, that a claim commits to before the measurement.

    claim: what is claimed, in words or by its id. quantity: the name of what is measured. Exactly one of value
    (number or array) and band (low, high) is given. tolerance: the absolute error that still counts as agreement,
    >= 0. assumptions: sentences that must hold for the claim to apply. source: paper and section, or "derived".
    Raises ValueError or TypeError when a field is missing or both or neither of value and band are given.
    """

    claim: str
    quantity: str
    value: float | tuple | None = None
    band: tuple[float, float] | None = None
    tolerance: float = 0.0
    assumptions: tuple[str, ...] = ()
    source: str = "derived"

    def __post_init__(self):
        for field in ("claim", "quantity", "source"):
            if not isinstance(getattr(self, field), str) or not getattr(self, field).strip():
                raise TypeError(f"{field} must be a non-empty string, got {getattr(self, field)!r}")
        if (self.value is None) == (self.band is None):
            raise ValueError("exactly one of value and band must be given, so that the claim says one thing")
        if isinstance(self.assumptions, str):
            raise TypeError("assumptions must be a sequence of sentences, got one string; put it in a tuple")
        object.__setattr__(self, "assumptions", tuple(str(a) for a in self.assumptions))
        object.__setattr__(self, "tolerance", _plain(self.tolerance))
        if not isinstance(self.tolerance, float) or self.tolerance < 0:
            raise ValueError(f"tolerance must be one number >= 0, got {self.tolerance!r}")
        if self.value is not None:
            object.__setattr__(self, "value", _plain(self.value))
        else:
            band = _plain(self.band)
            if not isinstance(band, tuple) or len(band) != 2 or band[0] > band[1]:
                raise ValueError(f"band must be (low, high) with low <= high, got {self.band!r}")
            object.__setattr__(self, "band", band)

    def covers(self, measured) -> bool:
        """Whether a measured number or array agrees: |measured - value| <= tolerance, or inside the widened band."""
        x = np.asarray(measured, float)
        if self.value is not None:
            value = np.asarray(self.value)
            if x.shape != value.shape:
                raise ValueError(f"{self.quantity} was predicted with shape {value.shape}, got {x.shape}")
            return bool(np.all(np.abs(x - value) <= self.tolerance))
        low, high = self.band
        return bool(np.all((x >= low - self.tolerance) & (x <= high + self.tolerance)))

    def to_json(self) -> dict:
        """The prediction as a dictionary of JSON types; `from_json` is its inverse."""
        fields = {k: getattr(self, k) for k in self.__dataclass_fields__}
        return json.loads(json.dumps(fields))

    @classmethod
    def from_json(cls, data: Mapping | str) -> "Prediction":
        """The prediction a dictionary (or its JSON text) describes; unknown fields are refused by name."""
        data = json.loads(data) if isinstance(data, str) else dict(data)
        unknown = set(data) - set(cls.__dataclass_fields__)
        if unknown:
            raise ValueError(f"unknown fields {sorted(unknown)}; known are {sorted(cls.__dataclass_fields__)}")
        return cls(**data)
