"""Every kind of PEFT adapter is probed through its folder, or refused by name, and its base stays bit-identical."""

import adapted
import peft
import pytest
import torch
from adapted import CASES, llama, state

from probes.layout import flatten, unflatten
from probes.live.attached import attach


def labelled():
    """The two sequences, the second of which is padded, with their last three tokens as the response."""
    (batch,) = adapted.batches()
    ends = batch["attention_mask"].sum(1, keepdim=True)
    place = torch.arange(batch["input_ids"].shape[1])
    return batch | {"labels": torch.where((place < ends) & (place >= ends - 3), batch["input_ids"], -100)}


@pytest.mark.parametrize("kind", CASES)
def test_loss_and_products_are_those_of_the_adapted_model(kind, tmp_path):
    """The loss is the model's own; a product is the difference quotient of its gradient; nothing of the model changes."""
    adapted.adapted(CASES[kind][0]).save_pretrained(tmp_path)
    model, batch = peft.PeftModel.from_pretrained(llama(), tmp_path), labelled()
    model.train()
    before = state(model)
    attached = attach(model, [batch], dtype=torch.float64)
    assert set(attached.params) <= {name for name, _ in model.named_parameters()}
    op = attached.hessian(allow_unused=True)
    v = torch.randn(op.shape[0], generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    v /= v.norm()
    slopes = [_slope(attached, batch, sign * 1e-4 * v) for sign in (1, -1)]
    quotient = (slopes[0] - slopes[1]) / 2e-4
    # the model normalises in float32, whose rounding the quotient divides by its step
    scale = float(slopes[0].norm())
    if kind == "dora":  # whose gradient holds its norms fixed, so that it is not the slope of the loss
        assert "takes no derivative of its norms" in attached.notes[-1]
        return
    torch.testing.assert_close(op @ v, quotient, rtol=1e-3, atol=2e-3 * (scale + float(quotient.norm())))
    assert state(model) == before
    with torch.no_grad():
        assert attached.mean_loss() == pytest.approx(float(model.eval()(**batch).loss), rel=1e-5)


def _slope(attached, batch, step):
    point = unflatten(flatten(attached.params) + step, {k: x.shape for k, x in attached.params.items()})
    leaves = [x.clone().requires_grad_() for x in point.values()]
    rows = torch.autograd.grad(attached.loss(dict(zip(point, leaves, strict=True)), batch), leaves, allow_unused=True)
    return torch.cat([(torch.zeros_like(x) if g is None else g).flatten() for x, g in zip(leaves, rows, strict=True)])
