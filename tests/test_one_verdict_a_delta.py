"""Every delta has a verdict of its own, over tasks; a lead over rivals is one over each; Holm runs over claims and deltas."""

from dataclasses import replace

import numpy as np
import pytest

from validations.claims import CLAIMS, named
from validations.claims.shared.claim import Cell, lead, mean
from validations.judge import Evidence, alone, verdicts_of
from validations.store import Record
from validations.verdict import Criterion, Least, decide, outcome_of

BARE = Record({}, {})


def planted(values, seeds=2):
    """A claim that asks for a mean of x above one half, with rows whose x is values[delta] plus a little for each task."""
    z = np.linspace(-0.1, 0.1, 6)
    rows = [
        {"task": f"task {t}", "delta": delta, "seed": s, "x": value + z[t]}
        for delta, value in values.items()
        for t in range(6)
        for s in range(seeds)
    ]
    bar = Criterion("x", "x", mean("x"), (0.5, np.inf), (0.2, np.inf))
    claim = replace(named("tunable-ports"), criteria=(bar,), assumptions=())
    return Evidence(claim, tuple(Cell("task 0", delta, 0, BARE, BARE) for delta in values), tuple(rows))


def test_pooling_does_not_hide_the_delta_that_fails():
    evidence = planted({"bias": 1.0, "prefix": 1.0, "lora": 0.0})
    words = {delta: v.word for (_, delta), v in verdicts_of([evidence]).items()}
    assert words == {"bias": "supported", "prefix": "supported", "lora": "refuted"}
    assert decide(evidence.claim.criteria, evidence.rows).word == "supported"  # what pooling says


def test_seeds_add_no_tasks():
    few, many = (alone([planted({"bias": 0.6}, seeds)])["tunable-ports", "bias"] for seeds in (1, 40))
    assert few.tasks == many.tasks == 6
    assert np.isclose(few.p_support, many.p_support)


def test_every_verdict_of_a_suite_counts_in_holm_s_method():
    one = planted({"bias": 0.6})
    lone = verdicts_of([one])["tunable-ports", "bias"].p_support
    many = [replace(one, claim=replace(one.claim, id=f"claim {k}")) for k in range(5)]
    assert np.isclose(verdicts_of(many)["claim 0", "bias"].p_support, 5 * lone)


def test_four_tasks_are_not_judged():
    evidence = planted({"bias": 1.0})
    rows = [row for row in evidence.rows if row["task"] < "task 4"]
    verdict = decide(evidence.claim.criteria, rows)
    assert verdict.word == "not applicable" and "4 tasks, 5 are needed" in verdict.reason
    assert decide(evidence.claim.criteria, rows, unit="seed").tasks == 2


@pytest.mark.parametrize(("rivals", "word"), [((0.0, 0.0), "supported"), ((0.0, 2.0), "refuted"), ((0.0, 1.0), "undecided")])
def test_a_lead_over_rivals_is_one_over_each(rivals, word):
    z = np.linspace(-0.1, 0.1, 8)
    columns = {"x": 1.0 + z, "a": rivals[0] + z[::-1], "b": rivals[1] + z**2}
    outcome = outcome_of(Criterion("lead", "lead", lead("x", "a", "b"), (0.3, np.inf), (-0.3, np.inf)), columns, range(8))
    assert outcome.word == word
    assert any(np.isclose(outcome.interval.value, np.mean(columns["x"] - columns[r])) for r in "ab")


def test_a_rival_of_either_sign_counts_by_its_size():
    columns = {"x": np.ones(6), "r": -np.ones(6) * 2}
    assert lead("x", "r", either=True)(columns) == -1.0 and lead("x", "r")(columns) == 3.0
    assert isinstance(lead("x", "r", less=True), Least) and lead("x", "r", less=True)(columns) == -3.0


def test_both_natures_of_claims_exist_and_are_told():
    natures = {claim.id: claim.nature for claim in CLAIMS}
    assert set(natures.values()) == {"consistency", "prediction"}
    assert natures["linearised-optimum"] == "consistency" and natures["lq-feedback"] == "prediction"


def test_a_delta_whose_cells_give_no_row_is_not_forgotten():
    evidence = planted({"bias": 1.0, "prefix": 1.0})
    silent = replace(evidence, rows=tuple(row for row in evidence.rows if row["delta"] == "bias"))
    verdicts = verdicts_of([silent])
    assert verdicts["tunable-ports", "prefix"].word == "not applicable" and verdicts["tunable-ports", "bias"].word == "supported"
    assert list(replace(evidence, cells=(Cell("task 0", "sites", 0, BARE, BARE),)).by_delta()) == ["bias", "prefix"]
