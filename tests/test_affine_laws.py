"""Affine laws at ports: installed as they are written, scaled to an energy, healing as in theory, attacks inside their ball."""

import numpy as np
import pytest
import torch
import zoo

from theory import healing
from tuning import PortBias
from validations.claims.perturbation import experiment as perturbation
from validations.claims.shared import laws
from validations.claims.synthesis import experiment as synthesis

PORTS = ("0.attention", "1.mlp")


@pytest.fixture(scope="module", params=["bert", "gpt2"])
def subject(request):
    return zoo.subject_of(zoo.backbone_of(request.param), PortBias())


def drawn(width, rank=2, seed=0):
    rng = np.random.default_rng(seed)
    parts = [rng.standard_normal(shape) for shape in ((rank, width), (width, rank), (width,))]
    return {port: laws.Affine(*(0.3 * part for part in parts)) for port in PORTS}


def test_an_installed_law_adds_what_it_says(subject):
    law, batch = drawn(subject.width), zoo.batch_of()
    made = laws.with_law(subject, PORTS)
    rolled = made.rollout(laws.installed(law, made), batch)
    for port, own in law.items():
        y = rolled.base[port].numpy()
        assert np.allclose(rolled.signals[port].numpy(), y @ own.down.T @ own.up.T + own.bias, atol=1e-10)
    assert all(float(u.abs().max()) < 1e-12 for port, u in rolled.signals.items() if port not in PORTS)


def test_a_scaled_law_spends_the_energy_asked_for(subject):
    law, batch = drawn(subject.width), zoo.batch_of()
    made = laws.with_law(subject, PORTS)
    for energy in (0.05, 1.0):
        assert laws.spent(made, laws.at_energy(made, law, batch, energy), batch) == pytest.approx(energy, rel=1e-3)


def test_stored_laws_come_back():
    law = drawn(16)
    back = laws.unpacked("x", laws.packed("x", law), PORTS)
    for port, own in law.items():
        assert all(np.array_equal(getattr(own, k), getattr(back[port], k)) for k in ("down", "up", "bias"))


def test_healing_keeps_the_subspace_and_shrinks_the_rest():
    rng = np.random.default_rng(1)
    found = {port: laws.Manifold.of(rng.standard_normal((40, 3)) @ rng.standard_normal((3, 16)) + 1.0) for port in PORTS}
    bases = {port: own.directions[:, :3] for port, own in found.items()}
    law = laws.healing_law(found, bases, 0.3)
    for t, (port, own) in enumerate(found.items()):
        assert own.rank(0.999) == 3
        on = own.mean + bases[port] @ rng.standard_normal(3)
        off = rng.standard_normal(16)
        off -= bases[port] @ (bases[port].T @ off)
        x = on + off
        controlled = x + law[port].up @ law[port].down @ x + law[port].bias
        assert np.allclose(controlled, on + healing(0.3, 2).keep[t] * off, atol=1e-12)


def test_features_are_white_so_that_energy_is_a_norm(subject):
    """For a vanishing law the closed loop shows the frozen states: energy = |k|^2 + |K|^2, to the order of the law's size."""
    batch = zoo.batch_of()
    with torch.no_grad():
        base = subject.rollout(subject.initial, batch).base
    readers = {port: synthesis._readers(base[port], batch.mask, 2) for port in PORTS}
    size = 2 * (2 * subject.width + subject.width)
    z = 1e-6 * np.random.default_rng(2).standard_normal(size)
    law = synthesis._feedback(readers, z)
    assert laws.spent(laws.with_law(subject, PORTS), law, batch) == pytest.approx(float(z @ z), rel=1e-4)


@pytest.mark.parametrize("place", ["embedding", "0.attention"])
def test_an_attack_raises_the_loss_inside_its_ball(subject, place):
    batch, size = zoo.batch_of(), 0.2

    def outputs(w, inputs):
        return subject.disturbed({place: w}, subject.initial, inputs)

    w = perturbation.attack(outputs, batch, size, subject.width, subject.dtype)
    radius = size * batch.mask.double().sum(1).sqrt()
    assert (w.flatten(1).norm(dim=1) <= radius * (1 + 1e-12)).all()
    assert w[~batch.mask].abs().max() == 0
    lost = [torch.nn.functional.cross_entropy(outputs(x, batch), batch.labels, reduction="none") for x in (0 * w, w)]
    noise = torch.randn(w.shape, generator=torch.Generator().manual_seed(0), dtype=w.dtype) * batch.mask[..., None]
    noise = noise * (radius / noise.flatten(1).norm(dim=1))[:, None, None]
    at_random = torch.nn.functional.cross_entropy(outputs(noise, batch), batch.labels, reduction="none")
    assert (lost[1] > lost[0]).all() and lost[1].mean() > at_random.mean()
