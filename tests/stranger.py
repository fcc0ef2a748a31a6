"""A stranger's hour: a fresh clone, a folder with a CSV of one's own, and the README's commands about it, word for word.

python tests/stranger.py [--setup] [--here]: prints what every command took, and fails when one fails or an answer is missing.
With --setup the clone gets an environment of its own by `make setup`, else this Python runs it; --here takes the working tree.
"""

import argparse
import csv
import os
import pathlib
import random
import re
import shlex
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).parents[1]
DATA, RESULTS = "reviews.csv", "build/quick"  # what the README calls them
PARTS = {
    "who": ("we saw", "they made", "I found", "she gave", "he wrote", "you sent"),
    "good": ("a lovely", "a moving", "an honest", "a bright", "a clever", "a warm"),
    "bad": ("a dull", "a clumsy", "a tired", "a hollow", "a noisy", "a bleak"),
    "what": ("story", "film", "concert", "novel", "dinner", "show", "speech", "song"),
    "when": ("last night", "in spring", "on Monday", "at home", "near the sea", "again"),
}


def commands(readme: str) -> list[list[str]]:
    """The command lines under "Your own data" that are about the CSV or its results, in the README's order."""
    block = re.search(r"## Your own data\n+```sh\n(.*?)```", readme, flags=re.DOTALL)[1]
    lines = [shlex.split(line, comments=True) for line in block.splitlines()]
    return [words for words in lines if DATA in words or RESULTS in words]


def question(readme: str) -> str:
    """The README's worked question to finished results."""
    return next(code for code in re.findall(r"```python\n(.*?)```", readme, flags=re.DOTALL) if RESULTS in code)


def reviews(count: int) -> list[tuple[str, str]]:
    """So many different sentences with their mood."""
    rng, made = random.Random(0), {}
    while len(made) < count:
        mood = rng.choice(("good", "bad"))
        made[" ".join(rng.choice(PARTS[part]) for part in ("who", mood, "what", "when"))] = mood
    return list(made.items())


def timed(words: list[str], folder: pathlib.Path, environment: dict) -> str:
    """Run a command, print what it took, and return what it printed; ends this process with its words when it fails."""
    before, begun = os.times(), time.monotonic()
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, encoding="utf-8", check=False)
    after = os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    name = " ".join(words[-1:] if "-c" in words else words).splitlines()
    print(f"{time.monotonic() - begun:7.1f} s by the clock {cpu:7.1f} CPU s  {name[-1][:110]}", flush=True)
    if done.returncode:
        sys.exit(f"exit code {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


def main(arguments: list[str]) -> None:
    """Run the hour."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--setup", action="store_true")
    parser.add_argument("--here", action="store_true")
    options = parser.parse_args(arguments)
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as base:
        clone, study = ROOT if options.here else pathlib.Path(base) / "costate", pathlib.Path(base) / "study"
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {"HF_HUB_OFFLINE": "1"}
        if not options.here:
            timed(["git", "clone", "--quiet", str(ROOT), str(clone)], pathlib.Path(base), environment)
        python = sys.executable
        if options.setup:
            timed(["make", "setup"], clone, environment)
            python = str(clone / ".venv" / "bin" / "python")
        else:
            environment["PYTHONPATH"] = str(clone)
        study.mkdir()
        with (study / DATA).open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("sentence", "label"), *reviews(400)])
        readme = (clone / "README.md").read_text(encoding="utf-8")
        for words in commands(readme):
            for more in [["--dry-run"], []] if words[1] == "validate" else [[]]:
                timed([python, str(clone / "costate.py"), *words[1:], *more], study, environment)
        answer = timed([python, "-c", question(readme)], study, environment)
        print(answer)
        made = list(csv.DictReader((study / "trainings.csv").open(encoding="utf-8")))
        trained = {(row["delta"], row["seed"]) for row in made if float(row["loss"]) > 0 and float(row["predicted_loss"]) > 0}
        if {delta for delta, _ in trained} != {"lora", "prefix"} or len(trained) != 4 or not all(d in answer for d, _ in trained):
            sys.exit(f"expected two deltas under two seeds in trainings.csv and in the answer, got {sorted(trained)}")
        for name in ("report.pdf", "report.html"):
            if not (study / RESULTS / name).stat().st_size:
                sys.exit(f"expected {name}, which is empty")
    print(f"{time.monotonic() - begun:7.1f} s in all, no file opened by hand")


if __name__ == "__main__":
    main(sys.argv[1:])
