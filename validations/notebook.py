"""The worked questions as a notebook: the page's prose and code in cells, about the results that are asked for."""

import json
import pathlib
import re

PAGE = pathlib.Path(__file__).with_name("QUESTIONS.md")
ASKED = "build/quick"  # the results folder that the page is about


def notebook(folder: str | pathlib.Path) -> str:
    """Return the page of worked questions as a Jupyter notebook (format 4.5) about a results folder.

    Its first cell of code imports costate; the others are the page's blocks in their order, with the folder in the place of
    theirs. Nothing is run.
    """
    made = [_cell("code", "import costate")]
    for number, text in enumerate(re.split(r"```python\n(.*?)```\n*", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)):
        code, text = bool(number % 2), text.strip()
        if text:
            about = text.replace(f'"{ASKED}"', json.dumps(str(folder))) if code else text.replace(ASKED, str(folder))
            made.append(_cell("code" if code else "markdown", about))
    cells = [cell | {"id": f"cell-{number}"} for number, cell in enumerate(made)]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    return json.dumps({"cells": cells, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}, indent=1) + "\n"


def _cell(kind: str, text: str) -> dict:
    own = {"execution_count": None, "outputs": []} if kind == "code" else {}
    return {"cell_type": kind, "metadata": {}, "source": text} | own
