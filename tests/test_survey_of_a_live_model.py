"""A survey's numbers are those of the dense matrices, by module; its forecast and its cut of the data say what they are."""

import copy

import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model

from probes.live.attached import attach
from probes.live.survey import linearity, survey

VOCABULARY = 30


@pytest.fixture(scope="module")
def attached():
    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=VOCABULARY, n_embd=8, n_layer=2, n_head=2, n_positions=16)
    model = get_peft_model(
        transformers.GPT2LMHeadModel(config),
        LoraConfig(r=2, target_modules=["c_attn"], fan_in_fan_out=True, init_lora_weights=False),
    ).eval()
    ids = torch.randint(VOCABULARY, (6, 9))
    labels = torch.where(torch.arange(9) < 4, -100, ids)
    batches = [{"input_ids": ids[i : i + 3], "labels": labels[i : i + 3]} for i in (0, 3)]
    return attach(model, batches, dtype=torch.float64)


def test_numbers_are_those_of_the_dense_matrices(attached):
    """Ends, traces by module, effective dimension and gradient agree with the dense Hessian and Gauss-Newton matrix."""
    found = survey(attached, ridge=0.01, probes=120, steps=40, densities=8, tol=1e-6)
    hessian, flat = attached.hessian().dense(), attached.gauss_newton().dense()
    values = torch.linalg.eigvalsh(hessian)
    assert found.largest.value == pytest.approx(float(values[-1]), rel=1e-5)
    assert found.smallest.value == pytest.approx(float(values[0]), rel=1e-5)
    spectrum = torch.linalg.eigvalsh(flat).clamp(min=0)
    exact = float((spectrum / (spectrum + 0.01)).sum())
    assert abs(found.effective_dimension.value - exact) < 4 * found.effective_dimension.stderr + 1e-6 * exact
    start = 0
    for part in found.modules:
        block = slice(start, start + part.size)
        for estimate, matrix in ((part.trace, hessian), (part.gauss_newton_trace, flat)):
            assert abs(estimate.value - float(matrix.diagonal()[block].sum())) < 4.5 * estimate.stderr
        start += part.size
    assert start == found.size == attached.size
    assert [part.name for part in found.modules] == [f"transformer.h.{i}.attn.c_attn" for i in range(2)]
    assert sum(part.reach for part in found.modules) == pytest.approx(1)
    leaves = {k: x.clone().requires_grad_() for k, x in attached.params.items()}
    whole = sum(attached.loss(leaves, batch) for batch in attached.batches) / 2  # both have as many tokens
    slopes = torch.autograd.grad(whole, list(leaves.values()))
    assert found.loss == pytest.approx(float(whole), rel=1e-12)
    assert found.gradient == pytest.approx(float(torch.cat([g.flatten() for g in slopes]).norm()), rel=1e-10)


def test_sampled_covectors_have_the_criterions_curvature(attached):
    """The covariance of sampled covectors is the second derivative of the criterion at the outputs."""
    batch = attached.batches[0]
    y = attached.outputs(attached.params, batch).detach()
    exact = torch.autograd.functional.hessian(lambda z: attached.criterion(z, batch), y).flatten(0, 1).flatten(1)
    generator, n = torch.Generator().manual_seed(0), 4000
    drawn = torch.stack([attached.sampled(y, batch, generator).flatten() for _ in range(n)])
    found, spread = drawn.T @ drawn / n, (drawn.square().T @ drawn.square() / n - exact**2).clamp(min=0)
    assert float((found - exact).abs().max() / ((spread / n).sqrt() + 1e-4).max()) < 6


def test_linearity_is_exact_where_outputs_are_linear(attached):
    """Close to the start the linearisation explains all; the distance grows with the step, and no change is refused."""
    start = {k: torch.zeros_like(x) if "lora_B" in k else x for k, x in attached.params.items()}
    etas = []
    for t in (1e-3, 1e-1, 3.0):
        near = copy.copy(attached)
        object.__setattr__(near, "params", {k: x + t * (attached.params[k] - x) for k, x in start.items()})
        etas.append(linearity(near, start))
    assert etas[0].cosine > 0.9999 and etas[0].eta < 0.01 < etas[1].eta < etas[2].eta
    assert etas[1].eta / etas[0].eta == pytest.approx(100, rel=0.3)  # the first term left out is quadratic
    with pytest.raises(ValueError, match="changes nothing"):
        linearity(attached, attached.params)


def test_first_batches_and_rows_are_cut_with_their_weights(attached):
    """The first batches, the last of them cut to its first rows, weigh what is left of them."""
    part = attached.first(2, 1)
    assert part.weights == [15.0, 5.0] and len(part.batches[1]["labels"]) == 1
    assert attached.first(1).weights == [15.0]
