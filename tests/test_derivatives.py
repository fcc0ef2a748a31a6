"""Forward mode, reverse mode, second derivatives and per-example Jacobians agree."""

import dataclasses

import pytest
import torch
import zoo
from torch.func import grad, jacrev, jvp, vjp, vmap

from tuning import Batch, BitFit, Combined, DoRA

KINDS = ("bert", "mpnet", "gpt2", "llama")
# Relative to the largest entry: float64 rounding through two blocks and two derivatives.
TOLERANCE = 1e-11


def dot(a: dict, b: dict) -> torch.Tensor:
    return sum((a[name] * b[name]).sum() for name in a)


@pytest.fixture(scope="module", params=KINDS)
def backbone(request):
    return zoo.backbone_of(request.param)


@pytest.mark.parametrize("name", zoo.DELTAS)
def test_modes_agree(backbone, name):
    made, batch = zoo.subject_of(backbone, zoo.DELTAS[name]), zoo.batch_of()
    params = zoo.moved(made.initial)
    direction = zoo.moved({key: torch.zeros_like(value) for key, value in params.items()}, 1.0, seed=3)

    def loss(at):
        return made.loss(at, batch)

    def along(t):
        return {key: value + t * direction[key] for key, value in params.items()}

    gradient = grad(loss)(params)
    _, slope = jvp(loss, (params,), (direction,))
    assert abs(slope - dot(gradient, direction)) < TOLERANCE * (1 + abs(slope))

    _, forward = jvp(grad(loss), (params,), (direction,))
    leaves = {key: value.clone().requires_grad_() for key, value in params.items()}
    first = torch.autograd.grad(loss(leaves), list(leaves.values()), create_graph=True)
    products = torch.autograd.grad(dot(dict(zip(leaves, first, strict=True)), direction), list(leaves.values()))
    scale = max(value.abs().max() for value in products)
    assert scale > 1e-3
    for key, product in zip(leaves, products, strict=True):
        assert (forward[key] - product).abs().max() < TOLERANCE * scale

    # central differences are off by c h^2 + O(h^4): halving h leaves a third of what it changes, and the loss's rounding over h
    h = 1e-4
    whole, half = ((loss(along(s)) - loss(along(-s))) / (2 * s) for s in (h, h / 2))
    rounding = 1e3 * torch.finfo(torch.float64).eps * abs(loss(params)) / h
    assert rounding < 1e-8 and abs(whole - half) < 1e-3 * (1 + abs(slope))
    assert abs(half - slope) < abs(whole - half) / 2 + rounding


def test_a_detached_dora_has_an_exact_form(backbone):
    """The same function; the detached gradient is another, so no derivative, and the exact form's is the derivative."""
    delta, batch = Combined((("a", DoRA(2, detached=True)), ("b", BitFit()))), zoo.batch_of()
    assert delta.exact == Combined((("a", DoRA(2)), ("b", BitFit()))) and delta.exact.exact == delta.exact
    assert all(one.exact == one for one in zoo.DELTAS.values())
    made = zoo.subject_of(backbone, delta)
    params = zoo.moved(made.initial)
    exact = dataclasses.replace(made, delta=delta.exact)
    assert torch.equal(made.outputs(params, batch), exact.outputs(params, batch))
    first, other = (grad(lambda at, one=one: one.loss(at, batch))(params) for one in (made, exact))
    slopes = [dot(slope, other) for slope in (first, other)]
    _, along = jvp(lambda at: exact.loss(at, batch), (params,), (other,))
    assert abs(slopes[1] - along) < TOLERANCE * (1 + abs(along)) < abs(slopes[0] - along)


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
