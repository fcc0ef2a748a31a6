"""The results of one study as the report reads them."""

import pathlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import pandas as pd

from validations import results

WORD = re.compile(r"[^ \t\r\n]+")


def spoken(text: str, said: Mapping[str, str]) -> str:
    """Return a text with every word replaced that stands in `said`."""
    return WORD.sub(lambda found: said.get(found[0], found[0]), text)


@dataclass(frozen=True)
class Results:
    """One results folder: the verdict record, and each claim's tables on demand. `said`: words -> what stands for them."""

    folder: pathlib.Path
    record: dict
    said: Mapping[str, str] = field(default_factory=dict)

    @property
    def study(self) -> dict:
        """Return what the study ran on."""
        return self.record["study"]

    @property
    def claims(self) -> list[dict]:
        """Return the claims' records, in the report's order."""
        return self.record["claims"]

    def table(self, claim: str, part: str = "rows") -> pd.DataFrame:
        """Return one table of a claim, empty when the study recorded none; a file that was changed raises ValueError."""
        if results.table_name(claim, part) not in self.record["tied"]["tables"]:
            return pd.DataFrame()
        frame = results.table(self.folder, self.record, claim, part)
        if self.said:
            for column in frame.select_dtypes(exclude="number"):
                frame[column] = [spoken(value, self.said) if isinstance(value, str) else value for value in frame[column]]
        return frame

    @staticmethod
    def file(claim: str, part: str = "rows") -> str:
        """Return the name, inside the results folder, of the file that holds a table."""
        return f"rows/{results.table_name(claim, part)}.json"


def read(folder: str | pathlib.Path) -> Results:
    """Return the results in `folder`; raises ValueError when it holds no verdicts or the record lacks a part."""
    record = results.read_verdicts(folder)
    missing = [k for k in ("study", "claims", "derivations", "costs", "provenance") if k not in record]
    missing += [f"the bars of {claim['id']}" for claim in record.get("claims", ()) if "bars" not in claim][:1]
    if missing:
        raise ValueError(
            f"expected {', '.join(missing)} in {folder}/verdicts.json, which has {', '.join(record) or 'nothing'}: "
            "run the study again"
        )
    return Results(pathlib.Path(folder), record)
