"""The digit tasks are what they say, held-out sequences are never trained on, and the lab's own deltas act on the decoder."""

import numpy as np
import pytest
import torch
from seeds import shifted

from theory.attention import prefixed_attention, ratio_deviation
from tuning import Batch, Full, LoRA, Prefix
from tuning.backbones import frame, hidden
from tuning.edits import Edits
from tuning.symbolic import LENGTH, TASKS, VOCABULARY, Recipe, distinct, pretrain, sequence_subject, sequences
from validations.claims.symbolic import experiment
from validations.claims.symbolic.plants import POSITIONS, other_token

SMALL = Recipe(("ascending",), width=32, steps=250, batch_size=48)


@pytest.fixture(scope="module")
def decoder():
    return pretrain(SMALL, 0)


PLAIN = {
    "ascending": sorted,
    "descending": lambda x: sorted(x, reverse=True),
    "add-one": lambda x: [v + 1 for v in x],
    "add-two": lambda x: [v + 2 for v in x],
    "ascending-add-one": lambda x: [v + 1 for v in sorted(x)],
    "histogram": lambda x: [x.count(v) for v in x],
}


@pytest.mark.parametrize("task", TASKS)
def test_a_sequence_is_followed_by_its_image(task):
    batch = sequences([task], 50, seed=shifted(3))
    for tokens, labels in zip(batch.tokens.tolist(), batch.labels.tolist(), strict=True):
        digits = tokens[:LENGTH]
        assert labels == PLAIN[task](digits) and tokens[LENGTH:] == labels[:-1]
        assert min(digits) >= 1 and max(tokens + labels) < VOCABULARY


def test_several_tasks_take_turns():
    batch = sequences(["ascending", "add-one"], 40, seed=shifted(0))
    for i, (tokens, labels) in enumerate(zip(batch.tokens.tolist(), batch.labels.tolist(), strict=True)):
        assert labels == PLAIN["add-one" if i % 2 else "ascending"](tokens[:LENGTH])


def test_held_out_sequences_are_never_trained_on():
    seen, kept = (sequences(["ascending"], 20000, seed=shifted(1), held_out=flag).tokens[:, :LENGTH] for flag in (False, True))
    assert not {tuple(x) for x in seen.tolist()} & {tuple(x) for x in kept.tolist()}
    # Uniform draws have more than five different digits in 71 % of cases: 1 - sum_k P(k distinct), k <= 5.
    assert 0.52 < (distinct(seen) > 5).double().mean() < 0.58
    assert torch.equal(seen, sequences(["ascending"], 20000, seed=shifted(1)).tokens[:, :LENGTH])


def test_unknown_tasks_are_refused():
    with pytest.raises(ValueError, match="expected tasks among"):
        sequences(["sideways"], 4, 0)
    with pytest.raises(ValueError, match="at least one task"):
        sequences([], 4, 0)


def test_pretraining_learns_and_repeats(decoder):
    backbone, readout = decoder
    whole = sequence_subject(backbone, Full(), readout, 0)
    learned = whole.accuracy(whole.initial, sequences(["ascending"], 400, 9, held_out=True))
    assert learned > 0.5 and whole.accuracy(whole.initial, sequences(["descending"], 400, 9, held_out=True)) < 0.02
    quick = Recipe(("ascending",), width=16, heads=2, steps=5)
    assert pretrain(quick, 1)[0].fingerprint == pretrain(quick, 1)[0].fingerprint != pretrain(quick, 2)[0].fingerprint


def test_right_under_the_true_tokens_is_right_by_greedy_generation(decoder):
    backbone, readout = decoder
    subject = sequence_subject(backbone, Prefix(2), readout, 0)
    batch = sequences(["ascending"], 200, 4, held_out=True)
    solved = subject.solved(subject.initial, batch)
    tokens = batch.tokens[:, :LENGTH]
    edits = subject.edits(subject.initial)
    for _ in range(LENGTH):
        part = Batch(tokens, torch.ones_like(tokens, dtype=torch.bool), batch.labels)
        with torch.no_grad():
            state = hidden(backbone, part, frame(backbone, edits))[:, -1]
        tokens = torch.cat([tokens, (state @ readout.weight.T + readout.bias).argmax(-1)[:, None]], dim=1)
    generated = (tokens[:, LENGTH:] == batch.labels).all(-1)
    assert torch.equal(generated, solved) and 0 < int(solved.sum()) < len(solved)


@pytest.mark.parametrize("rank", [1, 3])
def test_a_prefix_and_lora_train_equally_many_numbers(decoder, rank):
    backbone, _ = decoder
    assert Prefix(5 * rank).size(backbone) == LoRA(rank, targets=("mlp",)).size(backbone) == 10 * rank * backbone.width


def _attention(backbone, edits, batch):
    """The queries, keys, values (B, heads, T, c) of the first block and its attention's output before the output map."""
    kept = {}
    path = backbone.path(0, backbone.layout.roles["o"])
    watching = Edits(inputs={path: (lambda x: kept.setdefault("heads", x),)}, prefix=edits.prefix, outputs=edits.outputs)
    run = frame(backbone, watching, record_keys=True)
    with torch.no_grad():
        hidden(backbone, batch, run)
        x = run.entries["0.attention"]
        queries = backbone.model.get_submodule(backbone.path(0, backbone.layout.roles["qkv"]))(x)
        for edit in edits.outputs.get(backbone.path(0, backbone.layout.roles["qkv"]), ()):
            queries = edit(x, queries)
        queries = queries[..., : backbone.width]

    def split(y):
        return y.unflatten(-1, (backbone.heads, -1)).transpose(1, 2).double().numpy()

    return split(queries), *(y.double().numpy() for y in run.keys[0]), split(kept["heads"])


def test_a_prefix_rescales_the_decoders_attention_and_nothing_else(decoder):
    backbone, _ = decoder
    batch = sequences(["ascending"], 6, 5)
    mask = np.tril(np.ones((batch.tokens.shape[1],) * 2, bool))
    prefix = Prefix(3)
    edits = prefix.edits(backbone, prefix.initial(backbone, 2))
    q, k, v, output = _attention(backbone, edits, batch)
    keys, values = (p.transpose(0, 1).double().numpy() for p in edits.prefix[0])
    found = prefixed_attention(q, k, v, keys, values, mask=mask)
    assert np.abs(found.output - output).max() < 1e-5 * np.abs(output).max()  # float32 network, float64 identity
    assert found.gate.min() > 0 and ratio_deviation(found.base_weights, found.weights[..., 3:]) < 1e-9
    lora = LoRA(1, targets=("q",))
    params = {name: value + 0.3 for name, value in lora.initial(backbone, 0).items()}
    moved = prefixed_attention(*_attention(backbone, lora.edits(backbone, params), batch)[:3], keys, values, mask=mask)
    assert ratio_deviation(found.base_weights, moved.base_weights) > 0.01


def test_the_experiment_predicts_before_it_trains(decoder, monkeypatch):
    rates = {"full": (3e-3,), "prefix": (1e-2, 3e-2), "lora": (1e-2,)}
    protocol = experiment.Protocol(SMALL, "descending", steps=60, patience=1, lora_patience=1, rates=rates)
    monkeypatch.setattr(experiment, "PROTOCOLS", {"small": protocol})
    monkeypatch.setattr(experiment, "SAMPLE", 4)
    monkeypatch.setattr(experiment, "pretrain", lambda recipe, seed: decoder)
    given = experiment.setting("small", 0)
    before = decoder[0].model.wte.weight.clone()
    predicted = experiment.predict(given)
    measured = experiment.measure(given, predicted).values
    assert predicted.values["prefix"]["parameters"] == measured["lora"]["parameters"] == 320
    assert measured["full"]["parameters"] > 10000 and len(measured["prefix"]["tried"]) == 2
    assert measured["prefix"]["accuracy"] == max(t["accuracy"] for t in measured["prefix"]["tried"])
    assert measured["full"]["accuracy"] > measured["prefix"]["accuracy"] + 0.05
    assert torch.equal(before, decoder[0].model.wte.weight)
    sizes = torch.bincount(given.options["groups"]).double()
    shares = measured["full"]["by_group"]
    assert sum(shares[str(g)] * sizes[g] for g in range(len(sizes)) if sizes[g]) / sizes.sum() == pytest.approx(
        measured["full"]["accuracy"]
    )


def test_no_prefix_beats_chance_on_the_other_token():
    """2^-10 of the sequences is the best any prefix can do on the plant, at prefixes of any size and place."""
    given = other_token(1, 0)
    head = given.subjects["prefix"]
    generator = torch.Generator().manual_seed(0)
    shares = []
    for _ in range(200):
        prefix = {name: 4 * torch.randn(value.shape, generator=generator) for name, value in head.initial.items()}
        shares.append(float(head.solved(prefix, given.test).double().mean()))
    best = max(shares)
    assert best < 2.0**-POSITIONS + 5 * (2.0**-POSITIONS / len(given.test.labels)) ** 0.5
