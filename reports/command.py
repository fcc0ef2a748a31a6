"""Publish a study's results: the report as PDF and HTML, and on demand its verdict table, a page of verdicts and the figures.

Several results folders make one PDF, whose first page puts what was measured beside what was published; --page writes that
as Markdown.
"""

from __future__ import annotations

import argparse
import pathlib

from validations.commands.options import add_json


def add(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument(
        "results", nargs="*", type=pathlib.Path, help="the results folder, or several for one PDF (default: build/quick)"
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
    folders = options.results or [pathlib.Path("build/quick")]
    return _of_one(folders[0], options) if len(folders) == 1 else _of_several(folders, options)


def _of_one(folder: pathlib.Path, options: argparse.Namespace) -> dict:
    from validations.results import reading

    from . import page, render, words
    from .load import read

    with reading(folder):
        made: dict = {}
        wanted = options.table or options.markdown or options.page or options.figures
        if options.table or options.markdown:
            claims = read(folder).claims
            made |= {
                "verdicts": words.verdict_rows(claims),
                "shown": (words.as_markdown if options.markdown else words.as_text)(claims),
            }
        if options.page:
            made["page"] = str(page.write(page.page(read(folder)), options.page))
        if options.figures:
            made["figures"] = [str(path) for path in render.figure_files(read(folder), options.figures)]
        if options.out or not wanted:
            path = render.build(folder, options.out or folder / "report.pdf", fonts=options.fonts)
            made |= {"pdf": str(path), "bytes": path.stat().st_size, "html": str(render.web_path(path))}
        return made


def _of_several(folders: list[pathlib.Path], options: argparse.Namespace) -> dict:
    from validations.results import reading

    from . import joint, page, words
    from .load import read

    if options.table or options.markdown or options.figures or not (options.out or options.page):
        raise ValueError(
            f"expected --out FILE.pdf or --page FILE.md with {len(folders)} results folders: give those, or one folder"
        )
    with reading(words.listed([str(folder) for folder in folders])):
        made: dict = {}
        if options.page:
            made["page"] = str(page.write(joint.as_markdown([read(folder) for folder in folders]), options.page))
        if options.out:
            path = joint.build(folders, options.out, fonts=options.fonts)
            made |= {"pdf": str(path), "bytes": path.stat().st_size}
        return made


def text(made: dict, options: argparse.Namespace) -> str:
    """Return the table, if it was asked for, and the paths of the files that were written."""
    lines = [made[key] for key in ("shown", "page", "html", "pdf") if key in made]
    return "\n".join([*lines, *made.get("figures", ())])
