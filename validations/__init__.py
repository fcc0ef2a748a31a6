"""Claims about delta tuning: predicted before training, measured after, decided by rules fixed in code.

`load(folder)` returns every number of a study as one tidy pandas frame and `dictionary()` what each quantity means and its unit,
`rows(folder, claim)` one claim's table and `read_verdicts(folder)` the verdicts. `python -m validations --help` runs studies.
"""

from .frame import load
from .quantities import dictionary
from .results import read_verdicts, rows

__all__ = ["dictionary", "load", "read_verdicts", "rows"]
