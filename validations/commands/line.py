"""The command line of all commands: flags, help, results as words or JSON, one sentence and an exit code for what goes wrong."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
from collections.abc import Mapping, Sequence

from .output import finite

SETTINGS = {  # set before numpy loads
    "OMP_NUM_THREADS": "1",  # a serial run then gives the pool's bytes
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",  # threads that wait must not take a shared core from those that work
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
DONE, REFUSED, STOPPED, UNREAD = 0, 2, 130, 141  # exit codes; a shell says 141 of a command whose reader has gone


class Parser(argparse.ArgumentParser):
    """A parser that refuses a bad flag with one sentence."""

    def error(self, message: str):
        """End the process with status 2 after one sentence on standard error."""
        self.exit(REFUSED, f"error: {message}: see {self.prog} --help\n")


def main(commands: Mapping[str, tuple[str, str]], arguments: Sequence[str] | None, *, about: str, version: str) -> int:
    """Run one command and return the exit code.

    commands: name -> (module, what it does in a few words); only the module of the chosen command is imported. The code is 0 on
    success, 2 after one sentence on standard error for a request that cannot be met, and 130 when the user stops it.
    """
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a name that the terminal's encoding lacks stops nothing
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    chosen = next((word for word in arguments if not word.startswith("-")), None)
    options = _parser(commands, chosen, about, version).parse_args(arguments)
    command = _module(commands, options.command)
    try:
        found = command.run(options)
        said = json.dumps(finite(found), indent=1) if options.json else command.text(found, options)
        if said is not None:
            print(said)
        sys.stdout.flush()
        return DONE
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains when it closes the stream
        return UNREAD
    except (ValueError, TypeError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return REFUSED
    except KeyboardInterrupt as stop:
        print("; ".join(["stopped", *map(str, stop.args)]), file=sys.stderr)
        return STOPPED


def _module(commands: Mapping[str, tuple[str, str]], name: str):
    return importlib.import_module(commands[name][0])


def _parser(commands: Mapping[str, tuple[str, str]], chosen: str | None, about: str, version: str) -> Parser:
    """Return the parser, with the flags of the chosen command alone."""
    parser = Parser(prog="costate", description=about)
    parser.add_argument("--version", action="version", version=version)
    verbs = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, (_, does) in commands.items():
        verb = verbs.add_parser(name, help=does, description=does[0].upper() + does[1:] + ".")
        if name == chosen:
            command = _module(commands, name)
            verb.description = command.__doc__.strip()
            verb.formatter_class = argparse.RawDescriptionHelpFormatter
            command.add(verb)
    return parser
