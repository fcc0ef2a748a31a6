"""python -m reports build | table | figures | readme: a study's PDF, its verdict table, its figures."""

import argparse
import json
import pathlib
import sys

from validations.store import write_atomic

from . import words
from .load import read

BEGIN, END = "<!-- verdicts: written by make readme -->", "<!-- end -->"


def build(options: argparse.Namespace) -> str:
    """Render the PDF and return its path."""
    from . import render

    path = render.build(options.results, options.out, fonts=options.fonts)
    return json.dumps({"pdf": str(path), "bytes": path.stat().st_size}) if options.json else str(path)


def table(options: argparse.Namespace) -> str:
    """Return the verdict table as text, Markdown or JSON."""
    claims = read(options.results).claims
    if options.json:
        return json.dumps(words.verdict_rows(claims), ensure_ascii=False)
    return words.as_markdown(claims) if options.markdown else words.as_text(claims)


def readme(options: argparse.Namespace) -> str:
    """Put the verdict table between the markers of a README and return its path."""
    text = options.file.read_text(encoding="utf-8")
    begin, end = text.find(BEGIN), text.find(END)
    if begin < 0 or end < begin:
        raise ValueError(f"expected the lines {BEGIN!r} and {END!r} in {options.file}, in this order: add them")
    results = read(options.results)
    study, commit = results.study, results.record["provenance"]["commit"]
    note = f"Study `{study['name']}`: {len(study['tasks'])} tasks, {len(study['seeds'])} seeds, commit `{commit}`."
    written = f"{text[:begin]}{BEGIN}\n{words.as_markdown(results.claims)}\n\n{note}\n{text[end:]}"
    write_atomic(options.file, written.encode())
    return str(options.file)


def figures(options: argparse.Namespace) -> str:
    """Write every figure as SVG and PNG and return the paths, one per line."""
    from . import render

    paths = render.figure_files(read(options.results), options.out)
    return json.dumps([str(p) for p in paths]) if options.json else "\n".join(map(str, paths))


def parser() -> argparse.ArgumentParser:
    """Return the command line of this room."""
    top = argparse.ArgumentParser(prog="python -m reports", description="Publish a study's results.")
    commands = top.add_subparsers(dest="command", required=True)
    for act, words_of in (
        (build, "render the PDF report"),
        (table, "print the verdict table"),
        (figures, "write figures for a web page"),
        (readme, "put the verdict table into a README"),
    ):
        command = commands.add_parser(act.__name__, help=words_of, description=words_of)
        command.add_argument("results", type=pathlib.Path, help="results folder that holds verdicts.json")
        command.add_argument("--json", action="store_true", help="print machine-readable results")
        command.set_defaults(act=act)
    commands.choices["build"].add_argument("--out", type=pathlib.Path, required=True, help="the PDF to write")
    commands.choices["build"].add_argument(
        "--fonts", type=pathlib.Path, action="append", default=[], help="a folder of fonts for letters that the report's own lack"
    )
    commands.choices["table"].add_argument("--markdown", action="store_true", help="as a Markdown table")
    commands.choices["readme"].add_argument("file", type=pathlib.Path, help="the README with the two marker lines")
    commands.choices["figures"].add_argument("--out", type=pathlib.Path, required=True, help="the folder to write to")
    return top


def main(arguments: list[str] | None = None) -> int:
    """Run one command; return 0, or 2 after one sentence on the error stream."""
    options = parser().parse_args(arguments)
    try:
        print(options.act(options))
    except (ValueError, OSError) as error:
        print(f"reports: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    for _stream in (sys.stdout, sys.stderr):
        _stream.reconfigure(errors="backslashreplace")  # a name that the terminal's encoding lacks stops nothing
    sys.exit(main())
