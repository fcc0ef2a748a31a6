"""A forecast is the linear model's held-out loss; options are the parts that change nothing where they are untrained."""

import numpy as np
import pytest
import torch
import zoo
from seeds import shifted

from probes.reach.response import response
from theory.ensemble import ensemble_lq
from theory.loss import CrossEntropy
from tuning import load
from tuning.deltas import Prefix, parse, text_of
from tuning.peft_format import peft_line
from validations.claims.advice.forecast import PALETTE, _fixed, forecast, options
from validations.claims.advice.plants import palette_setting


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


@pytest.mark.slow
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


def advised(backbone):
    """All options of the claim on a backbone."""
    deltas = {"palette": PALETTE, **{f"prefix l={length}": Prefix(length) for length in (1, 4)}}
    return [
        option
        for role, delta in deltas.items()
        for option in options(role, delta.initial(backbone, 0), divide=role == "palette", delta=delta)
    ]


def model_and_backbone(kind):
    """A base model for PEFT and the backbone of another copy."""
    if kind != "nano":
        return zoo.model_of(kind, dtype=torch.float32), zoo.backbone_of(kind, dtype=torch.float32)
    from transformers import AutoModel

    return AutoModel.from_pretrained("tuning/nano"), load("nano")


@pytest.mark.parametrize("kind", ["nano", "llama", "gpt2", "gpt_neox"])
def test_the_text_of_every_option_trains_that_option(kind):
    _, backbone = model_and_backbone(kind)
    chosen = advised(backbone)
    assert len({text_of(o.delta) for o in chosen}) == len({(o.names, o.size) for o in chosen}) >= 30
    for option in chosen:
        delta = parse(text_of(option.delta))
        assert delta == option.delta, option.label
        assert set(delta.shapes(backbone)) == {n.rpartition("/")[2] for n in option.names}, option.label
        assert delta.size(backbone) == option.size
    assert text_of({o.label: o for o in chosen}["bias, block 1"].delta) == "port-bias:blocks=1"


@pytest.mark.parametrize("kind", ["nano", "llama", "gpt2"])
def test_the_line_of_every_option_makes_peft_train_as_many_numbers(kind):
    peft = pytest.importorskip("peft")
    model, backbone = model_and_backbone(kind)
    without = set()
    for option in advised(backbone):
        line = peft_line(backbone, option.delta)
        if line is None:
            without.add(option.label.rpartition(",")[0].partition(" ")[0])
            continue
        made = peft.get_peft_model(model, eval(line, vars(peft)))
        trained = {n: p.numel() for n, p in made.named_parameters() if p.requires_grad}
        assert sum(trained.values()) == option.size, (option.label, line)
        blocks = {n.split(".")[0] for n in option.delta.shapes(backbone)}
        if not option.label.startswith("prefix"):
            inside = [f".{backbone.layout.blocks}.{b}." for b in blocks]
            assert all(any(place in n for place in inside) for n in trained), option.label
            model = made.unload()
    # GPT-2's keys and values are parts of one map, which PEFT adapts as a whole: its LoRA on the mlp is all that is left.
    fused = {"IA3"} if kind == "gpt2" else set()
    assert without == {"bias", "BitFit", "adapter"} | fused | ({"LoRA"} if fused else set())


def test_a_forecast_leaves_out_the_columns_that_vanish_and_no_others():
    backbone, batch = zoo.backbone_of("bert"), zoo.batch_of()
    made = zoo.subject_of(backbone, PALETTE)
    found = response(made.outputs, made.initial, [batch])
    for name, value in made.initial.items():
        vanishes = float(found.by_group({name: [name]})[name].kernel().diagonal().sum()) == 0
        assert vanishes == _fixed(name, value), name
