"""`python -m theory derive`: the lab's derivations, checked while they are printed."""

import argparse
import json
import sys

from theory.derivations import DERIVATIONS


def _text(derivation: dict) -> str:
    lines = [derivation["title"], f"  source: {derivation['source']}"]
    for number, step in enumerate(derivation["steps"], 1):
        lines += ["", f"  {number}. {step['reason']}", f"       {step['equation']}", f"       ({step['alt']})"]
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """The exit status of the command line; prints the derivations as text or JSON."""
    names = {make.__name__.replace("_", "-"): make for make in DERIVATIONS}
    parser = argparse.ArgumentParser(prog="python -m theory", description="What the theory says, with every step checked.")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    derive = commands.add_parser(
        "derive",
        help="print the derivations; each equation is verified by substitution before it is printed",
        description="Print derivations: typst maths, the spoken equation and the reason of every step.",
    )
    derive.add_argument("names", nargs="*", metavar="NAME", help=f"which ones: {', '.join(names)} (default: all)")
    derive.add_argument("--json", action="store_true", help="print a JSON list instead of text")
    chosen = parser.parse_args(arguments)
    if chosen.command is None:
        parser.print_help()
        return 0
    unknown = [name for name in chosen.names if name not in names]
    if unknown:
        print(f"there is no derivation called {unknown[0]!r}; choose from {', '.join(names)}.", file=sys.stderr)
        return 2
    found = [names[name]().to_json() for name in chosen.names or names]
    print(json.dumps(found, indent=2) if chosen.json else "\n\n".join(_text(d) for d in found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
