"""Whatever holds the tensors of a batch, and whatever a model returns around its loss or logits, the measurement is the same."""

from collections import ChainMap, OrderedDict, UserDict
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import BatchEncoding
from transformers.modeling_outputs import BaseModelOutputWithPooling, SequenceClassifierOutput

from probes import (
    empirical_fisher,
    fisher,
    gauss_newton,
    gauss_newton_spectrum,
    hessian,
    layer_representations,
    linear_regime,
    local_learning_coefficient,
    response,
)
from probes.layout import split_batch


@dataclass(frozen=True, slots=True)
class Frozen:
    x: torch.Tensor
    y: torch.Tensor
    scale: torch.Tensor
    note: str = "any"


@dataclass
class Plain:
    x: torch.Tensor
    y: torch.Tensor
    scale: torch.Tensor


class Named(NamedTuple):
    x: torch.Tensor
    y: torch.Tensor
    scale: torch.Tensor


class Sub(dict):
    pass


CONTAINERS = {
    "dict": dict,
    "BatchEncoding": BatchEncoding,
    "UserDict": UserDict,
    "OrderedDict": OrderedDict,
    "a dict of one's own": Sub,
    "ChainMap": ChainMap,
    "MappingProxyType": MappingProxyType,
    "dataclass": lambda d: Plain(**d),
    "frozen dataclass": lambda d: Frozen(**d),
    "named tuple": lambda d: Named(**d),
    "nested": lambda d: {"in": UserDict(batch=Frozen(**d)), "more": [None, 3]},
    "key-value pairs": lambda d: {"x": d["x"], "y": d["y"], "scale": d["scale"], "past": ((d["x"], d["x"]), (d["x"], d["x"]))},
}


def draw(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


PARAMS = {"w": draw(3, 2, seed=1)}


def made(kind, sizes=(3, 4, 4)):
    return [
        CONTAINERS[kind]({"x": draw(n, 3, seed=10 + i), "y": torch.arange(n) % 2, "scale": torch.tensor(1.0 + i)})
        for i, n in enumerate(sizes)
    ]


def read(batch):
    """The three tensors; by attribute or by key, as a user's function would."""
    if isinstance(batch, dict) and "in" in batch:
        batch = batch["in"]["batch"]
    if isinstance(batch, Plain | Frozen | Named):
        return batch.x, batch.y, batch.scale
    return batch["x"], batch["y"], batch["scale"]


def outputs(p, batch):
    x, _, scale = read(batch)
    return torch.tanh(x @ p["w"]) * scale


def losses(p, batch):
    return cross_entropy(outputs(p, batch), read(batch)[1], reduction="none")


def criterion(y, batch):
    return cross_entropy(y, read(batch)[1])


def measured(kind, outputs=outputs, losses=losses, loss=lambda p, b: losses(p, b).mean(), criterion=criterion):
    batches = made(kind)
    chains = {"step": 1e-4, "chains": 4, "draws": 6, "burn": 0}
    return {
        "hessian": hessian(loss, PARAMS, batches).dense(),
        "gauss_newton": gauss_newton(outputs, criterion, PARAMS, batches).dense(),
        "fisher": fisher(outputs, PARAMS, batches).dense(),
        "empirical": empirical_fisher(losses, PARAMS, batches).dense(),
        "spectrum": gauss_newton_spectrum(outputs, criterion, PARAMS, batches).values,
        "response": response(outputs, PARAMS, batches, chunk=2).matrix,
        "looped": response(outputs, PARAMS, batches, route="loop").matrix,
        "kernel": response(outputs, PARAMS, batches, budget=0).kernel(),
        "linear_regime": linear_regime(outputs, PARAMS, PARAMS, batches, [0.1]).eta,
        "learning": torch.tensor(local_learning_coefficient(loss, PARAMS, batches, **chains).chain_values),
    }


def same(found, expected):
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-12, atol=1e-13, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize("kind", CONTAINERS)
def test_containers(kind):
    same(measured(kind), measured("dict"))
    layers = layer_representations(lambda b: {"x": read(b)[0]}, made(kind, (20, 20)))
    assert layers[0].n == 40


@pytest.mark.parametrize("kind", CONTAINERS)
def test_the_function_sees_the_container_it_was_given(kind):
    """Cut into examples or not; only a mapping that cannot be changed is given as a dict."""
    batch, types = made(kind)[0], set()

    def seen(p, b):
        types.add(type(b))
        return outputs(p, b)

    response(seen, PARAMS, [batch])
    assert types <= {type(batch), dict if kind == "MappingProxyType" else type(batch)}
    before = [t.clone() for t in split_batch(batch)[0]]
    tensors, rebuild = split_batch(batch)
    part = rebuild([t[:1] for t in tensors])
    assert all(len(t) == 1 for t in split_batch(part)[0])
    assert all(torch.equal(a, b) for a, b in zip(before, split_batch(batch)[0], strict=True))  # the given one is as it was


@dataclass
class Output:
    loss: torch.Tensor | None
    logits: torch.Tensor


WRAPPERS = {
    "a model's output": lambda **k: SequenceClassifierOutput(**k),
    "dict": dict,
    "UserDict": lambda **k: UserDict(k),
    "dataclass": Output,
    "tuple": lambda loss, logits: (loss, logits, ((logits, logits),)),
}


@pytest.mark.parametrize("kind", WRAPPERS)
def test_what_a_model_returns(kind):
    wrap = WRAPPERS[kind]

    def model(p, b):
        return wrap(loss=losses(p, b).mean(), logits=outputs(p, b))

    each = lambda p, b: {"loss": losses(p, b)}  # noqa: E731
    same(measured("dict", model, each, model, lambda y, b: wrap(loss=criterion(y, b), logits=y)), measured("dict"))


def test_what_cannot_be_told_is_a_sentence():
    batches = made("dict")
    pooled = lambda p, b: BaseModelOutputWithPooling(outputs(p, b), outputs(p, b))  # noqa: E731
    for returned, said in (
        (pooled, r"\.loss.*BaseModelOutputWithPooling with last_hidden_state, pooler_output"),
        (lambda p, b: SequenceClassifierOutput(logits=outputs(p, b)), "only where the batch has labels"),
        (lambda p, b: float(losses(p, b).mean()), "got float"),
        (lambda p, b: (losses(p, b).mean(),) * 2, "tuple of Tensor, Tensor"),
    ):
        with pytest.raises(ValueError, match=said):
            hessian(returned, PARAMS, batches)
    for returned, said in ((pooled, r"\.logits"), (lambda p, b: (outputs(p, b), outputs(p, b)), "tuple")):
        with pytest.raises(ValueError, match=said):
            response(returned, PARAMS, batches)
    for kind in ("dict", "BatchEncoding", "dataclass", "named tuple"):
        for probe in (lambda b: hessian(lambda p, x: losses(p, x).mean(), PARAMS, b), lambda b: response(outputs, PARAMS, b)):
            with pytest.raises(ValueError, match=r"list of batches.*pass \[batch\]"):
                probe(made(kind)[0])
    with pytest.raises(ValueError, match="dict, tuple or dataclass, got no tensor in str"):
        hessian(lambda p, x: losses(p, x).mean(), PARAMS, ["text"])
