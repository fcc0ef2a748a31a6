"""The page VERDICTS.md: what a study found, as a table that a browser shows."""

import pathlib

from validations.store import write_atomic

from . import words
from .load import Results


def write(results: Results, path: pathlib.Path) -> pathlib.Path:
    """Write a study's verdict table to a Markdown page and return its path."""
    study, commit = results.study, results.record["provenance"]["commit"]
    note = f"Study `{study['name']}`: {len(study['tasks'])} tasks, {len(study['seeds'])} seeds, commit `{commit}`."
    title = f"# Verdicts of the study `{study['name']}`"
    write_atomic(path, f"{title}\n\n{words.as_markdown(results.claims)}\n\n{note} Written by `make verdicts`.\n".encode())
    return path
