"""Forward mode, reverse mode, second derivatives and per-example Jacobians agree."""

import pytest
import torch
import zoo
from torch.func import grad, jacrev, jvp, vjp, vmap

from tuning import Batch

KINDS = ("bert", "mpnet", "gpt2", "llama")
# Relative to the largest entry: float64 rounding through two blocks and two derivatives.
TOLERANCE = 1e-11


def dot(a: dict, b: dict) -> torch.Tensor:
    return sum((a[name] * b[name]).sum() for name in a)


@pytest.fixture(scope="module", params=KINDS)
def backbone(request):
    return zoo.backbone_of(request.param)


@pytest.mark.parametrize("name", ["prompt", "prefix", "adapter", "lora", "bitfit", "ia3", "full", "mix"])
def test_modes_agree(backbone, name):
    made, batch = zoo.subject_of(backbone, zoo.DELTAS[name]), zoo.batch_of()
    params = zoo.moved(made.initial)
    direction = zoo.moved({key: torch.zeros_like(value) for key, value in params.items()}, 1.0, seed=3)

    def loss(at):
        return made.loss(at, batch)

    gradient = grad(loss)(params)
    _, slope = jvp(loss, (params,), (direction,))
    assert abs(slope - dot(gradient, direction)) < TOLERANCE * (1 + abs(slope))

    _, forward = jvp(grad(loss), (params,), (direction,))
    leaves = {key: value.clone().requires_grad_() for key, value in params.items()}
    first = torch.autograd.grad(loss(leaves), list(leaves.values()), create_graph=True)
    products = torch.autograd.grad(
        dot(dict(zip(leaves, first, strict=True)), direction), list(leaves.values())
    )
    scale = max(value.abs().max() for value in products)
    assert scale > 1e-3
    for key, product in zip(leaves, products, strict=True):
        assert (forward[key] - product).abs().max() < TOLERANCE * scale

    step = 1e-5
    ahead, behind = (loss({k: params[k] + s * direction[k] for k in params}) for s in (step, -step))
    assert abs((ahead - behind) / (2 * step) - slope) < 1e-6 * (1 + abs(slope)), (
        "central differences, error O(step^2)"
    )


@pytest.mark.parametrize("name", ["prefix", "adapter", "lora", "full", "stack"])
def test_per_example_jacobians(backbone, name):
    """vmap(jacrev) over single examples gives the rows that one reverse sweep through the batch gives."""
    made, batch = zoo.subject_of(backbone, zoo.DELTAS[name]), zoo.batch_of()
    params = zoo.moved(made.initial)

    def one(at, tokens, mask, label):
        return made.outputs(at, Batch(tokens[None], mask[None], label[None]))[0]

    rows = vmap(jacrev(one), in_dims=(None, 0, 0, 0))(params, *batch)
    logits, pull = vjp(lambda at: made.outputs(at, batch), params)
    for example, output in ((0, 1), (3, 2)):
        seed = torch.zeros_like(logits)
        seed[example, output] = 1.0
        row = pull(seed)[0]
        for key, value in rows.items():
            assert (value[example, output] - row[key]).abs().max() < 1e-11 * (1 + row[key].abs().max())
