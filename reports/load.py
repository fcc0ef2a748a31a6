"""The results of one study as the report reads them."""

import pathlib
from dataclasses import dataclass

import pandas as pd

from validations import results


@dataclass(frozen=True)
class Results:
    """One results folder: the verdict record, and each claim's tables on demand."""

    folder: pathlib.Path
    record: dict

    @property
    def study(self) -> dict:
        return self.record["study"]

    @property
    def claims(self) -> list[dict]:
        return self.record["claims"]

    def table(self, claim: str, part: str = "rows") -> pd.DataFrame:
        """Return one table of a claim, empty when the study recorded none; a file that was changed raises ValueError."""
        if results.table_name(claim, part) not in self.record["tied"]["tables"]:
            return pd.DataFrame()
        return results.table(self.folder, self.record, claim, part)

    @staticmethod
    def file(claim: str, part: str = "rows") -> str:
        """Return the name, inside the results folder, of the file that holds a table."""
        return f"rows/{results.table_name(claim, part)}.json"


def read(folder: str | pathlib.Path) -> Results:
    """Return the results in `folder`; raises ValueError when it holds no verdicts or the record lacks a part."""
    record = results.read_verdicts(folder)
    missing = [k for k in ("study", "claims", "derivations", "costs", "provenance") if k not in record]
    if missing:
        raise ValueError(
            f"expected {', '.join(missing)} in {folder}/verdicts.json, which has {', '.join(record) or 'nothing'}: "
            "run the study again"
        )
    return Results(pathlib.Path(folder), record)
