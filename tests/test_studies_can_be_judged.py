"""Every shipped study has the tasks that its claims need, and a study that has not says so before its first cell."""

from dataclasses import replace

import pytest

from validations import study as studies
from validations.claims import named
from validations.plan import announced, undecidable
from validations.verdict import NEEDED

SHIPPED = sorted(path.stem for path in studies.FOLDER.glob("*.toml"))


def shortened(study, count):
    """The study with so many tasks, in every part."""
    parts = {kind: replace(part, tasks=part.tasks[:count]) for kind, part in study.parts.items()}
    return replace(study, tasks=study.tasks[:count], parts=parts)


@pytest.mark.parametrize("name", SHIPPED)
def test_every_claim_of_a_shipped_study_can_be_decided(name):
    study = studies.read(name)
    assert undecidable(study, [named(c) for c in study.claims]) == {}


@pytest.mark.parametrize("name", [n for n in SHIPPED if studies.read(n).unit == "task"])
def test_one_task_below_the_need_no_claim_can(name):
    study = studies.read(name)
    claims = [named(c) for c in study.claims if not named(c).experiment.protocols]  # protocols stand in the place of tasks
    assert undecidable(shortened(study, NEEDED), claims) == {}
    lost = undecidable(shortened(study, NEEDED - 1), claims)
    assert set(lost) == {c.id for c in claims} and all("add one more" in reason for reason in lost.values())


def test_a_study_of_seeds_needs_as_many_seeds():
    study = studies.read("symbolic")
    claims = [named(c) for c in study.claims]
    assert set(undecidable(replace(study, seeds=study.seeds[: NEEDED - 1]), claims)) == set(study.claims)


def test_one_data_set_is_judged_by_its_own_splits_and_what_compares_tasks_is_not(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    study = studies.with_data(studies.read("files"), (str(tmp_path / "one"),))
    claims = [named(c) for c in study.claims]
    alone = studies.resampled(study)
    lost = undecidable(alone, claims)
    assert set(lost) == {c.id for c in claims if c.across or c.experiment.needs_other_tasks} != set()
    said = announced(alone, claims)
    assert "verdicts are about" in said[0] and "one" in said[0] and len(said) == 1 + len(lost)
    both = studies.with_data(studies.read("files"), (str(tmp_path / "one"), str(tmp_path / "two")))
    assert set(undecidable(both, claims)) == set(study.claims)
    assert studies.resampled(both, 9).unit == "task" and studies.resampled(both, 9).seeds == tuple(range(9))
