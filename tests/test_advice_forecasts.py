"""A forecast is the linear model's held-out loss; options are the parts that change nothing where they are untrained."""

import numpy as np
import torch
from seeds import shifted

from probes.response import response
from theory.ensemble import ensemble_lq
from theory.loss import CrossEntropy
from validations import __main__ as command
from validations.advice import PALETTE, forecast, interval, options
from validations.controls import palette_setting


def test_a_forecast_is_the_held_out_loss_of_the_explicit_problem():
    setting = palette_setting(1, 0)
    subject, batch = setting.subjects["3.mlp"], setting.train
    found = response(subject.outputs, subject.initial, [batch])
    (option,) = options("3.mlp", subject.initial, divide=False)
    (made,) = forecast(found, subject, batch, [option], seed=shifted(5))
    G, y0, labels = found.numpy(), found.outputs.numpy(), batch.labels.numpy()
    fold = np.random.default_rng([5, 211]).permutation(len(labels)) % 2
    losses = np.empty(len(labels))
    for half in (0, 1):
        fit, rest = fold != half, fold == half
        z = ensemble_lq(G[fit], y0[fit], CrossEntropy(labels[fit]), made.r).z
        losses[rest] = CrossEntropy(labels[rest]).value(y0[rest] + G[rest] @ z)
    assert np.allclose(made.losses, losses, atol=1e-6)
    assert made.trace == np.sum(G**2) / len(labels)


def test_a_wide_option_is_solved_through_its_kernel_with_the_same_answer():
    rng = np.random.default_rng(0)
    A = torch.as_tensor(rng.standard_normal((600, 3)))

    class Wide:
        initial = {"0.attention.bias": torch.zeros(600, dtype=torch.float64)}

        @staticmethod
        def outputs(params, batch):
            return batch.tokens + batch.tokens**2 * (params["0.attention.bias"] @ A)

    setting = palette_setting(0, 0)
    batch = setting.train._replace(tokens=torch.as_tensor(rng.standard_normal((128, 3))), labels=setting.train.labels % 3)
    found = response(Wide.outputs, Wide.initial, [batch])
    (option,) = options("wide", Wide.initial, divide=False)
    narrow = forecast(found, Wide, batch, [option], seed=shifted(1))[0]
    squeezed = forecast(response(Wide.outputs, Wide.initial, [batch], budget=0), Wide, batch, [option], seed=shifted(1))[0]
    assert np.allclose(narrow.losses, squeezed.losses, atol=1e-5) and abs(narrow.r / squeezed.r - 1) < 1e-3


def test_options_divide_what_is_the_identity_and_nothing_else():
    names = {f"bias/{b}.{s}.bias": torch.zeros(4) for b in range(4) for s in ("attention", "mlp")}
    made = {o.label: o for o in options("palette", names, divide=True)}
    assert made["bias, all"].size == 32 and made["bias, upper half"].size == 16 and made["bias, block 2"].size == 8
    assert set(made["bias, mlp"].names) == {n for n in names if "mlp" in n}
    assert [o.label for o in options("prefix", {"0.attention.key": torch.zeros(2, 2, 2)}, divide=False)] == ["prefix, all"]
    assert len({label for label, _ in PALETTE.parts}) == len(PALETTE.parts)


def test_the_interval_is_students():
    x = np.random.default_rng(2).standard_normal(50)
    low, high = interval(x)
    assert low < x.mean() < high and abs((high - low) / 2 - 2.0096 * x.std(ddof=1) / np.sqrt(50)) < 1e-3


def test_bad_data_is_one_sentence(capsys):
    assert command.main(["advise", "--data", "no-such-folder/at-all"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1
