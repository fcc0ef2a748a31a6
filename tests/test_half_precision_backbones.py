"""A backbone in half precision is tuned by a delta, a head and logits of float32, near those of the whole backbone."""

import pytest
import torch
from seeds import shifted

from tuning.deltas import Adapter, BitFit, DoRA, LNTuning, LoKr, LoRA, Prefix, ProjectedPrefix, SHiRA, VeRA
from tuning.preparation import backbone_of, prepare, task_of
from tuning.training import adamw

DELTAS = {
    "lora": LoRA(2),
    "adapter": Adapter(2),
    "prefix": Prefix(2),
    "projected-prefix": ProjectedPrefix(2),
    "bitfit": BitFit(),
    "dora": DoRA(2),
    "ln-tuning": LNTuning(),
    "vera": VeRA(8),
    "shira": SHiRA(2),
    "lokr": LoKr(2),
}


@pytest.fixture(scope="module")
def halves(tmp_path_factory):
    """The same texts under the same backbone, in float32 and in bfloat16."""
    task = task_of("tense", tmp_path_factory.mktemp("tasks"))
    sizes = {"seed": 0, "length": 24, "train": 32, "test": 32, "readout": 60}
    return [prepare(backbone_of("nano", dtype=dtype), task, **sizes) for dtype in ("float32", "bfloat16")]


@pytest.mark.parametrize("kind", DELTAS)
def test_what_is_trained_is_float32(halves, kind):
    """Numbers, logits, gradients, signals and heads are float32; logits are off by the rounding of bfloat16 alone."""
    whole, half = (made.subject(DELTAS[kind], shifted(0)) for made in halves)
    assert half.backbone.dtype == torch.bfloat16 and half.dtype == torch.float32
    generator = torch.Generator().manual_seed(shifted(1))
    delta = {k: v + 0.02 * torch.randn(v.shape, generator=generator) for k, v in whole.initial.items()}
    leaves = {k: v.clone().requires_grad_() for k, v in delta.items()}
    loss = half.loss(leaves, halves[1].train)
    rows = torch.autograd.grad(loss, list(leaves.values()))
    rolled = half.rollout(delta, halves[1].train)
    found = [*half.initial.values(), *rows, loss, half.readout.weight, *rolled.signals.values(), *rolled.inputs.values()]
    assert all(x.dtype == torch.float32 for x in found)
    near, far = half.outputs(delta, halves[1].train), whole.outputs(delta, halves[0].train)
    assert 0 < (near - far).abs().max() < 0.2 * far.abs().max()


def test_small_steps_are_kept(halves):
    """A change below bfloat16's resolution stays in the delta: training moves numbers that bfloat16 would round back."""
    subject = halves[1].subject(DELTAS["lora"], 0)
    found = adamw(subject.loss, subject.initial, [halves[1].train], steps=3, lr=1e-6, warmup=0.0).params
    name, start = next((k, v) for k, v in subject.initial.items() if bool(v.any()))
    assert (found[name] != start).double().mean() > 0.9
    assert (found[name].to(torch.bfloat16) == start.to(torch.bfloat16)).double().mean() > 0.9
