"""Activation checkpointing left on, in either form, changes no measurement, and is back on afterwards."""

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy
from torch.utils import checkpoint

from probes import (
    fisher,
    gauss_newton,
    gauss_newton_spectrum,
    hessian,
    jacobian_map,
    linear_regime,
    local_learning_coefficient,
    response,
)

ORIGINAL = checkpoint.CheckpointFunction, checkpoint._checkpoint_without_reentrant_generator
EXACT = {"rtol": 1e-12, "atol": 1e-13}  # the same operations in float64, in another order at most


class Net(nn.Module):
    """Two blocks, each run plainly or under a checkpoint."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(4, 4), nn.GELU()) for _ in range(2))
        self.head = nn.Linear(4, 3)
        self.reentrant = None

    def forward(self, x):
        for block in self.blocks:
            plain = self.reentrant is None
            x = block(x) if plain else checkpoint.checkpoint(block, x, use_reentrant=self.reentrant)
        return self.head(x)


@pytest.fixture(scope="module")
def problem():
    torch.manual_seed(0)
    net = Net().double().train()
    # not the module's own: a recomputation after functional_call would take those
    params = {n: p.detach() + 0.3 * torch.randn_like(p) for n, p in net.named_parameters() if "blocks" in n}
    return net, params, [{"x": torch.randn(n, 4).double(), "y": torch.arange(n) % 3} for n in (3, 5)]


def measured(net, params, batches):
    outputs = lambda p, b: functional_call(net, p, (b["x"],))  # noqa: E731
    criterion = lambda y, b: cross_entropy(y, b["y"])  # noqa: E731
    loss = lambda p, b: criterion(outputs(p, b), b)  # noqa: E731
    free, point = response(outputs, params, batches, budget=0), torch.ones(40, 2).double()
    chains = {"step": 1e-4, "chains": 4, "draws": 6, "burn": 0, "stationary": True}
    coefficient = {r: local_learning_coefficient(loss, params, batches, route=r, **chains) for r in ("vmap", "loop")}
    return {
        "hessian": hessian(loss, params, batches).dense(),
        "hessian, rebuilt": hessian(loss, params, batches, memory=0) @ point,
        "block": hessian(loss, params, batches).block("blocks.0.*").dense(),
        "gauss_newton": gauss_newton(outputs, criterion, params, batches).dense(),
        "fisher": fisher(outputs, params, batches).dense(),
        "spectrum": gauss_newton_spectrum(outputs, criterion, params, batches).values,
        "response": response(outputs, params, batches).matrix,
        "response, looped": response(outputs, params, batches, route="loop").matrix,
        "response, not formed": free.matvec(point),
        "kernel": free.kernel(),
        "linear_regime": linear_regime(outputs, params, params, batches, [0.1, 1.0]).eta,
        "jacobian_map": jacobian_map(lambda z: outputs(z, batches[0]), params).matvec(point),
        **{r: torch.tensor(found.chain_values) for r, found in coefficient.items()},
    }


@pytest.mark.parametrize("reentrant", [False, True])
def test_every_measurement_is_that_of_the_plain_network(problem, reentrant):
    net, params, batches = problem
    net.reentrant = None
    plain = measured(net, params, batches)
    net.reentrant = reentrant
    try:
        for name, value in measured(net, params, batches).items():
            assert value.any(), name
            torch.testing.assert_close(value, plain[name], **EXACT, msg=lambda m, name=name: f"{name}: {m}")
    finally:
        net.reentrant = None


def test_checkpointing_is_back_on_afterwards(problem):
    net, params, batches = problem
    inside = []

    def seen(p, b):
        inside.append((checkpoint.CheckpointFunction, checkpoint._checkpoint_without_reentrant_generator))
        return functional_call(net, p, (b["x"],)).square().mean()

    def broken(p, b):
        raise RuntimeError("mine")

    hessian(seen, params, batches)
    with pytest.raises(RuntimeError, match="mine"):
        hessian(broken, params, batches)
    assert all(a is not b for pair in inside for a, b in zip(pair, ORIGINAL, strict=True))
    assert (checkpoint.CheckpointFunction, checkpoint._checkpoint_without_reentrant_generator) == ORIGINAL


@pytest.mark.parametrize("reentrant", [False, True])
def test_a_llama_with_adapters(reentrant):
    transformers, peft = pytest.importorskip("transformers"), pytest.importorskip("peft")
    torch.manual_seed(0)
    base = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(vocab_size=40, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24)
    )
    lora = peft.LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    model = peft.get_peft_model(base, lora).train()
    params = {n: 1.5 * p.detach() for n, p in model.named_parameters() if "lora_" in n}
    ids = torch.randint(40, (3, 6))
    batch, v = {"input_ids": ids, "labels": ids}, torch.randn(sum(p.numel() for p in params.values()))
    loss = lambda q, b: functional_call(model, q, (), b)  # noqa: E731
    last = lambda q, b: functional_call(model, q, (), {"input_ids": b["input_ids"]}).logits[:, -1, :3]  # noqa: E731
    plain = hessian(loss, params, [batch]) @ v, response(last, params, [batch]).matrix
    base.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
    assert base.is_gradient_checkpointing
    found = hessian(loss, params, [batch]) @ v, response(last, params, [batch]).matrix
    for a, b in zip(found, plain, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    assert base.is_gradient_checkpointing


def test_what_hides_its_parameters_is_told_how(problem):
    """A checkpointing of another library: nothing here can switch it off, so the sentence names it."""
    net, params, batches = problem

    def hidden(p, b):
        with torch.no_grad():
            return functional_call(net, p, (b["x"],)).square().mean()

    with pytest.raises(ValueError, match="does not use .*no_grad.*checkpointing of its own"):
        hessian(hidden, params, batches)
