"""A long probe says what it will take before it starts, what is left while it runs, and keeps to its forecast."""

import json

import pytest

from costate import main
from probes.curvature.plan import Part, ends_products, share
from validations.commands.probing import curvature as probed
from validations.commands.probing.progress import EVERY, Progress, duration, forecast

SMALL = ["probe", "curvature", "--task", "agreement", "--examples", "6", "--readout", "60", "--length", "16"]


def cost(ahead, made):
    """What parts cost with the products that they made, in products with the whole."""
    return sum(p.cost + p.share * (made[p.label] - p.products) for p in ahead.parts)


@pytest.mark.parametrize("more", [[], ["--ends", "all", "layer", "block"], ["--density", "layer"], ["--delta", "port-bias"]])
def test_a_forecast_is_right_within_a_third_of_what_is_made(capsys, monkeypatch, more):
    """Products counted, since seconds per product are another process's when a machine is shared."""
    made, plans = {}, []

    class Counted(Progress):
        def __call__(self, part, products):
            plans.append(self.forecast)
            made[part.label] = made.get(part.label, 0) + products
            super().__call__(part, products)

    monkeypatch.setattr(probed, "Progress", Counted)
    assert main([*SMALL, *more, "--json"]) == 0
    captured = capsys.readouterr()
    found, ahead = json.loads(captured.out), plans[0]
    assert set(made) == {part.label for part in ahead.parts} and sum(made.values()) == found["products"]
    assert 0.7 < ahead.cost / cost(ahead, made) < 1.3
    lines = captured.err.splitlines()
    assert "the frozen head is fitted on" in lines[0] and f"{ahead.products} products planned" in lines[1]
    assert sum("part" in line and "left" in line for line in lines) >= len(ahead.parts) - 1
    assert lines[-1].startswith("measured in")


def test_a_dry_run_measures_nothing(capsys, monkeypatch):
    monkeypatch.setattr(probed.probes, "summaries", lambda *_, **__: pytest.fail("a dry run measured"))
    assert main([*SMALL, "--dry-run", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found) >= {"products", "seconds_per_product", "seconds", "memory_bytes", "parts"}
    assert found["products"] == sum(row["products"] for row in found["parts"])
    assert found["seconds"] > sum(row["seconds"] for row in found["parts"]) > 0 and found["memory_bytes"] > 1e5


def test_progress_says_what_is_left_at_the_pace_so_far():
    parts = [Part(label, ("w",), 4, "iterative", others=10) for label in ("a", "b", "c")]
    now, lines = [0.0], []
    tell = Progress(forecast(parts, 1.0, 0, 0.0), lines.append, clock=lambda: now[0])
    for _ in range(10):
        now[0] += 2
        tell(parts[0], 1)
    tell(parts[0], 0)
    assert [line.split(";")[0] for line in lines] == ["a: 5 products so far", "a: 10 products so far", "a: 10 products, 20 s"]
    assert lines[-1].endswith("2 parts left, about 40 s") and EVERY == 10
    tell(parts[1], 10), tell(parts[1], 0), tell(parts[2], 10), tell(parts[2], 0)
    assert lines[-1].endswith("all parts are done")


def test_deeper_blocks_cost_less():
    names = [f"{part}/{layer}.q.{x}" for part in ("lora", "bias") for layer in range(4) for x in "AB"]
    assert [share(names, [f"lora/{layer}.q.A", "bias/3.q.B"]) for layer in range(4)] == [1, 0.75, 0.5, 0.25]
    assert share(names, names) == 1 and ends_products(1e-2) == 9


def test_memory_is_the_whole_and_the_largest_block():
    whole, block = Part("all", ("w",), 4, "iterative", ends=3), Part("b", ("w",), 2, "iterative", ends=3, share=0.5, graph=True)
    assert forecast([whole, block], 1.0, 100, 7.0).memory == 150
    assert forecast([whole], 2.0, 100, 7.0).seconds == 13 and forecast([whole], 2.0, 100, 7.0).memory == 100


def test_times_are_words():
    assert [duration(s) for s in (0.057, 12.4, 200, 7500)] == ["0.057 s", "12 s", "3 min 20 s", "2 h 5 min"]


@pytest.mark.parametrize("instrument", ["curvature", "response", "controllability", "representation", "dimension"])
def test_every_instrument_refuses_a_device_that_is_not_there(capsys, instrument):
    assert main(["probe", instrument, "--task", "agreement", "--device", "cuda:99"]) == 2
    assert "expected a device that torch can use" in capsys.readouterr().err


@pytest.mark.parametrize("given", [["--dtype", "float64"], ["--double"], ["--dtype", "bfloat16"]])
@pytest.mark.parametrize("instrument", ["response", "controllability"])
def test_every_dtype_is_one(capsys, given, instrument):
    chosen = ["--task", "agreement", "--delta", "port-bias", "--examples", "6", "--readout", "60", "--length", "16"]
    assert main(["probe", instrument, *chosen, *given, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["dtype"] == ("bfloat16" if "bfloat16" in given else "float64")
