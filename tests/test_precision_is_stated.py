"""Half precision anywhere in the graph is taken and stated; float32 and float64 throughout are exact."""

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy, gelu, silu

from probes import (
    end_eigenpairs,
    gauss_newton,
    gauss_newton_spectrum,
    hessian,
    linear_regime,
    local_learning_coefficient,
    response,
    summaries,
    top_eigenpairs,
)

HALF = (torch.bfloat16, torch.float16)


def draw(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


FROZEN = [draw(16, 12, seed=1) / 4, draw(16, 16, seed=2) / 4, draw(3, 16, seed=3) / 4]
PARAMS = {"A": draw(2, 16, seed=4) / 4, "B": draw(16, 2, seed=5) / 4}


def batches(n=3):
    return [{"x": draw(8, 12, seed=10 + i), "y": torch.arange(8) % 3} for i in range(n)]


def network(dtype):
    """A base in dtype with a low-rank adapter in the parameters' own dtype, as PEFT makes them."""
    w = [x.to(dtype) for x in FROZEN]

    def outputs(p, batch):
        h = silu(batch["x"].to(dtype) @ w[0].T)
        side = h.to(p["A"].dtype) @ p["A"].T @ p["B"].T
        h = gelu(nn.functional.rms_norm((h @ w[1].T + side).to(dtype), (16,)))
        return h @ w[2].T

    return outputs


def criterion(y, batch):
    return cross_entropy(y, batch["y"])


def loss_of(outputs):
    return lambda p, b: criterion(outputs(p, b), b)


def at(dtype):
    return {k: v.to(dtype) for k, v in PARAMS.items()}


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("own", [torch.float32, None])
def test_half_precision_is_taken_and_near(dtype, own):
    """Products of float32 are within the base's rounding, some 20 operations of eps = 2^-8 or less in sequence."""
    outputs, params = network(dtype), at(own or dtype)
    bound, v = 20 * torch.finfo(dtype).eps, draw(64, 4, seed=6).float()
    for made in (
        lambda f, p, b: hessian(loss_of(f), p, b),
        lambda f, p, b: gauss_newton(f, criterion, p, b),
        lambda f, p, b: hessian(loss_of(f), p, b, memory=0),
    ):
        op, true = made(outputs, params, batches()), made(network(torch.float64), at(torch.float64), batches())
        assert op.precision == dtype and op.dtype == torch.float32 and op.status == f"rounded in {str(dtype)[6:]}"
        assert true.precision == torch.float64 and true.status == "exact"
        assert (op @ v - true @ v).norm() <= bound * (true @ v).norm()
        found = top_eigenpairs(op, 2, tol=0.05).values
        torch.testing.assert_close(found.double(), top_eigenpairs(true, 2).values, rtol=2 * bound, atol=0)


def test_residuals_of_coarse_products_are_measured_on_them():
    """A search takes what it multiplied by for a matrix: what bfloat16 rounds shows only when the pairs are multiplied again."""
    outputs, params = network(torch.bfloat16), at(torch.float32)
    op = hessian(loss_of(outputs), params, batches())
    found, ends = top_eigenpairs(op, 2, tol=1e-4), end_eigenpairs(op, tol=1e-4)
    for pairs in (found, ends):
        gap = (op @ pairs.vectors).double() - pairs.vectors.double() * pairs.values
        torch.testing.assert_close(pairs.residuals, gap.norm(dim=0), rtol=1e-3, atol=0)
        assert pairs.rounded > 1e-4 and pairs.status == f"converged, rounded to {pairs.rounded:.0e}"
    before = op.products
    again = top_eigenpairs(op, 2, tol=1e-4)
    assert op.products - before == again.products
    fine = top_eigenpairs(hessian(loss_of(network(torch.float32)), params, batches()), 2, tol=1e-4)
    assert fine.status == "converged" and fine.rounded == 0.0


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("route", ["vmap", "loop"])
def test_response_is_not_exact_in_half_precision(dtype, route):
    g = response(network(dtype), at(torch.float32), batches(), route=route)
    true = response(network(torch.float64), at(torch.float64), batches(), route=route)
    assert g.precision == dtype and g.status == f"rounded in {str(dtype)[6:]}" and true.status == "exact"
    assert (g.matrix - true.matrix).norm() <= 20 * torch.finfo(dtype).eps * true.matrix.norm()
    assert response(network(dtype), at(dtype), batches(), route=route).status != "exact"
    spectrum = gauss_newton_spectrum(network(dtype), criterion, at(torch.float32), batches())
    assert spectrum.status.endswith(g.status)


def test_every_record_states_it():
    outputs, params = network(torch.bfloat16), at(torch.float32)
    rows = summaries(loss_of(outputs), ["A", "B"], params=params, batches=batches())
    assert {row.precision for row in rows} == {"bfloat16"}
    chain = {"step": 1e-5, "chains": 4, "draws": 4, "burn": 0}
    assert local_learning_coefficient(loss_of(outputs), params, batches(), **chain).precision == "bfloat16"
    assert local_learning_coefficient(loss_of(network(torch.float32)), params, batches(), **chain).precision == "float32"
    coarse = linear_regime(outputs, params, params, batches(), [0.1])
    fine = linear_regime(network(torch.float32), params, params, batches(), [0.1])
    assert (coarse.precision, fine.precision) == (torch.bfloat16, torch.float32)
    ratio = float(coarse.rounding / fine.rounding) * torch.finfo(torch.float32).eps / torch.finfo(torch.bfloat16).eps
    assert 0.8 < ratio < 1.25  # eta's noise grows with eps; outputs and slopes are the same to rounding


def test_what_passes_through_counts():
    """A detour through a coarser dtype, autocast, and float32 inside float64, wherever in the graph."""

    def detour(p, b, dtype):
        return network(torch.float32)({**p, "B": p["B"].to(dtype).to(p["B"].dtype)}, {**b, "x": b["x"].float()})

    for dtype in HALF:
        assert hessian(loss_of(lambda p, b, d=dtype: detour(p, b, d)), at(torch.float32), batches()).precision == dtype
    cast = torch.autocast("cpu", dtype=torch.bfloat16)
    assert hessian(cast(loss_of(network(torch.float32))), at(torch.float32), batches()).precision == torch.bfloat16
    inside = hessian(loss_of(lambda p, b: detour(p, b, torch.float64)), at(torch.float64), batches())
    assert inside.precision == torch.float32 and inside.status == "rounded in float32"
    only_last = batches()
    late = lambda p, b: network(torch.bfloat16 if b is only_last[2] else torch.float32)(p, b)  # noqa: E731
    for memory in (0, 1 << 30):
        assert hessian(loss_of(late), at(torch.float32), only_last, memory=memory).precision == torch.bfloat16


def test_blocks_keep_the_precision():
    op = hessian(loss_of(network(torch.bfloat16)), at(torch.float32), batches())
    assert op.block("A").precision == torch.bfloat16 and op.between("A", "B").whole.status == op.status


def test_a_llama_in_bfloat16_with_adapters_in_float32():
    transformers, peft = pytest.importorskip("transformers"), pytest.importorskip("peft")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=40, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48
    )
    base = transformers.LlamaForCausalLM(config).to(torch.bfloat16)
    lora = peft.LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    model = peft.get_peft_model(base, lora).eval()
    params = {n: p.detach().float() for n, p in model.named_parameters() if "lora_" in n}
    ids = torch.randint(40, (4, 10))
    batch = {"input_ids": ids, "labels": ids}
    loss = lambda q, b: functional_call(model, q, (), b)  # noqa: E731
    last = lambda q, b: functional_call(model, q, (), {"input_ids": b["input_ids"]}).logits[:, -1, :3]  # noqa: E731
    op, g = hessian(loss, params, [batch]), response(last, params, [batch])
    assert op.status == g.status == "rounded in bfloat16"
    v = draw(op.shape[0], seed=7).float()
    rough = op @ v
    model.float()
    assert (rough - hessian(loss, params, [batch]) @ v).norm() < 0.2 * rough.norm()
    model.bfloat16().train()
    assert hessian(loss, params, [batch]).status == op.status  # training mode draws nothing where dropout is 0
    for module in model.modules():
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = 0.01
    with pytest.raises(ValueError, match="draws random numbers"):
        hessian(loss, params, [batch])
