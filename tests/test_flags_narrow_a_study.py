"""A study narrowed by flags runs what was asked for and nothing else, and says before its first cell what that can come to."""

import dataclasses
import json

import pytest

from costate import main
from tuning import catalogue
from tuning.deltas import KINDS, parse
from tuning.preparation import backbone_of
from validations import study as studies
from validations.asked import OPEN, asked, listed
from validations.claims import named
from validations.plan import delta

QUICK = studies.read("quick")


def test_settings_stay_with_their_delta():
    assert listed("lora:rank=4,alpha=8, prefix") == ["lora:rank=4,alpha=8", "prefix"]
    assert listed("prefix") == ["prefix"]
    for text in ("", "lora,,prefix", "lora,lora"):
        with pytest.raises(ValueError, match="expected different names"):
            listed(text)


def test_named_deltas_are_all_that_runs():
    study, claims, lost = asked("quick", deltas="lora,prefix")
    assert list(study.deltas) == ["lora", "prefix"] and study.deltas["lora"] == QUICK.deltas["lora"]
    assert {claim.id for claim in claims} | set(lost) == set(QUICK.claims) and not {claim.id for claim in claims} & set(lost)
    for claim in claims:
        assert set(study.parts[claim.experiment.name].deltas) <= {"lora", "prefix"}
    assert study.parts["practice"].options["prefix"] == QUICK.parts["practice"].options["prefix"]
    alone, _, _ = asked("quick", deltas="lora")
    assert "prefix" not in alone.parts["practice"].options  # or it would be an option of LoRA's cells


def test_what_compares_deltas_needs_them_all():
    loop = "attention-bias,prefix,attention-adapter"
    assert "lq-feedback" not in asked("quick", deltas=loop)[2]
    assert "attention-adapter" in asked("quick", deltas="attention-bias,prefix")[2]["lq-feedback"]


@pytest.mark.parametrize("name", sorted(set(KINDS) - {"combined"}))
def test_every_listed_delta_is_a_name_for_a_study(name):
    """By its name alone, with the settings it needs; a short text and a study's own name go by the same flag."""
    needed = next(choice.needed for choice in catalogue.deltas() if choice.name == name)
    text = name + (":" if needed else "") + ",".join(f"{setting}=4" for setting in needed)
    study, claims, _ = asked("practice", deltas=text)
    assert {claim.experiment.name for claim in claims} & set(OPEN)
    own = studies.read("practice").deltas.get(text)
    assert delta(study.deltas[text]) == (delta(own) if own else parse(text))


@pytest.mark.parametrize("examples", [24, 300, 3000])
def test_fewer_texts_shrink_all_parts_alike_and_more_only_the_training(examples):
    study, *_ = asked("quick", examples=examples)
    assert study.sizes.train == study.parts["practice"].options["train"] == examples
    for before, after in ((vars(QUICK.sizes), vars(study.sizes)), *(_options(name, study) for name in ("practice", "bounds"))):
        share = min(1.0, examples / before.get("train", QUICK.sizes.train))
        for name in {"test", "dev", "readout"} & set(before):
            assert after[name] == max(1, round(share * before[name]))
    assert study.sizes.length == QUICK.sizes.length


def _options(name, study):
    return QUICK.parts[name].options, study.parts[name].options


@pytest.mark.parametrize("name", ["quick", "practice", "files"])
def test_texts_are_as_long_as_asked_in_every_part(name):
    study, *_ = asked(name, length=77)
    assert study.sizes.length == 77 and {part.options.get("length", 77) for part in study.parts.values()} == {77}
    assert dataclasses.replace(study.sizes, length=studies.read(name).sizes.length) == studies.read(name).sizes


def test_tasks_are_names_folders_and_hub_data(tmp_path):
    study, *_ = asked("quick", tasks=f"agreement,{tmp_path},hub:imdb")
    assert study.tasks == ("agreement", str(tmp_path), "hub:imdb") and study.unit == "task"
    assert not any(part.tasks for part in study.parts.values())
    alone, *_ = asked("quick", tasks="agreement", seeds=3)
    assert alone.unit == "seed" and alone.every_seed == (0, 1, 2)


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ({"tasks": "agreemant"}, "did you mean 'agreement'"),
        ({"tasks": "nowhere/at/all"}, "costate list tasks"),
        ({"tasks": "agreement", "data": ["."]}, "both name the tasks"),
        ({"tasks": "agreement,agreement"}, "different names"),
        ({"deltas": "lorra"}, "expected a delta among .*one of quick's own: port-bias"),
        ({"deltas": "ia3:rank=3"}, "expected a setting of ia3"),
        ({"deltas": "adapter", "claims": ["lq-feedback"]}, "leaves nothing to test of lq-feedback"),
    ],
)
def test_what_names_nothing_is_refused(flags, says):
    with pytest.raises(ValueError, match=says) as caught:
        asked("quick", **flags)
    assert "\n" not in str(caught.value)


def test_a_dry_run_tells_cells_cost_and_what_can_be_decided(tmp_path, capsys):
    """And leaves no result; cells that are known cost what they cost, here none are."""
    flags = ["--deltas", "lora", "--tasks", "agreement", "--seeds", "2", "--examples", "24", "--claim", "linearised-optimum"]
    out = tmp_path / "build" / "quick"
    assert main(["validate", *flags, "--out", str(out), "--dry-run", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["tasks"], found["seeds"], found["deltas"], found["examples"]) == (1, 2, ["lora"], 24)
    assert {row["kind"]: (row["cells"], row["to_run"]) for row in found["cells"]} == {"tuned": (2, 2), "plants": (2, 2)}
    assert found["cpu_seconds"] == sum(row["to_run"] * row["cpu_seconds_each"] for row in found["cells"]) > 0
    assert "needs 5 seeds and has 2" in found["claims"]["linearised-optimum"]
    assert not out.exists()


def test_flags_change_only_what_they_name():
    study, claims, lost = asked("quick")
    assert study == QUICK and [claim.id for claim in claims] == list(QUICK.claims) and lost == {}
    assert claims == [named(claim) for claim in QUICK.claims]
    assert asked("quick", backbone="minilm")[0] == dataclasses.replace(QUICK, backbone="minilm")


def test_the_list_of_deltas_shows_names_that_every_flag_takes(capsys):
    """Each text parses to a delta of its kind with these very settings, and its size is that on the backbone."""
    assert main(["list", "deltas", "--backbone", "nano", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["deltas"]
    assert list(found) == list(KINDS)
    for name, said in found.items():
        made = parse(said["text"])
        assert isinstance(made, KINDS[name]) and made.size(backbone_of("nano")) == said["size"]
        settings = {entry.name for entry in dataclasses.fields(made)} - {"parts"}
        assert set(said["settings"]) == settings
        defaults = {key: value for key, value in said["settings"].items() if value not in (None, "needed")}
        needed = [f"{key}=4" for key, value in said["settings"].items() if value == "needed"]
        if name != "combined":
            assert parse(name + ":" + ",".join([*needed, *(f"{k}={v}" for k, v in defaults.items())])) == made
    assert main(["list", "tasks", "--backbone", "nano"]) == 2
    assert "costate list deltas --backbone" in capsys.readouterr().err
