"""Publish a study's results: the report as PDF and HTML, and on demand its verdict table, a page of verdicts and the figures."""

from __future__ import annotations

import argparse
import pathlib

from validations.commands.options import add_json


def add(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument(
        "results", nargs="?", type=pathlib.Path, default="build/quick", help="the results folder (default: build/quick)"
    )
    parser.add_argument(
        "--out",
        type=pathlib.Path,
        metavar="FILE.pdf",
        help="the PDF, with FILE.html beside it (default without other flags: report.pdf in the results folder)",
    )
    parser.add_argument(
        "--fonts", type=pathlib.Path, action="append", default=[], help="a folder of fonts for letters that the report's own lack"
    )
    parser.add_argument("--table", action="store_true", help="print the verdict table")
    parser.add_argument("--markdown", action="store_true", help="print the verdict table as Markdown")
    parser.add_argument("--page", type=pathlib.Path, metavar="FILE.md", help="write the verdict table to a page of its own")
    parser.add_argument("--figures", type=pathlib.Path, metavar="FOLDER", help="write every figure as SVG and PNG")
    add_json(parser)


def run(options: argparse.Namespace) -> dict:
    """Return what was made, by its kind; raises ValueError for a folder without results and for damaged ones."""
    from validations.results import reading

    from . import page, render, words
    from .load import read

    with reading(options.results):
        made: dict = {}
        wanted = options.table or options.markdown or options.page or options.figures
        if options.table or options.markdown:
            made["verdicts"] = words.verdict_rows(read(options.results).claims)
        if options.page:
            made["page"] = str(page.write(read(options.results), options.page))
        if options.figures:
            made["figures"] = [str(path) for path in render.figure_files(read(options.results), options.figures)]
        if options.out or not wanted:
            path = render.build(options.results, options.out or options.results / "report.pdf", fonts=options.fonts)
            made |= {"pdf": str(path), "bytes": path.stat().st_size, "html": str(render.web_path(path))}
        return made


def text(made: dict, options: argparse.Namespace) -> str:
    """Return the table, if it was asked for, and the paths of the files that were written."""
    from . import words
    from .load import read

    lines = []
    if "verdicts" in made:
        claims = read(options.results).claims
        lines.append(words.as_markdown(claims) if options.markdown else words.as_text(claims))
    return "\n".join([*lines, *(made[key] for key in ("page", "html", "pdf") if key in made), *made.get("figures", ())])
