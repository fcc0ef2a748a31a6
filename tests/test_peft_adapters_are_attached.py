"""Every kind of PEFT adapter is probed through its folder, or refused by name, and its base stays bit-identical."""

import adapted
import peft
import pytest
import torch
from adapted import CASES, llama, state, unrounded
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from probes.layout import flatten, unflatten
from probes.live.attached import attach


def labelled():
    """The two sequences, the second of which is padded, with their last three tokens as the response."""
    (batch,) = adapted.batches()
    ends = batch["attention_mask"].sum(1, keepdim=True)
    place = torch.arange(batch["input_ids"].shape[1])
    return batch | {"labels": torch.where((place < ends) & (place >= ends - 3), batch["input_ids"], -100)}


@pytest.mark.parametrize("kind", CASES)
def test_loss_and_products_are_those_of_the_adapted_model(kind, tmp_path, monkeypatch):
    """The loss is the model's own; a product is the difference quotient of its gradient; nothing of the model changes.

    Norms and attention are those that compute in float64, since the quotient divides their rounding by its step.
    """
    monkeypatch.setattr(LlamaRMSNorm, "forward", unrounded)
    adapted.adapted(CASES[kind][0]).save_pretrained(tmp_path)
    model, batch = peft.PeftModel.from_pretrained(llama(), tmp_path), labelled()
    model.get_base_model().config._attn_implementation = "sdpa"
    model.train()
    before = state(model)
    attached = attach(model, [batch], dtype=torch.float64)
    assert set(attached.params) <= {name for name, _ in model.named_parameters()}
    op = attached.hessian(allow_unused=True)
    v = torch.randn(op.shape[0], generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    v /= v.norm()
    if kind == "dora":  # its gradient holds its norms fixed, so that no difference of gradients shows this matrix
        assert "takes no derivative of its norms" in attached.notes[-1]
        w = torch.randn(len(v), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        assert float(v @ (op @ w)) == pytest.approx(float(w @ (op @ v)), rel=1e-5)
    else:
        step = 1e-4
        slopes = [_slope(attached, batch, sign * step * v) for sign in (1, -1)]
        quotient = (slopes[0] - slopes[1]) / (2 * step)
        assert float((op @ v - quotient).norm()) <= 1e-5 * float(quotient.norm())
    assert state(model) == before
    with torch.no_grad():
        assert attached.mean_loss() == pytest.approx(float(model.eval()(**batch).loss), rel=1e-5)


def _slope(attached, batch, step):
    point = unflatten(flatten(attached.params) + step, {k: x.shape for k, x in attached.params.items()})
    leaves = [x.clone().requires_grad_() for x in point.values()]
    rows = torch.autograd.grad(attached.loss(dict(zip(point, leaves, strict=True)), batch), leaves, allow_unused=True)
    return torch.cat([(torch.zeros_like(x) if g is None else g).flatten() for x, g in zip(leaves, rows, strict=True)])
