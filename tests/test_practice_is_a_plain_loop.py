"""The practice arm is AdamW in a plain loop, dev text alone chooses rate and step, and a seed gives the same bytes."""

import math
from dataclasses import replace

import pytest
import torch
import zoo
from seeds import shifted

from tuning import Adapter, BitFit, LoRA, Prefix
from tuning.practice import Recipe, practised, scores
from tuning.training import Diverged, minibatch

RECIPE = Recipe(steps=20, batch_size=5, rates=(0.003, 0.03), looks=6)


def given(delta=None, *, joint=True):
    """A subject and training, dev and held-out texts."""
    made = zoo.subject_of(zoo.backbone_of("bert"), LoRA(2) if delta is None else delta)
    return made.with_readout() if joint else made, *(zoo.batch_of(size=13, seed=s) for s in range(3))


def swept(found):
    """Every run's rate, chosen step and dev loss there, infinite where it ceased to be finite."""
    return [(run.rate, run.best.step, run.best.dev_loss if run.finite else math.inf) for run in found.runs]


def plain_loop(subject, train, recipe, rate, seed):
    """AdamW, linear warm-up, a cosine to zero, gradients clipped at 1, epochs without replacement; parameters by step."""
    params = [value.clone().requires_grad_() for value in subject.initial.values()]
    optimizer = torch.optim.AdamW(params, lr=rate, weight_decay=recipe.decay)
    draw, order, met = torch.Generator().manual_seed(seed), [], {}
    ramp = max(1, round(recipe.warmup * recipe.steps))
    for step in range(recipe.steps):
        gone = (step - ramp) / (recipe.steps - ramp)
        share = (step + 1) / ramp if step < ramp else 0.5 * (1 + math.cos(math.pi * gone))
        optimizer.param_groups[0]["lr"] = rate * share
        while len(order) < recipe.batch_size:
            order += torch.randperm(len(train.labels), generator=draw).tolist()
        rows, order = order[: recipe.batch_size], order[recipe.batch_size :]
        named = dict(zip(subject.initial, params, strict=True))
        optimizer.zero_grad()
        texts = type(train)(*(x[rows] for x in train))
        torch.nn.functional.cross_entropy(subject.outputs(named, texts), texts.labels).backward()
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        optimizer.step()
        met[step + 1] = {name: value.detach().clone() for name, value in named.items()}
    return met


@pytest.mark.parametrize("joint", [True, False])
def test_a_run_is_the_plain_loop(joint):
    subject, *texts = given(joint=joint)
    found = practised(subject, *texts, recipe=RECIPE, seed=shifted(3))
    met = plain_loop(subject, texts[0], RECIPE, found.rate, shifted(3))
    for name, value in met[found.step].items():
        torch.testing.assert_close(found.params[name], value, rtol=0, atol=1e-6)
    assert ("readout.weight" in found.params) == joint
    for point in found.path[1:]:
        expected = (*scores(subject, met[point.step], texts[1]), *scores(subject, met[point.step], texts[2]))
        assert (point.dev_loss, point.dev_accuracy, point.loss, point.accuracy) == pytest.approx(expected, abs=1e-6)


def test_dev_text_alone_chooses():
    subject, train, dev, test = given()
    found = practised(subject, train, dev, test, recipe=RECIPE, seed=shifted(0))
    other = practised(subject, train, dev, test._replace(labels=(test.labels + 1) % 3), recipe=RECIPE, seed=shifted(0))
    assert (found.rate, found.step, swept(found)) == (other.rate, other.step, swept(other))
    best = min(swept(found), key=lambda tried: tried[2])
    assert (found.rate, found.step) == best[:2] and found.chosen.dev_loss == best[2]
    assert found.chosen.dev_loss == min(point.dev_loss for point in found.path[1:])
    turned = practised(subject, train, dev._replace(labels=(dev.labels + 1) % 3), test, recipe=RECIPE, seed=shifted(0))
    assert swept(turned) != swept(found)


def test_a_path_is_looked_at_evenly_in_the_logarithm():
    assert Recipe(steps=100, looks=5).looked_at == (1, 3, 10, 32, 100)
    subject, *texts = given(Adapter(2), joint=False)
    found = practised(subject, *texts, recipe=RECIPE, seed=shifted(1))
    assert [point.step for point in found.path] == [0, *RECIPE.looked_at]
    assert (found.start.loss, found.start.accuracy) == scores(subject, subject.initial, texts[2])
    assert found.at_edge  # of two rates, either ends the list


def test_a_seed_gives_the_same_bytes():
    subject, *texts = given()
    one, again, other = (practised(subject, *texts, recipe=RECIPE, seed=shifted(s)) for s in (1, 1, 2))
    assert (one.path, swept(one)) == (again.path, swept(again)) and one.path != other.path
    assert all(torch.equal(one.params[name], again.params[name]) for name in one.params)


def test_a_rate_that_diverges_loses_and_all_of_them_are_refused(monkeypatch):
    subject, *texts = given()

    def failing(*args, lr, **options):
        if lr >= refused:
            raise Diverged("expected a finite loss")
        return minibatch(*args, lr=lr, **options)

    monkeypatch.setattr("tuning.practice.minibatch", failing)
    refused = 0.01
    found = practised(subject, *texts, recipe=RECIPE, seed=shifted(0))
    assert found.rate == 0.003 and swept(found)[1] == (0.03, 0, math.inf)
    refused = 0.0
    with pytest.raises(ValueError, match="got none: lower them"):
        practised(subject, *texts, recipe=RECIPE, seed=shifted(0))


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"rates": ()}, {"rates": (0.0,)}, {"decay": -1.0}, {"looks": 0}])
def test_wrong_recipes_are_refused(wrong):
    with pytest.raises(ValueError, match="expected steps, texts a step, looks and rates above 0"):
        Recipe(**wrong)


@pytest.mark.parametrize("delta", [LoRA(2), Prefix(2), BitFit()], ids=lambda delta: delta.name)
def test_rates_that_share_passes_run_as_they_would_alone(monkeypatch, delta):
    subject, *texts = given(delta)
    recipe = replace(RECIPE, rates=(0.003, 1e200, 0.03))
    alone = practised(subject, *texts, recipe=recipe, seed=shifted(2))
    monkeypatch.setattr("tuning.practice.folds", lambda subject: True)
    shared = practised(subject, *texts, recipe=recipe, seed=shifted(2))
    assert [run.finite for run in shared.runs] == [run.finite for run in alone.runs] == [True, False, True]
    for one, other in zip(shared.runs, alone.runs, strict=True):
        assert [point.step for point in one.path] == [point.step for point in other.path]
        for met, expected in zip(one.path, other.path, strict=True):
            if math.isfinite(expected.loss):
                assert (met.dev_loss, met.loss) == pytest.approx((expected.dev_loss, expected.loss), abs=1e-5)
    assert (shared.rate, shared.step) == (alone.rate, alone.step)
    for name, value in alone.params.items():
        torch.testing.assert_close(shared.params[name], value, rtol=0, atol=1e-5)
