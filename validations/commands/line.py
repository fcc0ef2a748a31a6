"""The command line of all commands: flags, help, results as words or JSON, one sentence and an exit code for what goes wrong."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
from collections.abc import Mapping, Sequence
from types import ModuleType

from .output import Unfinished, finite
from .stopping import Stop, stoppable

SETTINGS = {  # set before numpy loads
    "OMP_NUM_THREADS": "1",  # a serial run then gives the pool's bytes
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",  # threads that wait must not take a shared core from those that work
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
Commands = Mapping[str, tuple[str, str]]  # name -> (module, what it does in a few words)
DONE, REFUSED, UNREAD = 0, 2, 141  # exit codes; a shell says 141 of a command whose reader has gone


class Parser(argparse.ArgumentParser):
    """A parser that refuses a bad flag with one sentence."""

    def error(self, message: str):
        """End the process with status 2 after one sentence on standard error."""
        self.exit(REFUSED, f"error: {message}: see {self.prog} --help\n")


def main(commands: Commands, arguments: Sequence[str] | None, *, about: str, version: str) -> int:
    """Run one command and return the exit code.

    Only the module of the chosen command is imported. The code is 0 on success, 2 after one sentence on standard error for a
    request that cannot be met, and 130 or 143 when SIGINT or SIGTERM stops it.
    """
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a name that the terminal's encoding lacks stops nothing
    with stoppable() as stop:
        try:
            return _answer(commands, sys.argv[1:] if arguments is None else arguments, about, version, stop)
        except KeyboardInterrupt as asked:
            return stop.say(*asked.args)
        except Exception:
            if stop.by is None:
                raise
            return stop.say()  # what a library makes of being interrupted


def _answer(commands: Commands, arguments: Sequence[str], about: str, version: str, stop: Stop) -> int:
    """Run one command and return the exit code, unless it is stopped."""
    options = parse(commands, arguments, about=about, version=version)
    command = importlib.import_module(commands[options.command][0])
    try:
        _show(command.run(options), command, options)
        return DONE
    except Unfinished as short:
        _show(short.found, command, options)
        kept = "what was measured until then is kept above"
        if isinstance(short.__cause__, KeyboardInterrupt):
            return stop.say(kept)
        print(f"error: {short.found['unfinished']}; {kept}", file=sys.stderr)
        return REFUSED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains when it closes the stream
        return UNREAD
    except (ValueError, TypeError, OSError) as error:
        if stop.by is not None:
            raise
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return REFUSED


def _show(found: object, command: ModuleType, options: argparse.Namespace) -> None:
    """Print what a command found, as JSON or in its words; None where it said all on the way."""
    said = json.dumps(finite(found), indent=1) if options.json else command.text(found, options)
    if said is not None:
        print(said)
    sys.stdout.flush()


def parse(commands: Commands, arguments: Sequence[str], *, about: str = "", version: str = "") -> argparse.Namespace:
    """Return the options of a command line; only the chosen command has flags, so that no other is imported.

    Ends the process with status 2 and one sentence for a bad flag, and with status 0 after --help and --version.
    """
    parser = Parser(prog="costate", description=about)
    parser.add_argument("--version", action="version", version=version)
    verbs = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    chosen = next((word for word in arguments if not word.startswith("-")), None)
    for name, (module, does) in commands.items():
        verb = verbs.add_parser(name, help=does, formatter_class=argparse.RawDescriptionHelpFormatter)
        if name == chosen:
            command = importlib.import_module(module)
            verb.description = command.__doc__.strip()
            command.add(verb)
            arguments = getattr(command, "written_out", list)(arguments)
    return parser.parse_args(arguments)
