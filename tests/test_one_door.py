"""costate is the lab's one door: everything is behind it, knocking loads nothing heavy, and what goes wrong is a sentence."""

import argparse
import json
import os
import pathlib
import resource
import subprocess
import sys

import pytest

import costate
import probes
import theory
import tuning
import validations
from validations.commands import line

ROOT = pathlib.Path(__file__).parents[1]
HEAVY = ("torch", "transformers", "pandas", "scipy", "sklearn", "sympy", "cvxpy", "matplotlib")


def python(*words: str, **options) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, encoding="utf-8", cwd=ROOT, **options)


def loaded(code: str) -> set[str]:
    """The modules that a process has loaded at the end of the code, which may end by SystemExit."""
    done = python("-c", f"import atexit, sys\natexit.register(lambda: print(*sys.modules, file=sys.stderr))\n{code}")
    assert done.returncode == 0, done.stderr
    return set(done.stderr.split())


def test_everything_public_is_behind_the_door():
    assert {*probes.__all__, *validations.__all__, *tuning.catalogue.kinds().values()} <= set(costate.__all__)
    assert costate.theory is theory and costate.tasks is tuning.tasks
    assert len(costate.__all__) == len(set(costate.__all__))
    for name in set(costate.__all__) - set(costate._MODULES):
        assert getattr(costate, name) is getattr(sys.modules[costate._HOMES[name]], name)
    assert set(costate.__all__) <= set(dir(costate)) and "__version__" in dir(costate)
    with pytest.raises(AttributeError, match=r"costate has no 'hessians'"):
        costate.hessians  # noqa: B018


@pytest.mark.parametrize(
    "code",
    [
        "import costate; dir(costate); costate.__version__",
        "import costate; costate.main(['--help'])",
        "import costate; costate.main(['list'])",
        *(f"import costate; costate.main([{name!r}, '--help'])" for name in costate.COMMANDS),
        "import costate; costate.main(['probe', 'curvature', '--help'])",
    ],
)
def test_nothing_heavy_is_loaded_by_knocking(code):
    assert not set(HEAVY) & loaded(code)


def seconds(*words: str) -> float:
    """The CPU seconds of a process, the least of three."""

    def once() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert python(*words).returncode == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    return min(once() for _ in range(3))


def test_the_door_opens_at_once():
    assert seconds("-c", "import costate; dir(costate)") - seconds("-c", "pass") < 0.1
    assert seconds("-m", "costate", "--help") < 0.3
    assert seconds("-m", "costate", "probe", "--help") < 0.3


def parsers(parser: argparse.ArgumentParser):
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                yield from parsers(below)


@pytest.mark.parametrize("name", costate.COMMANDS)
def test_commands_describe_themselves_alike(name):
    """Sentences about the command, a short text for every flag, and --json everywhere."""
    parser = line.Parser()
    command = line.importlib.import_module(costate.COMMANDS[name][0])
    command.add(parser)
    assert command.__doc__.strip().endswith(".") and not costate.COMMANDS[name][1].endswith(".")
    for one in parsers(parser):
        flags = [action for action in one._actions if not isinstance(action, argparse._SubParsersAction)]
        assert all(flag.help and not flag.help.endswith(".") for flag in flags), one.prog
    leaves = [one for one in parsers(parser) if not one._subparsers]
    assert all("--json" in one._option_string_actions for one in leaves)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "required: COMMAND"),
        (["tune"], "invalid choice: 'tune'"),
        (["train"], "required: --task, --delta"),
        (["probe", "curvature", "--task", "agreement", "--top", "few"], "invalid int value: 'few'"),
        (["show", "nowhere"], "expected a results folder"),
        (["list", "wishes"], "invalid choice: 'wishes'"),
    ],
)
def test_a_bad_line_is_one_sentence_and_status_two(words, said):
    done = python("-m", "costate", *words)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: ") and said in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize(("why", "said"), [((), "stopped\n"), (("what is done is kept",), "stopped; what is done is kept\n")])
def test_a_stop_is_said_and_has_its_status(monkeypatch, capsys, why, said):
    def stopped(options):
        raise KeyboardInterrupt(*why)

    monkeypatch.setattr("validations.commands.listing.run", stopped)
    assert costate.main(["list"]) == 130 and capsys.readouterr().err == said


def test_a_reader_that_leaves_early_sees_no_traceback():
    code = f"{sys.executable} -m costate list --json; echo status $? >&2"
    done = subprocess.run(f"({code}) | true", shell=True, cwd=ROOT, capture_output=True, text=True, encoding="utf-8")
    assert done.stderr == "status 141\n"


def test_any_terminal_shows_any_name():
    done = python("-m", "costate", "list", env=os.environ | {"PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0 and "Gauss\\u2013Newton" in done.stdout


def test_lists_are_those_of_the_rooms():
    from validations.claims import CLAIMS

    found = json.loads(python("-m", "costate", "list", "--json").stdout)
    assert found["claims"] == {claim.id: claim.title for claim in CLAIMS} and list(found["claims"]) == [c.id for c in CLAIMS]
    assert (
        "nano" in found["backbones"]
        and "lora" in found["deltas"]
        and "agreement" in found["tasks"]
        and "bert" in found["architectures"]
    )
    assert "quick" in found["studies"] and "curvature" in found["instruments"]
    assert list(json.loads(python("-m", "costate", "list", "tasks", "--json").stdout)) == ["tasks"]
