"""Claims about delta tuning: predicted before training, measured after, decided by rules fixed in code.

`measurements(folder)` returns every number of a study as one tidy pandas frame, `dictionary()` what each quantity means and its
unit, `rows(folder, claim)` one claim's table and `read_verdicts(folder)` the verdicts. They are imported when first asked for.
"""

import importlib
from typing import Any

_HOMES = {"dictionary": "quantities", "measurements": "frame", "read_verdicts": "results", "rows": "results"}

__all__ = ["dictionary", "measurements", "read_verdicts", "rows"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
