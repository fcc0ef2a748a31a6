"""The figures of the claims, a file for each story: what is drawn, from which columns, under which words.

A file's FIGURES are found by themselves, so that a new claim's figure is a new file and nothing else.
"""

import importlib
import pkgutil

from ..claim_figure import ClaimFigure

_FOUND = [importlib.import_module(f"{__name__}.{story.name}") for story in pkgutil.iter_modules(__path__)]
FIGURES: dict[str, ClaimFigure] = {figure.claim: figure for story in _FOUND for figure in story.FIGURES}
SHARED = {claim: figure.claim for figure in FIGURES.values() for claim in figure.also}
