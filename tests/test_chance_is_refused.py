"""A function that draws random numbers is refused under any seed, however rarely they show; one that does not is taken."""

import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy, dropout

from probes import (
    fisher,
    gauss_newton,
    gauss_newton_spectrum,
    hessian,
    jacobian_map,
    layer_representations,
    linear_regime,
    local_learning_coefficient,
    prompt_reachability,
    response,
)

ROWS, WIDTH = 50, 8


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


PARAMS = {"w": draw(WIDTH, 2, seed=1)}
BATCHES = [{"x": draw(ROWS, WIDTH, seed=i), "y": torch.arange(ROWS) % 2, "last": torch.tensor(i == 2)} for i in range(3)]


def network(noise, dtype):
    """Outputs in which `noise` acts on one row of the last batch only."""

    def outputs(p, batch):
        x = batch["x"].to(dtype)
        if len(x) == ROWS and bool(batch["last"]):
            x = torch.cat([x[:-1], noise(x[-1:])])
        return torch.tanh(x @ p["w"].to(dtype)).float()

    return outputs


def measures(outputs):
    criterion = lambda y, b: cross_entropy(y, b["y"])  # noqa: E731
    loss = lambda p, b: criterion(outputs(p, b), b)  # noqa: E731
    last = BATCHES[2]
    return {
        "hessian": lambda: hessian(loss, PARAMS, BATCHES),
        "hessian, rebuilt": lambda: hessian(loss, PARAMS, BATCHES, memory=0),
        "gauss_newton": lambda: gauss_newton(outputs, criterion, PARAMS, BATCHES),
        "fisher": lambda: fisher(outputs, PARAMS, BATCHES),
        "spectrum": lambda: gauss_newton_spectrum(outputs, criterion, PARAMS, BATCHES, route="loop"),
        "response": lambda: response(outputs, PARAMS, BATCHES, route="loop"),
        "linear_regime": lambda: linear_regime(outputs, PARAMS, PARAMS, BATCHES, [0.1]),
        "jacobian_map": lambda: jacobian_map(lambda z: outputs(z, last), PARAMS),
        "layers": lambda: layer_representations(lambda b: {"one": outputs(PARAMS, b)}, BATCHES),
        "learning": lambda: local_learning_coefficient(loss, PARAMS, BATCHES, step=1e-5, chains=4, draws=4, burn=0, route="loop"),
        "prompts": lambda: prompt_reachability(
            lambda u, _: outputs(PARAMS, last)[-1:].expand(len(u), -1), [(torch.zeros(1), 0)], torch.arange(2), longest=0
        ),
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_one_percent_of_one_row_under_any_seed(dtype):
    """In nine of ten calls nothing is dropped at all: only the generator tells."""
    for name, measure in measures(network(lambda x: dropout(x, 0.01), dtype)).items():
        for seed in range(5):
            torch.manual_seed(seed)
            with pytest.raises(ValueError, match="draws random numbers.*model.eval"):
                measure()
                pytest.fail(name)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_same_without_chance_is_taken(dtype):
    plain, still = (measures(network(noise, dtype)) for noise in (lambda x: x, lambda x: dropout(x, 0.0)))
    for measure in still.values():
        measure()
    for name in ("hessian", "gauss_newton", "fisher"):
        assert torch.equal(still[name]().dense(), plain[name]().dense()), name


@pytest.mark.parametrize("moves", [random.random, np.random.rand, lambda: torch.rand(())], ids=["python", "numpy", "torch"])
def test_every_global_generator_counts(moves):
    def outputs(p, b):
        return torch.tanh(b["x"] @ p["w"]) * (1 + 1e-12 * float(moves()))  # below the resolution of float32

    for name in ("hessian", "response", "layers"):
        with pytest.raises(ValueError, match="draws random numbers"):
            measures(outputs)[name]()


def test_a_generator_of_its_own_or_a_state_is_seen_in_the_values():
    own, seen = np.random.default_rng(0), []

    def noisy(p, b):
        return torch.tanh(b["x"] @ p["w"]) * (1 + 0.01 * float(own.standard_normal()))

    def growing(p, b):  # as a key-value cache handed in does
        seen.append(0)
        return torch.tanh(b["x"] @ p["w"] / len(seen))

    for outputs in (noisy, growing):
        for name in ("hessian", "gauss_newton", "response", "learning"):
            with pytest.raises(ValueError, match="random.*state between calls"):
                measures(outputs)[name]()


def test_a_function_that_seeds_itself_is_no_chance():
    def seeded(p, b):
        with torch.random.fork_rng():
            torch.manual_seed(3)
            kept = dropout(torch.ones(WIDTH), 0.5)
        return torch.tanh(b["x"] * kept @ p["w"])

    def reset(p, b):  # leaves the generator moved, by as much every time
        torch.manual_seed(3)
        return torch.tanh(b["x"] * dropout(torch.ones(len(b["x"]), WIDTH), 0.5) @ p["w"])

    for outputs in (seeded, reset):
        measures(outputs)["learning"]()
        for name in ("hessian", "gauss_newton"):
            first, again = (measures(outputs)[name]().dense() for _ in range(2))
            assert first.abs().max() > 0 and torch.equal(first, again), name


def test_training_mode_without_dropout_is_taken():
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True, norm_first=True).train()
    params = {"linear1.weight": layer.linear1.weight.detach().clone()}
    batch = (draw(3, 4, 8),)
    loss = lambda p, b: (functional_call(layer, p, b) ** 3).mean()  # noqa: E731
    found = hessian(loss, params, [batch])
    layer.eval()
    v = draw(128, seed=2)
    torch.testing.assert_close(found @ v, hessian(loss, params, [batch]) @ v, rtol=1e-4, atol=1e-7)
    for p in (0.1, 1e-4):
        with pytest.raises(ValueError, match="draws random numbers"):
            noisy = nn.TransformerEncoderLayer(8, 2, 16, dropout=p, batch_first=True, norm_first=True).train()
            hessian(lambda q, b, m=noisy: functional_call(m, q, b).mean(), params, [batch])
