"""A room brings only what it computes with: what draws, tabulates or fits is loaded by the call that needs it."""

import subprocess
import sys

import pytest

HEAVY = {
    "probes": ("pandas", "sklearn", "seaborn", "matplotlib", "transformers", "tuning", "theory"),
    "probes.drawing": ("pandas", "sklearn", "seaborn", "matplotlib"),
    "theory": ("torch", "transformers", "cvxpy", "sympy", "pandas", "sklearn", "matplotlib"),
}


@pytest.mark.parametrize("room", HEAVY)
def test_importing_a_room_leaves_the_heavy_libraries_out(room):
    code = f"import sys, {room}; print(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True)
    assert not set(HEAVY[room]) & set(found.stdout.split())
