"""Advice ends in time, says where its forecast comes from and what it does not know, and keeps a model that nothing improves."""

import dataclasses
import functools
import itertools
import json
import pathlib

import numpy as np
import pytest
import torch
from chats import WORDS, speaker, tokenizer_of
from known_options import planted_truth, small_study
from safetensors.torch import load_file
from seeds import shifted as own_seed

from costate import main
from tuning import checkpoints, load
from tuning.deltas import Full, parse
from tuning.practice import Recipe
from tuning.preparation import backbone_of, prepare, task_of
from validations.claims.choice import foretelling
from validations.claims.choice.foretelling import Late, Trained, told
from validations.claims.choice.layers import Layer, idle_blocks, place_of
from validations.claims.practice.tangent import Texts
from validations.claims.shared.setting import Setting
from validations.claims.shared.training import first
from validations.commands import advise
from validations.truth import Advice, Truth, paired, stretched

RECIPE = Recipe(steps=6, batch_size=4, rates=(1e-2, 2e-2), looks=4)


@pytest.fixture
def small(tmp_path):
    """A small study of known options, and its results."""
    return small_study(tmp_path)


@functools.cache
def given():
    """Some texts of a task of nano."""
    sizes = {"length": 12, "train": 24, "readout": 24, "test": 8, "dev": 16}
    return prepare(load("nano"), task_of("agreement", "build/tasks", ()), seed=0, **sizes)


def setting_of(*deltas, **own):
    """Some deltas as options, and the recipe of each."""
    subjects = {name: given().subject(parse(name), 0, train_readout=True) for name in deltas} | own
    setting = Setting(subjects, given().train, given().dev, 0, 1.0, 1.0, 1, dev=given().dev)
    return setting, dict.fromkeys(subjects, RECIPE)


def advised(words, capsys):
    """What the command says, as JSON."""
    assert main(["advise", "--json", *words]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.fixture
def blind(tmp_path):
    """Nano in a folder, the attention of whose block 1 no longer reaches the rest of the model."""
    backbone = load("nano")
    with torch.no_grad():
        backbone.model.get_submodule(backbone.linear(1, "o").path).weight.zero_()
    backbone.model.save_pretrained(tmp_path / "blind")
    backbone.tokenizer.save_pretrained(tmp_path / "blind")
    return str(tmp_path / "blind")


def test_options_that_share_a_response_are_told_what_each_is_told_alone():
    names = ("lora:rank=2", "ia3", "prefix:length=2", "adapter:bottleneck=2", "bitfit")
    setting, recipes = setting_of(*names)
    together = dict(told(setting, setting.subjects, recipes, 0))
    assert set(together) == set(names)
    for name in names:
        ((_, alone),) = told(setting, {name: setting.subjects[name]}, recipes, 0)
        assert together[name].losses == pytest.approx(alone.losses, abs=1e-6) and alone.share == 1.0


def test_an_option_without_room_is_told_from_numbers_drawn_at_random(monkeypatch):
    setting, recipes = setting_of(full=given().subject(Full(("0.*",)), 0, train_readout=True))
    ((_, whole),) = told(setting, setting.subjects, recipes, 0)
    texts, numbers = len(given().train.labels) + len(given().dev.labels), sum(layer.numbers for layer in whole.layers)
    monkeypatch.setattr(foretelling, "ROOM", 4 * texts * numbers // 2)
    ((_, drawn),) = told(setting, setting.subjects, recipes, 0)
    assert whole.share == 1.0 and drawn.share == pytest.approx(0.25, rel=0.05)
    assert sum(layer.numbers for layer in drawn.layers) * 4 * texts < foretelling.ROOM


def test_kernels_of_drawn_numbers_are_the_kernel_on_average():
    initial = {"a": torch.zeros(40, dtype=torch.float64)}
    slope = torch.as_tensor(np.random.default_rng(own_seed(5)).standard_normal(40))
    found = []
    for seed in range(400):
        numbers = foretelling._drawn(initial, ["a"], 39, seed)
        ones = {"a": torch.ones(len(numbers.start["a"]), dtype=torch.float64)}
        found.append(float(numbers.network(ones, numbers.scale)["a"] @ slope**2))  # the scale times the drawn squares
    error = np.std(found, ddof=1) / np.sqrt(len(found))
    assert abs(np.mean(found) - float(slope @ slope)) < 4.5 * error  # false alarm 7e-6


def test_a_layer_map_adds_up_to_the_fall_of_the_dev_loss_and_to_the_kernels_trace():
    setting, recipes = setting_of("lora:rank=2")
    subject = setting.subjects["lora:rank=2"]
    ((_, found),) = told(setting, setting.subjects, recipes, 0)
    texts = Texts.of(dataclasses.replace(setting, test=first(setting.dev, 1)), subject.outputs, subject.initial)
    fall = float(texts.dev.loss.value(texts.dev.y0).mean()) - texts.optimum().dev_loss
    assert sum(layer.gain for layer in found.layers) == pytest.approx(fall, abs=1e-6) and abs(fall) > 1e-5
    trace = float(np.sum(texts.train.G.astype(float) ** 2)) / len(texts.train.y0)
    assert sum(layer.trace for layer in found.layers) == pytest.approx(trace, rel=1e-5)
    assert {(layer.block, layer.site) for layer in found.layers} == {(b, "attention") for b in range(4)} | {(None, "head")}


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("3.attention.q.A", (3, "attention")),
        ("lora/0.mlp.up.B", (0, "mlp")),
        ("readout.bias", (None, "head")),
        ("embedding.embeddings.LayerNorm.bias", (None, "embedding")),
    ],
)
def test_a_parameter_says_where_it_stands(name, place):
    assert place_of(name) == place


def test_blocks_are_idle_only_where_something_falls():
    gains = {0: (0.5, 0.1), 1: (0.02, -0.02), 2: (0.4, 0.0)}
    layers = [
        Layer(b, site, 1, gain, 0.0, 0.0)
        for b, own in gains.items()
        for site, gain in zip(("attention", "mlp"), own, strict=True)
    ]
    assert idle_blocks(layers) == (1,)
    assert idle_blocks([dataclasses.replace(layer, gain=-layer.gain) for layer in layers]) == ()


def test_a_block_that_carries_nothing_is_left_out_once_training_shows_that_it_does(small, blind, tmp_path, capsys):
    peft = pytest.importorskip("peft")
    out = tmp_path / "settings"
    data = labelled(tmp_path / "data", dealt=False)
    words = ["--data", data, *larger(small), "--options", "lora", "--backbone", blind, "--out", str(out)]
    alone = advised([*words, "--no-training"], capsys)
    assert alone["left_out"] == {"blocks": [1], "left_out": False, "costs_at_most": None, "allowed": None}
    (mute,) = (layer for layer in alone["layers"] if layer["block"] == 1)
    assert (mute["gain"], mute["gradient"], mute["trace"]) == (0.0, 0.0, 0.0)
    assert any("layer.1." in name for name in load_file(out / "adapter_model.safetensors"))
    raced = advised([*words, "--share", "1"], capsys)["left_out"]
    assert raced["left_out"] and raced["costs_at_most"] == 0.0 < raced["allowed"]
    kept = load_file(out / "adapter_model.safetensors")
    assert {name.split("layer.")[1][0] for name in kept} == {"0", "2", "3"} and peft.PeftConfig.from_pretrained(str(out)).r == 4


class Clock:
    """A clock that goes on by a second whenever it is read."""

    def __init__(self):
        self.now, self.process_time = 0.0, lambda: 0.0

    def perf_counter(self):
        self.now += 1.0
        return self.now


def test_forecasts_and_race_end_with_the_minutes(small, monkeypatch, capsys):
    clock = Clock()
    for module in (foretelling, advise):
        monkeypatch.setattr(module, "time", clock)
    none = advised(["--data", "agreement", *small, "--minutes", "0.01"], capsys)
    assert none["race"] is None and {row["told_from"] for row in none["options"]} == {0.0} and none["layers"] is None
    assert none["choice"] == "lora"  # by the means on other tasks
    for minutes, told_of in ((1.0, 0), (3.0, 3)):
        clock.now = 0.0
        some = advised(["--data", "agreement", *small, "--minutes", str(minutes)], capsys)
        assert clock.now <= 60 * minutes + 8  # a step, a look or a piece of texts, and the readings of the end itself
        assert some["race"] is None or some["race"]["ended"] in ("minutes", "all")
        assert sum(row["told_from"] > 0 for row in some["options"]) >= told_of


def test_minutes_without_an_end_race_every_run(small, capsys):
    made = advised(["--data", "agreement", *small, "--minutes", "60"], capsys)
    assert (made["race"]["ended"], made["race"]["entrants"]) == ("all", 6)


def test_a_run_that_is_late_is_not_begun():
    setting, _ = setting_of("lora:rank=2")
    trained = Trained([(setting.subjects["lora:rank=2"], 1e-2)], setting.train, setting.dev, RECIPE, 0, until=0.0)
    with pytest.raises(Late):
        trained[0, 3]
    assert trained.best is None and trained.passes == 0


def test_a_race_ends_early_once_nothing_is_undecided_and_brings_its_best_to_the_end(small, monkeypatch, capsys):
    decided = itertools.chain(([1],), itertools.repeat([]))
    monkeypatch.setattr(Advice, "undecided", lambda *given: next(decided))
    made = advised(["--data", "agreement", *small, "--share", "1"], capsys)["race"]
    assert (made["ended"], made["entrants"], made["undecided"]) == ("certain", 2, [])


def advice_of(foretold, rival=5.0):
    foretold = np.array(foretold, float)
    return Advice(foretold, 5.0, np.zeros(len(foretold)), foretold, 0.9, 0.9, rival)


def test_an_option_is_out_by_what_dev_text_shows_or_by_what_is_foretold():
    rng = np.random.default_rng(own_seed(1))
    start = rng.random(2000) < 0.5
    good, worse, alike = (np.where(rng.random(2000) < share, True, start) for share in (0.8, 0.6, 0.8))
    made = advice_of([10, 10, 10, 20, 80])
    tried = {0: {3: good, 5: good}, 1: {3: worse}, 2: {3: alike, 5: alike}}
    assert made.undecided(tried, 0, start) == [2, 4]  # 1 was seen to be worse; 3 is foretold below what 0 gained, 4 is not
    few = {option: {0: np.arange(12) < right} for option, right in {0: 9, 1: 8, 2: 2}.items()}
    assert made.undecided(few, 0, np.arange(12) < 6) == [1, 3, 4]  # on twelve texts a text more proves nothing


def test_an_end_of_equal_options_is_certain_too_rarely_to_be_wrong_more_often_than_asked():
    rng, wrong = np.random.default_rng(own_seed(2)), 0
    for _ in range(400):
        start = rng.random(300) < 0.5
        seen = {o: {0: rng.random(300) < share} for o, share in enumerate((0.6, 0.63, 0.6))}
        leader = max(seen, key=lambda o: seen[o][0].sum())
        wrong += leader != 1 and not advice_of([0, 0, 0]).undecided(seen, leader, start)
    assert wrong <= 400 * 0.1 + 3 * np.sqrt(400 * 0.1 * 0.9)  # false alarm 1e-3


def test_paired_points_are_the_difference_of_accuracies_with_an_error_that_covers():
    rng, covered = np.random.default_rng(own_seed(3)), []
    for _ in range(500):
        one, other = (rng.random(150) < share for share in (0.7, 0.6))
        points, error = paired(one, other)
        assert points == pytest.approx(100 * (one.mean() - other.mean()))
        covered.append(abs(points - 10.0) <= 1.96 * error)
    assert 0.95 - 3 * np.sqrt(0.95 * 0.05 / 500) < np.mean(covered)  # false alarm 1e-3
    assert paired(np.ones(10, bool), np.ones(10, bool))[1] > 0


@pytest.mark.parametrize(
    ("spec", "depth", "made"),
    [
        ({"blocks": [0, 1]}, 6, {"blocks": [0, 1, 2]}),
        ({"blocks": [2, 3]}, 30, {"blocks": list(range(15, 30))}),
        ({"blocks": [3]}, 2, {"blocks": [1]}),
        ({"patterns": ["0.*", "1.*", "2.*", "3.*"]}, 5, {"patterns": ["0.*", "1.*", "2.*", "3.*", "4.*"]}),
        ({"patterns": ["*.bias"]}, 9, {"patterns": ["*.bias"]}),
        ({"rank": 4}, 9, {"rank": 4}),
    ],
)
def test_an_option_stands_on_as_large_a_share_of_another_depth(spec, depth, made):
    assert stretched(spec, 4, depth) == made and stretched(spec, 4, 4) == spec


def larger(words):
    """The flags of a small study, with enough texts to learn from."""
    path = pathlib.Path(words[1])
    text = path.read_text(encoding="utf-8")
    sizes = {"train = 24": "train = 150", "readout = 24": "readout = 100", "dev = 12": "dev = 150", "steps = 8": "steps = 40"}
    for old, new in sizes.items():
        assert old in text
        text = text.replace(old, new)
    path.write_text(text, encoding="utf-8")
    return words


def labelled(folder, dealt):
    """A task of two classes whose labels are dealt out at random, or are what the texts say."""
    rng = np.random.default_rng(own_seed(7))
    folder.mkdir()
    for split, count in (("train", 420), ("test", 60)):
        rows = []
        for i in range(count):
            mood = rng.integers(2)
            text = f"the {rng.choice(['cat', 'dog', 'house', 'girl'])} {split} {i} {('never', 'always')[mood]} sleeps"
            rows.append({"text": text, "label": ("bad", "good")[rng.integers(2) if dealt else mood]})
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return str(folder)


@pytest.mark.parametrize("training", [[], ["--no-training"]])
def test_a_model_is_kept_where_labels_are_dealt_out_at_random(training, tmp_path, capsys):
    words = [*larger(small_study(tmp_path, best="none", told=30.0)), "--options", "lora,bitfit", "--share", "0.6", *training]
    assert main(["advise", "--data", labelled(tmp_path / "dealt", dealt=True), *words]) == 0
    said = capsys.readouterr().out
    assert "keep the frozen model with its head" in said and "no gain is clear of zero" in said


def test_advice_for_the_lab_alone_is_a_file_that_the_lab_reads(tmp_path, capsys):
    words, out = small_study(tmp_path, best="bitfit"), tmp_path / "settings"
    made = advised(["--data", "agreement", *words, "--no-training", "--out", str(out)], capsys)
    assert made["choice"] == "bitfit" and made["peft"] is None and made["written"] == str(out)
    assert sorted(path.name for path in out.iterdir()) == ["delta.safetensors", "training.json"]
    found = checkpoints.load(out / "delta.safetensors", backbone_of("nano"))
    assert found.subject.delta.name == "bitfit" and found.provenance["advice"]["rate"] == made["rate"]
    probed = ["probe", "response", "--task", "agreement", "--examples", "4", "--checkpoint", str(out / "delta.safetensors")]
    assert main([*probed, "--length", "12"]) == 0


def test_a_written_folder_is_trained_by_peft_at_its_rate(small, tmp_path, capsys):
    peft = pytest.importorskip("peft")
    out = tmp_path / "settings"
    made = advised(["--data", "agreement", *small, "--no-training", "--out", str(out)], capsys)
    backbone = load("nano")
    tokens = {"input_ids": torch.tensor([[2, 7, 9, 3]]), "attention_mask": torch.ones(1, 4, dtype=torch.long)}
    with torch.no_grad():
        frozen = backbone.model(**tokens).last_hidden_state.clone()
    model = peft.PeftModel.from_pretrained(backbone.model, str(out), is_trainable=True)
    numbers = {name: value for name, value in model.named_parameters() if value.requires_grad}
    assert sum(value.numel() for value in numbers.values()) == next(
        row["parameters"] for row in made["options"] if row["option"] == made["choice"]
    )
    first_states = model(**tokens).last_hidden_state
    assert torch.allclose(first_states, frozen, atol=1e-6)  # it starts at the frozen model
    optimizer = torch.optim.AdamW(numbers.values(), lr=made["rate"])
    first_states.square().mean().backward()
    optimizer.step()
    with torch.no_grad():
        moved = model(**tokens).last_hidden_state
    assert not torch.allclose(moved, frozen, atol=1e-4)


def test_a_causal_language_model_in_a_folder_is_advised(tmp_path, capsys):
    words = small_study(tmp_path)
    folder = tmp_path / "model"
    speaker().save_pretrained(folder)
    tokenizer_of().save_pretrained(folder)
    rng = np.random.default_rng(own_seed(9))
    rows = [" ".join(rng.choice(WORDS, 5)) + f",{i % 2}" for i in range(200)]
    (tmp_path / "said.csv").write_text("\n".join(["text,label", *dict.fromkeys(rows)]), encoding="utf-8")
    made = advised(["--data", str(tmp_path / "said.csv"), "--backbone", str(folder), *words, "--device", "cpu"], capsys)
    assert made["race"]["entrants"] >= 1 and {layer["block"] for layer in made["layers"]} >= {0, 1}


def test_the_past_is_told_of_forecast_and_race_apart_each_task_left_out(small, capsys):
    assert main(["advise", "--data", "agreement", *small, "--no-training"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert (
        "on the 6 tasks of the study choices on nano, each left out and advised from other tasks, the forecast alone chose"
        in said
    )
    assert "within a point of the best option on 6 of 6 tasks (0.5 points lost on average), and a race chose" in said
    assert "6 tasks of known outcome give intervals for 86% of tasks at most, not 90%" in said


def test_what_was_not_told_is_foretold_by_the_mean_on_other_tasks(tmp_path):
    known = Truth.read(planted_truth(tmp_path / "results"))
    usual = np.mean([task.gained for task in known.tasks], axis=0)
    assert np.allclose(Advice.of(known, {}).foretold, usual)
    some = Advice.of(known, {"lora": [5.0, 5.0, 5.0]}).foretold
    assert np.allclose(np.delete(some, known.names.index("lora")), np.delete(usual, known.names.index("lora")))
