"""Locale, time zone, hash seed, and folders with spaces and letters of other scripts change no byte of a result."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
STUDY = (pathlib.Path(__file__).with_name("cheap.toml")).read_text(encoding="utf-8")
TEXTS = [
    {"text": f"the film nº {k} was {'good' if k % 2 else 'bad'} 好", "label": "gut" if k % 2 else "übel"} for k in range(260)
]
ODD = {
    "LC_ALL": "C",
    "PYTHONUTF8": "0",
    "PYTHONCOERCECLOCALE": "0",
    "TZ": "Pacific/Kiritimati",
    "PYTHONHASHSEED": "7",
    "OMP_NUM_THREADS": "3",
}


def results(home: pathlib.Path, settings: dict[str, str]) -> dict[str, bytes]:
    """The files that a small study on a folder of texts leaves in a home of its own."""
    data = home / "films"
    data.mkdir(parents=True)
    for name, texts in {"train": TEXTS[:200], "test": TEXTS[200:]}.items():
        (data / f"{name}.jsonl").write_text("\n".join(map(json.dumps, texts)), encoding="utf-8")
    study = home / "study.toml"
    study.write_text(STUDY.replace("seeds = [0, 1, 2, 3, 4, 5, 6, 7]", "seeds = [0]"), encoding="utf-8")
    words = ["--study", str(study), "--data", str(data), "--seeds", "1", "--out", str(home / "out"), "--processes", "1"]
    done = subprocess.run(
        [sys.executable, "-m", "costate", "validate", *words],
        cwd=ROOT,
        env=os.environ | settings,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
    )
    assert done.returncode == 0, done.stderr
    files = [path for room in ("cells", "predicted", "rows") for path in sorted((home / "out" / room).iterdir())]
    return {f"{path.parent.name}/{path.name}": path.read_bytes() for path in files}


@pytest.mark.slow
def test_a_study_leaves_the_same_bytes_wherever_and_in_whatever_language_it_runs(tmp_path):
    plain = results(tmp_path / "plain", {"PYTHONHASHSEED": "1"})
    odd = results(tmp_path / "two words, é好 [x]", ODD)
    assert len(plain) >= 5 and set(plain) == set(odd)
    named = [name for name in plain if plain[name] != odd[name]]
    # a cell keeps in its settings where its data stood; every number is the same
    for name in named:
        one, other = (json.loads(files[name]) for files in (plain, odd))
        for record in (one, other):
            record["settings"].pop("task")
            record.pop("seal")
            record.pop("after")
        assert one == other, name
