"""The facts of scale: members stand where their cards say, slopes are those of made tables, and first order is first order."""

import numpy as np
import pytest

from tuning import load
from tuning.deltas import build
from tuning.preparation import prepare, task_of
from validations.claims import named
from validations.claims.scale.claim import BEYOND, threshold
from validations.claims.scale.experiment import measure, predict
from validations.claims.scale.members import COMMON, MEMBERS, PRETRAINING, SIZE, called
from validations.claims.scale.plants import FULL
from validations.claims.scale.trends import dealt, together, within
from validations.claims.shared.claim import Cell, side_by_side
from validations.claims.shared.setting import Setting
from validations.store import Record
from validations.study import read

STUDY = read("scale")
TUNED = (FULL, "lora", "prompt")
TASKS = [f"task {k}" for k in range(6)]


def backbone(member):
    return f"nano-{COMMON}-{member}" if member.startswith("step-") else f"nano-{member}"


def test_members_have_the_sizes_of_what_ships():
    sizes = {name: sum(p.numel() for p in load(backbone(name)).model.parameters()) for name in SIZE.members}
    assert sizes == SIZE.members
    assert {f"step-{steps}" for name, steps in PRETRAINING.members.items() if name != COMMON} == {*PRETRAINING.members} - {COMMON}


def test_the_study_tunes_every_delta_on_every_member():
    options = STUDY.parts["scale"].options
    assert set(STUDY.deltas) == {called(delta, member) for delta in TUNED for member in MEMBERS}
    for delta in TUNED:
        for member in MEMBERS:
            assert options[called(delta, member)].get("backbone", STUDY.backbone) == backbone(member)
            assert ("dimensions" in options[called(delta, member)]) == (delta == FULL)


def table(axis, value, **columns):
    """Return columns of every task and member of an axis, with a value made of place and task."""
    rows = [(task, name, value(x, k)) for k, task in enumerate(TASKS) for name, x in _places(axis)]
    made = {"task": [r[0] for r in rows], "seed": [0] * len(rows), "member": [r[1] for r in rows], "y": [r[2] for r in rows]}
    return {name: np.array(values) for name, values in (made | columns).items()}


def _places(axis):
    return list(zip(axis.members, axis.octaves(np.array([*axis.members])), strict=True))


@pytest.mark.parametrize("axis", (SIZE, PRETRAINING))
def test_a_slope_is_within_tasks(axis):
    columns = table(axis, lambda x, k: 0.3 * x + 100 * k)
    assert within(axis, "y")(columns) == pytest.approx(0.3)
    less = {name: values[1:] for name, values in columns.items()}  # the first task lacks its first member
    assert within(axis, "y")(less) == pytest.approx(0.3)
    assert abs(within(axis, "y", "z")(columns | {"z": columns["y"]})) < 1e-6  # nothing is left at an equal y
    assert np.isnan(within(axis, "y")({name: values[:0] for name, values in columns.items()}))


def test_octaves_of_stages_count_from_a_hundred_steps():
    x = PRETRAINING.octaves(np.array(["step-0", "step-100", COMMON, "4x192"]))
    np.testing.assert_allclose(x[:3], [np.log2(100), np.log2(200), np.log2(3300)])
    assert np.isnan(x[3])


def test_a_member_on_which_nothing_is_gained_has_no_share():
    columns = table(SIZE, lambda x, k: x)
    full = np.where(columns["member"] == "2x32", 0.0, 10.0)
    gain = np.where(columns["member"] == "2x32", -50.0, columns["y"] - 10)  # a share of (x - 10) / 10 elsewhere
    share = together(SIZE, lambda own: float(np.sum(own["gain"]) / np.sum(own["full"])), "full")
    assert share(columns | {"full": full, "gain": gain}) == pytest.approx(0.1)


def test_members_dealt_out_have_no_slope_but_chances():
    trend = within(SIZE, "y")
    rising = table(SIZE, lambda x, k: x)
    flat = table(SIZE, lambda x, k: float(k))
    assert 0 < dealt(SIZE, trend)(rising) < 0.8 < trend(rising)
    assert dealt(SIZE, trend)(flat) == pytest.approx(0.0, abs=1e-12)


def directions(shares, dimensions=(8, 64, 512)):
    rows = [(d, 100 * share, 100.0) for d, share in zip(dimensions, shares, strict=True)]
    return {name: np.array([row[k] for row in rows]) for k, name in enumerate(("dimension", "gain", "full"))}


def test_d90_lies_between_dimensions_and_its_ends_are_counted():
    assert threshold(directions((0.3, 0.8, 1.0))) == pytest.approx(7.5)  # half way from 64 to 512
    assert threshold(directions((0.95, 0.8, 1.0))) == 3.0
    assert threshold(directions((0.3, 0.8, 0.89))) == 9.0 + BEYOND


def cell(task, delta, accuracy, losses=(0.8, 0.5, 0.2), first_order=0.5, random=()):
    looks = [{"step": 0, "loss": 1.0}, *({"step": 2**k, "loss": loss} for k, loss in enumerate(losses))]
    said = {"start": {"loss": 1.0, "accuracy": 0.5}, "majority": 0.4, "numbers": 1}
    met = {"accuracy": accuracy, "loss": losses[-1], "step": 2 ** (len(losses) - 1), "looks": looks, "random": [*random]}
    return Cell(task, delta, 0, Record(said, {}), Record(met | {"first_order": first_order, "cosine": 0.7, "shift": 2.0}, {}))


def rows(claim, cells):
    wanted = named(claim)
    return [row for one in side_by_side(cells) if one.delta in wanted.deltas for row in wanted.rows(one)]


def family(task="a", **more):
    return [
        cell(task, called(delta, member), 0.9 if delta == FULL else 0.7, **more) for delta in (FULL, "lora") for member in MEMBERS
    ]


def test_rows_are_those_of_every_member_and_none_where_one_is_missing():
    made = rows("scale-gap", family())
    assert [row["member"] for row in made] == [*MEMBERS]
    assert {(round(row["gain"]), round(row["full"]), round(row["behind"])) for row in made} == {(20, 40, 20)}
    assert rows("scale-gap", family()[1:]) == []
    assert len(rows("scale-linearity", family())) == 2 * len(MEMBERS)


def test_a_run_whose_loss_does_not_fall_has_no_step():
    cells = [cell("a", called(FULL, member), 0.9, (0.8, 0.5, 0.2 if member == COMMON else 1.2)) for member in MEMBERS]
    (row,) = rows("scale-convergence", cells)
    assert row["member"] == COMMON and 2 < row["steps_taken"] < 4 and row["later"] == pytest.approx(np.log2(row["steps_taken"]))


def test_shares_below_minus_one_count_as_that():
    assert {row["explained"] for row in rows("scale-linearity", family(first_order=-9.0))} == {-1.0}


@pytest.fixture(scope="module")
def given():
    return prepare(load("nano-2x32"), task_of("voice", "build/tasks", ()), seed=0, length=12, train=24, readout=24, test=8, dev=8)


def setting(given, rates, **more):
    subject = given.subject(build({"kind": "Full", "patterns": ["0.*", "1.*"]}), 0)
    options = {"dev": 8, "steps": 3, "batch_size": 4, "rates": rates, "looks": 2} | more
    return Setting({"delta": subject}, given.train, given.test, 0, 1.0, 1.0, 1, options=options, dev=given.dev)


def test_a_small_step_is_of_first_order_and_a_large_one_is_not(given):
    small, large = (setting(given, (rate,)) for rate in (1e-5, 3e-2))
    near, far = (measure(one, predict(one)).values for one in (small, large))
    assert near["first_order"] > 0.999 and near["cosine"] > 0.999
    assert far["first_order"] < 0.9 and far["shift"] > 10 * near["shift"]


def test_random_directions_are_trained_beside_the_whole(given):
    one = setting(given, (1e-2,), dimensions=[2, 4], code_rates=(0.1,))
    met = measure(one, predict(one)).values
    assert [found["dimension"] for found in met["random"]] == [2, 4]
    assert met["accuracy"] == measure(setting(given, (1e-2,)), Record({}, {})).values["accuracy"]


def test_a_cell_without_dev_text_is_refused(given):
    with pytest.raises(ValueError, match="give the part's option dev"):
        measure(Setting({}, given.train, given.test, 0, 1.0, 1.0, 1, options={"steps": 2}), Record({}, {}))
