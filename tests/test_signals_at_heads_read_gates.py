"""Signals at the heads of a prefix read their own gates, cost their energy, and move the logits as the response says."""

import numpy as np
import pytest
import torch
import zoo
from control_problems import relative

from theory.ensemble import ensemble_lq
from theory.loss import CrossEntropy
from tuning import Prefix
from validations.claims.information.network import Heads, objective, observed, stacked, whitening

SLOTS, READ = 2, 3


@pytest.fixture(scope="module")
def heads():
    subject, batch = zoo.subject_of(zoo.backbone_of("bert"), Prefix(SLOTS)), zoo.batch_of(size=8)
    return Heads.of(subject, batch, READ), batch


def drawn(network, counts, size, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {
        port: size * torch.randn(network.width, n, generator=generator, dtype=torch.float64)
        for port, n in zip(network.ports, counts, strict=True)
    }


def test_without_gains_the_network_is_the_prefixed_one(heads):
    network, batch = heads
    assert relative(network.run({}, batch).outputs.detach(), network.subject.outputs(network.subject.initial, batch)) < 1e-12


def test_a_signal_of_gates_is_a_change_of_the_prefixs_values(heads):
    """At every block at once, in the closed loop: the gates that are read are those of the attention itself."""
    network, batch = heads
    subject, counts = network.subject, [1 + SLOTS] * len(network.ports)
    gains = drawn(network, counts, 0.5)
    for V in gains.values():
        V[:, 0] = 0.0
    changed = dict(subject.initial)
    for port, V in gains.items():
        block, head = map(int, port.split("."))
        name = f"{block}.attention.values"
        moved = changed[name].clone()
        moved[:, head] += V[:, 1:].T
        changed[name] = moved
    there, before = subject.outputs(changed, batch), network.run({}, batch).outputs
    assert relative(network.run(gains, batch).outputs, there) < 1e-10
    assert relative(before, there) > 1e-2


def test_the_response_is_the_derivative_and_whitened_features_are_orthonormal(heads):
    network, batch = heads
    seen = observed(network, batch)
    white = whitening(seen, 0.0)
    counts = [1 + SLOTS, 1 + SLOTS + READ] * (len(network.ports) // 2)
    for f, L, n in zip(seen.phi, white, counts, strict=True):
        read = f @ L[:n].T
        moment = np.einsum("nt,ntp,ntq->pq", seen.weights, read, read) / len(f)
        assert relative(moment, np.eye(n)) < 1e-8
    G, gains = stacked(seen, white, counts), drawn(network, counts, 1e-6)
    z = np.concatenate([V.numpy().ravel() for V in gains.values()])
    own = {port: V @ torch.as_tensor(L[:n, :n]) for (port, V), L, n in zip(gains.items(), white, counts, strict=True)}
    shift = network.run(own, batch).outputs.numpy() - seen.y0
    assert relative(shift, G @ z) < 1e-3  # second order in a step of 1e-6


def test_the_price_is_the_energy_that_training_pays(heads):
    network, batch = heads
    seen = observed(network, batch)
    white, counts = whitening(seen, 0.0), [1] * len(network.ports)
    G, loss = stacked(seen, white, counts), CrossEntropy(batch.labels.numpy())
    law = ensemble_lq(G, seen.y0, loss, 0.5)
    gains = {
        port: torch.as_tensor(z)[:, None] for port, z in zip(network.ports, np.split(law.z, len(network.ports)), strict=True)
    }
    priced = float(objective(network, gains, batch, 0.5) - objective(network, gains, batch, 0.0))
    assert relative(priced, 0.25 * np.sum(law.z**2)) < 1e-10
