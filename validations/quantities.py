"""The data dictionary: what every number of a study means, and its unit."""

import functools
import pathlib
import tomllib

import pandas as pd

ROOM = pathlib.Path(__file__).parent
WORDS = (ROOM / "quantities.toml", *sorted(ROOM.glob("claims/*/quantities.toml")))  # of all claims, and of each story's own
ASIDE = ("common", "beginnings", "rivals")


@functools.cache
def _words() -> dict[str, dict[str, str]]:
    words = {claim: known for path in WORDS for claim, known in tomllib.loads(path.read_text(encoding="utf-8")).items()}
    return {claim: words[known["like"]] if "like" in known else known for claim, known in words.items()}


def described(claim: str, quantity: str) -> tuple[str, str] | None:
    """Return the meaning and unit of a claim's quantity, or None where nobody wrote them down.

    The claim's own words come first, then those for all claims, then a beginning ("error_") with what it goes on as.
    """
    words = _words()
    if found := words.get(claim, {}).get(quantity) or words["common"].get(quantity):
        unit, meaning = found.split(" | ")
        return meaning, unit
    for beginning, text in words["beginnings"].items():
        if quantity.startswith(beginning) and (rest := words["rivals"].get(quantity.removeprefix(beginning))):
            unit, meaning = text.split(" | ")
            return meaning.format(rest), unit
    return None


def dictionary(frame: pd.DataFrame | None = None) -> pd.DataFrame:
    """Return meaning and unit by claim and quantity: of a frame from `measurements`, or all that are written down one by one.

    In the latter, the claim "common" stands for every claim that has no words of its own for a quantity.
    """
    if frame is None:
        names = [(claim, name) for claim, known in _words().items() if claim not in ASIDE[1:] for name in known]
    else:
        names = sorted(set(zip(frame["claim"].astype(str), frame["quantity"].astype(str), strict=True)))
    found = [(claim, name, *(described(claim, name) or ("not described", ""))) for claim, name in names]
    return pd.DataFrame(found, columns=["claim", "quantity", "meaning", "unit"]).set_index(["claim", "quantity"])
