"""The verdicts of a study as one page of Markdown."""

import pathlib
import re

from validations.store import write_atomic

from . import document, words
from .load import Results


def write(text: str, path: str | pathlib.Path) -> pathlib.Path:
    """Write a page of Markdown to `path`, all or nothing, and return the path."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, text.encode())
    return path


def page(results: Results) -> str:
    """Return the whole page: what was asked and of what, what came out in words and line by line, and how to make it anew."""
    study, name = results.study, escaped(results.study["name"])
    unit = study.get("unit", "task")
    tasks = words.listed([f"“{escaped(task['label'])}”" for task in study["tasks"]])
    told = words.headlines(results.claims)
    parts = (
        f"# Verdicts of the study “{name}”",
        f"{escaped(study['title'])}. {escaped(study['question'])}",
        escaped(" ".join(filter(None, (document.setting(study), document.about(study))))),
        " ".join([*(h["sentence"] for h in told), words.opening(results.claims)]),
        *(part for h in told for part in (f"{h['title']}:", words.table(h["columns"], h["rows"]))),
        words.as_markdown(results.claims),
        f"A line is a claim on one delta. A statistic stands with its {words.CONFIDENCE} interval over {unit}s; the bars were "
        "fixed before the first measurement, and p-values are adjusted over the whole study by Holm's method. "
        f"{document.looked(study)}".rstrip(),
        f"Tasks: {tasks}.",
        "## Where it comes from",
        "\n".join(f"* {line}: {escaped(text)}" for line, text in document.provenance(results)),
        f"The page is written from the results and not by hand: `costate validate --study {name}` makes the results, "
        "`costate report RESULTS --page VERDICTS.md` the page; `make report verdicts` does both for the quick study.",
    )
    return "\n\n".join(parts) + "\n"


def escaped(text: str) -> str:
    """Return text on one line that Markdown prints as it stands."""
    return "".join(f"\\{c}" if c in "\\`*_[]<>|#" else c for c in re.sub(r"[ \t\r\n]+", " ", text))
