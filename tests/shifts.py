"""Runs the tests that draw numbers under other seeds and other processors' arithmetic, and prints which outcome was where."""

import os
import pathlib
import re
import subprocess
import sys

HERE = pathlib.Path(__file__).parent
DRAWS = re.compile(r"default_rng|manual_seed|shifted|\b(zoo|control_problems)\b")
SETTINGS = {f"shift {n}": {"COSTATE_SEED_SHIFT": str(n)} for n in range(1, 6)}
OTHERS = {"plain torch": {"ATEN_CPU_CAPABILITY": "default"}, "Haswell": {"OPENBLAS_CORETYPE": "Haswell"}}
SETTINGS |= {name: change | {"COSTATE_ARITHMETIC": name} for name, change in OTHERS.items()}


def main(arguments: list[str]) -> int:
    """The number of settings in which a test failed; arguments are files (default: all that draw) or options of pytest."""
    files = (
        []
        if any(not a.startswith("-") for a in arguments)
        else [str(p) for p in sorted(HERE.glob("test_*.py")) if DRAWS.search(p.read_text(encoding="utf-8"))]
    )
    failed = {}
    for setting, change in SETTINGS.items():
        command = [sys.executable, "-m", "pytest", "-q", "-n", "2", "--dist", "worksteal", "--tb", "short", "-rfE"]
        done = subprocess.run([*command, *arguments, *files], env=os.environ | change, capture_output=True, encoding="utf-8")
        lost = re.findall(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", done.stdout, re.MULTILINE)
        print(f"{setting:12} {len(lost)} failed, pytest's code {done.returncode}", flush=True)
        if lost or done.returncode:
            failed[setting] = lost or ["(the run itself)"]
            (log := HERE.parent / "build" / f"test-{setting.replace(' ', '-')}.log").parent.mkdir(exist_ok=True)
            log.write_text(done.stdout + done.stderr, encoding="utf-8")
    for test in sorted({t for lost in failed.values() for t in lost}):
        print(test, *("failed" if test in failed.get(s, ()) else "-" for s in SETTINGS), sep="\t")
    return min(len(failed), 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
