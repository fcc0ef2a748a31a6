"""Claims about delta tuning: predicted before training, measured after, decided by rules fixed in code.

`load(folder)` returns a study's rows as one tidy pandas frame, `rows(folder, claim)` one claim's table and
`read_verdicts(folder)` the verdicts. `python -m validations --help` runs studies.
"""

from .store import load, read_verdicts, rows

__all__ = ["load", "read_verdicts", "rows"]
