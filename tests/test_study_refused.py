"""A study file with a mistake is refused in one sentence, and the command line exits with 2 and writes nothing."""

import pytest

from costate import main
from validations import plan
from validations.claims import EXPERIMENTS, named
from validations.study import FOLDER, read, with_data

QUICK = (FOLDER / "quick.toml").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "change, says",
    [
        (("seeds = [0]", "seedz = [0, 1]\nseeds = [0]"), "unknown key 'seedz'"),
        (("train = ", "trian = 4\ntrain = "), "unknown key 'trian' in sizes"),
        (('name = "quick"', ""), "missing key 'name'"),
        (('deltas = ["port-bias", "prefix", "lora", "adapter"]', 'deltas = ["perfix"]'), "names the delta 'perfix'"),
        (("evaluations = 120", "evaluations = -1"), "positive number"),
        (("[sizes]", "[sizes"), "not valid TOML"),
        (("seeds = [0]", "seeds = [0, 1, 1]"), "different whole numbers of at least 0 as seeds"),
        (("seeds = [0]", "seeds = [-1]"), "different whole numbers of at least 0 as seeds"),
        (("seeds = [0]", "seeds = 2"), "expected a list for 'seeds'"),
        (("seeds = [0]", "seeds = []"), "at least one task and one seed"),
        (('backbone = "nano"', "backbone = 3"), "expected a text in quotes for 'backbone'"),
        (("evaluations = 120", "evaluations = 12.5"), "expected a whole number for 'evaluations'"),
        (("[deltas]", "[deltas]\nodd = 3"), "expected tables under deltas"),
    ],
)
def test_mistakes_are_named(tmp_path, change, says):
    assert change[0] in QUICK
    path = tmp_path / "s.toml"
    path.write_text(QUICK.replace(*change, 1), encoding="utf-8")
    with pytest.raises(ValueError, match=says):
        read(str(path))


def test_the_shipped_studies_are_valid():
    for path in FOLDER.glob("*.toml"):
        assert read(path.stem).name == path.stem


def test_data_folders_replace_the_tasks(tmp_path):
    study = with_data(read("quick"), (str(tmp_path),))
    assert study.tasks == (str(tmp_path),) and all(not p.tasks for p in study.parts.values())
    with pytest.raises(ValueError, match="does not exist"):
        with_data(study, (str(tmp_path / "no"),))


@pytest.mark.parametrize(
    "words",
    [
        ["--study", "nonsense"],
        ["--data", "no/such/folder"],
        ["--claim", "nonsense"],
        ["--backbone", "no/such/model"],
    ],
)
def test_the_command_line_says_one_sentence(tmp_path, capsys, words):
    out = tmp_path / "out"
    assert main(["validate", *words, "--out", str(out)]) == 2 and not out.exists()
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: ")


@pytest.mark.parametrize("name", sorted(p.stem for p in FOLDER.glob("*.toml")))
def test_a_shipped_study_gives_every_experiment_the_deltas_it_asks_for(name):
    study = read(name)
    experiments = [named(claim).experiment for claim in study.claims]
    for kind in {one.name for one in experiments if not one.protocols}:  # which have deltas of their own
        deltas = study.parts[kind].deltas if kind in study.parts else tuple(study.deltas)
        for group in [(d,) for d in deltas] if EXPERIMENTS[kind].per_delta else [deltas]:
            assert len(EXPERIMENTS[kind].named(group)) == len(group)


def test_a_delta_is_counted_on_its_own_backbone_and_seeds_of_parts_are_told():
    study = read("backbones")
    assert study.backbone_of("lora-minilm") == "minilm" and study.backbone_of("lora") == study.backbone == "nano"
    quick = read("quick")
    assert quick.seeds == (0,) and quick.every_seed == quick.parts["loop"].seeds == (0, 1)
    assert "tags" not in quick.tasks and "tags" in quick.every_task and quick.every_task[: len(quick.tasks)] == quick.tasks


def test_sources_of_a_part_are_tasks_without_cells(tmp_path):
    """Cells of the study subspace are of six tasks, and each learns from the other five and from two sources."""
    study = read("subspace")
    sources = study.parts["subspace"].sources
    assert len(study.tasks) == 6 and len(sources) == 2 and not set(sources) & set(study.tasks)
    assert set(study.every_task) == {*study.tasks, *sources}
    cells = [job for kind, job in plan.jobs(study, [named("one-subspace")], tmp_path) if kind == "subspace"]
    assert {job.settings["task"] for job in cells} == set(study.tasks)
    assert all({*job.settings["others"], job.settings["task"]} == set(study.every_task) for job in cells)
