"""The results of one study as the report reads them."""

import json
import pathlib
from dataclasses import dataclass

import pandas as pd


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
        """Return one table of a claim, empty when the study recorded none; a damaged file raises ValueError."""
        from validations import store

        try:
            return store.rows(self.folder, claim, part)
        except json.JSONDecodeError as error:
            name = self.file(claim, part)
            raise ValueError(f"expected valid JSON in {name}, got {error.msg}: run the study again") from None
        except (ValueError, FileNotFoundError):
            return pd.DataFrame()

    @staticmethod
    def file(claim: str, part: str = "rows") -> str:
        """Return the name, inside the results folder, of the file that holds a table."""
        return f"rows/{claim}.json" if part == "rows" else f"rows/{claim}.{part}.json"


def read(folder: str | pathlib.Path) -> Results:
    """Return the results in `folder`; raises ValueError when it holds no verdicts or the record lacks a part."""
    from validations import store

    record = store.read_verdicts(folder)
    missing = [k for k in ("study", "claims", "derivations", "costs", "provenance") if k not in record]
    if missing:
        raise ValueError(
            f"expected {', '.join(missing)} in {folder}/verdicts.json, which has {', '.join(record) or 'nothing'}: "
            "run the study again"
        )
    return Results(pathlib.Path(folder), record)
