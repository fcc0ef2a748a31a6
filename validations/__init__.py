"""Claims about delta tuning: predicted before training, measured after, decided by rules fixed in code.

`measurements(folder)` returns every number of a study as one tidy pandas frame, `trainings(folder)` a row for each delta trained,
`verdicts(folder)` a row for each verdict, `dictionary()` what each quantity means and its unit, `rows(folder, claim)` one claim's
table, `read_verdicts(folder)` the whole record, and `written(frame, "tex")` a frame as text. They are imported when asked for.
"""

import importlib
from typing import Any

_HOMES = {"dictionary": "quantities", "measurements": "frame", "trainings": "frame", "verdicts": "frame"}
_HOMES |= {"read_verdicts": "results", "rows": "results", "written": "text_tables"}

__all__ = ["dictionary", "measurements", "read_verdicts", "rows", "trainings", "verdicts", "written"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
