"""The nano family is small and whole: four sizes and five stages of pretraining over one vocabulary, made by one recipe."""

import itertools
import json
import math

import numpy as np
import pytest
import torch

from costate import main
from tuning import tasks
from tuning.backbones import encode, load
from tuning.pretraining import distillation, family
from tuning.shipped import CHECKPOINTS, MEMBERS, folder_of, tokenizer_of
from validations import plan, study
from validations.claims import named

NAMES = (*MEMBERS, *CHECKPOINTS)
SENTENCES = ["the soup was delicious", "where can i buy cheap shoes", "it rained heavily all night"]


@pytest.fixture(scope="module")
def family_of():
    """Every member and checkpoint by name."""
    return {name: load(name) for name in NAMES}


def test_everything_shipped_is_at_most_25_mb():
    homes = (folder_of("nano"), folder_of("nano-2x64").parent)
    files = [path for home in homes for path in home.rglob("*") if path.is_file()]
    assert {path.parent.name for path in files} == {"nano", "nano-family", *NAMES}
    assert sum(path.stat().st_size for path in files) <= 25e6


@pytest.mark.parametrize("name", NAMES)
def test_shapes_are_the_stated_ones(family_of, name):
    backbone = family_of[name]
    blocks, width = MEMBERS[name.partition("-step-")[0]]
    config = backbone.model.config
    assert (backbone.blocks, backbone.width, backbone.head_width) == (blocks, width, 32)
    assert (config.intermediate_size, config.vocab_size, config.max_position_embeddings) == (4 * width, 8000, 128)
    numbers = (8000 + 128 + 2 + 2) * width + blocks * (12 * width**2 + 13 * width)
    assert sum(values.numel() for values in backbone.model.parameters()) == numbers
    assert backbone.dtype == torch.float32 and (folder_of(name) / "model.safetensors").stat().st_size < 2 * numbers + 10_000


@pytest.mark.parametrize("name", NAMES)
def test_the_vocabulary_is_nanos(family_of, name):
    assert tokenizer_of(name) == folder_of("nano")
    assert family_of[name].tokenizer.get_vocab() == load("nano").tokenizer.get_vocab()


def test_no_two_are_alike(family_of):
    assert len({load("nano").fingerprint, *(backbone.fingerprint for backbone in family_of.values())}) == len(NAMES) + 1


@pytest.mark.parametrize("name", NAMES)
def test_states_are_finite_and_tell_sentences_apart(family_of, name):
    batch = encode(family_of[name], SENTENCES)
    with torch.inference_mode():
        states = family_of[name].model(input_ids=batch.tokens, attention_mask=batch.mask.long()).last_hidden_state
    assert states.shape == (*batch.tokens.shape, family_of[name].width) and torch.isfinite(states).all()
    rows = torch.stack([rows[mask].mean(0) for rows, mask in zip(states, batch.mask, strict=True)])
    assert torch.pdist(rows).min() > 1e-3 * rows.norm(dim=1).max()


def test_checkpoints_are_log_spaced_from_random_weights_to_the_member():
    start, *between = [*CHECKPOINTS.values(), family.STEPS]
    assert start == 0 and len(between) >= 4
    ratios = [later / earlier for earlier, later in itertools.pairwise(between)]
    assert max(ratios) / min(ratios) < 1.1 and min(ratios) > 2


def test_step_0_is_a_draw_from_the_initialisation(family_of):
    """Weights with the initialisation's standard deviation, biases of zero: 512 000 draws say it to 0.1 % (one sigma)."""
    model = family_of["nano-2x64-step-0"].model
    table = model.embeddings.word_embeddings.weight[1:]
    assert table.std().item() == pytest.approx(model.config.initializer_range, rel=0.006)
    assert abs(table.mean().item()) < 6 * model.config.initializer_range / math.sqrt(table.numel())
    assert all(not values.any() for name, values in model.named_parameters() if name.endswith("bias"))


def test_checkpoints_move_away_from_step_0_and_towards_the_member(family_of):
    row = [family_of[name].model for name in (*CHECKPOINTS, "nano-2x64")]

    def apart(one, other):
        pairs = zip(one.parameters(), other.parameters(), strict=True)
        return math.sqrt(sum((a - b).double().square().sum().item() for a, b in pairs))

    gone = [apart(row[0], model) for model in row]
    left = [apart(model, row[-1]) for model in row]
    assert gone == sorted(gone) and left == sorted(left, reverse=True)


def test_a_study_takes_them_side_by_side(tmp_path):
    """One delta on all of them, by the option `backbone` of the delta: so many cells, each with weights of its own."""
    deltas = "\n".join(
        f'[deltas.bitfit-{name}]\nkind = "BitFit"\n[parts.practice.options.bitfit-{name}]\nbackbone = "{name}"' for name in NAMES
    )
    text = (
        f'name = "sizes"\ntitle = "Sizes"\nquestion = "Which?"\nbackbone = "nano"\ntasks = ["agreement"]\nseeds = [0]\n'
        f'claims = ["practice-size"]\n{deltas}\n'
    )
    (tmp_path / "sizes.toml").write_text(text, encoding="utf-8")
    made = plan.jobs(study.read(str(tmp_path / "sizes.toml")), [named("practice-size")], tmp_path)
    cells = [job.settings for kind, job in made if kind == "practice" and "backbone" in job.settings]
    assert [cell["backbone_name"] for cell in cells] == list(NAMES)
    assert len({cell["backbone"] for cell in cells}) == len(NAMES)


@pytest.mark.parametrize("name", ["nano-2x32", "nano-2x64-step-0"])
def test_a_probe_takes_them_by_name(name, capsys):
    assert main(["probe", "response", "--task", "agreement", "--delta", "bitfit", "--backbone", name, "--examples", "6"]) == 0
    assert f"backbone: {name}\n" in capsys.readouterr().out


@pytest.fixture()
def work(tmp_path):
    """A work folder with real sentences and a stand-in for the teacher: a fixed rotation of counts of letters."""
    lines = sorted({text.lower() for name in ("agreement", "tense") for text in tasks.load(name).splits["train"].text_a})[:256]
    (tmp_path / "sentences.txt").write_text("\n".join(lines), encoding="utf-8")
    (tmp_path / "teacher").mkdir()
    counts = np.array([[line.count(chr(97 + k)) for k in range(26)] for line in lines], np.float32)
    np.save(tmp_path / "teacher" / "00000.npy", distillation.unit(counts))
    np.save(tmp_path / "teacher" / "tokens.npy", np.zeros((8000, 26), np.float32))
    return tmp_path


class Stopped(Exception):
    """What stops a run."""


def test_a_stopped_run_ends_at_the_weights_of_one_that_was_not(work, monkeypatch):
    made = {name: distillation.Recipe(name, 2, 32, 8, kept=(0, 3), batch=16) for name in ("whole", "stopped")}
    monkeypatch.setattr(distillation, "EVERY", 2)
    distillation.student(work, made["whole"], folder_of("nano"))
    loss, calls = distillation.distillation_loss, itertools.count()

    def stopping(*given):
        if next(calls) == 5:
            raise Stopped
        return loss(*given)

    monkeypatch.setattr(distillation, "distillation_loss", stopping)
    with pytest.raises(Stopped):
        distillation.student(work, made["stopped"], folder_of("nano"))
    assert next(calls) == 6 and not (work / "stopped.json").exists()
    distillation.student(work, made["stopped"], folder_of("nano"))
    for end in ("", "-step-0", "-step-3"):
        whole, stopped = (load(str(work / f"{name}{end}")).fingerprint for name in made)
        assert whole == stopped
    records = [json.loads((work / f"{name}.json").read_text(encoding="utf-8")) for name in made]
    assert records[0] | {"seconds": 0} == records[1] | {"seconds": 0} and records[0]["steps"] == 8


def test_the_card_says_whether_worth_rises():
    assert (
        family._order("size", [0.1, 0.2, 0.3]) == "By size the mean share rises at every place in the row: 0.100, 0.200, 0.300."
    )
    assert family._order("step", [0.1, 0.3, 0.2]).startswith("By step the mean share does not rise at 1 of 2 places in the row:")
