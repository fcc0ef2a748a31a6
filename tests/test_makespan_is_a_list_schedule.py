"""The forecast for many cores is that of cells which each take the core that is free first, from the seconds of measured ones."""

import json
import random

import pytest

from costate import main
from validations import plan
from validations.ahead import OVERHEAD, START, makespan
from validations.asked import asked
from validations.store import Record, Store


@pytest.mark.parametrize(("cells", "cores"), [(1, 1), (7, 1), (7, 2), (100, 64), (3, 1000)])
def test_equal_cells_go_in_rounds(cells, cores):
    found = makespan([5.0] * cells, cores, start=2.0, overhead=0.5)
    assert found == 2.0 + 5.5 * -(-cells // cores)


@pytest.mark.parametrize("cores", [2, 3, 10, 64])
def test_the_worst_case_of_longest_first_is_graham_s(cores):
    """Two cells each of 2m-1, ..., m+1 and three of m take 4m-1 on m cores, where 3m is best."""
    seconds = [float(s) for s in range(2 * cores - 1, cores, -1) for _ in range(2)] + [float(cores)] * 3
    assert makespan(seconds, cores, start=0.0, overhead=0.0) == 4 * cores - 1


def test_it_is_never_below_what_any_schedule_needs():
    draw = random.Random(0)
    for _ in range(50):
        seconds, cores = [draw.randint(1, 99) for _ in range(draw.randint(1, 40))], draw.randint(1, 12)
        found = makespan(seconds, cores, start=0, overhead=0)
        assert max(max(seconds), sum(seconds) / cores) <= found <= sum(seconds) / cores + (1 - 1 / cores) * max(seconds) + 1e-9
    assert makespan([], 4) == 0.0
    with pytest.raises(ValueError, match="at least one core, got 0"):
        makespan([1.0], 0)


def test_a_dry_run_forecasts_the_whole_study_from_measured_cells(tmp_path, capsys):
    flags = {"deltas": "lora", "tasks": "agreement", "seeds": 2, "examples": 24}
    words = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
    words = ["validate", *words, "--claim", "linearised-optimum", "--out", str(tmp_path / "b" / "quick"), "--dry-run", "--json"]
    blank = dict.fromkeys(("backbone", "length", "dtype"))
    study, claims, _ = asked("quick", claims=["linearised-optimum"], **blank, **flags)
    jobs, store = plan.jobs(study, claims, tmp_path / "b" / "tasks"), Store(tmp_path / "b" / "earlier")
    for number, (kind, job) in enumerate(jobs):
        if number == 2:
            assert kind == plan.PLANTS and main(words) == 0  # of these none is measured yet
            assert json.loads(capsys.readouterr().out)["whole_seconds_by_cores"] is None
        store.write("cells", job.key, job.settings, Record({}, {}))
        store.write("provenance", job.key, {}, Record({"cpu_seconds": 10.0 * (1 + number)}, {}))
    assert main(words) == 0
    found = json.loads(capsys.readouterr().out)["whole_seconds_by_cores"]
    assert len(jobs) == 4 and set(found) == {"2", "64", "1000"}
    assert found["64"] == found["1000"] == START + OVERHEAD + 40.0
    assert START + 50.0 <= found["2"] <= START + 60.0 + 3 * OVERHEAD
