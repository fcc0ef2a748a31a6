"""A floor under the price of a gain: what training pays for it, what the law makes of it, and both on plants."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
import zoo
from control_problems import relative
from test_shared_gain import LOSSES, R, ensemble

from theory.loss import CrossEntropy
from theory.shared_gain import energy_price, information_values, shared_gain, shared_gains
from tuning.deltas import Adapter
from validations.claims.feedback.experiment import along, gain_of, measure, predict
from validations.claims.feedback.floor import deviations, floored_loss
from validations.claims.feedback.plants import feedback_setting
from validations.claims.shared.setting import Setting
from validations.claims.shared.training import attention_ports

FLOOR = 0.5


def adapted(activation="gelu", scale=0.7):
    delta = Adapter(3, ports=("attention",), activation=activation, scale=scale)
    subject = zoo.subject_of(zoo.backbone_of("bert"), delta)
    return subject, zoo.batch_of(), zoo.moved(subject.initial), attention_ports(subject)


def added(edit, y):
    """What an adapter adds to a sublayer's output."""
    return edit(y, y) - y


def floored(options):
    """The plant's problem with some options, its adapter's numbers searched as the study searches them."""
    setting = feedback_setting(0, 0)
    return Setting(**{**vars(setting), "options": options})


@pytest.mark.parametrize("activation", ["gelu", "tanh", "identity"])
def test_training_pays_for_the_jacobian_at_every_token(activation):
    """The term beside loss and energy is r/2 sigma^2 times the mean square of d pi / d y, taken one token at a time."""
    subject, batch, params, ports = adapted(activation)
    sigmas = {port: 0.1 * (t + 1) for t, port in enumerate(ports)}
    rolled = subject.rollout(params, batch)
    expected = 0.0
    for port, sigma in sigmas.items():
        (edit,) = subject.edits(params).ports[port]
        jacobian = torch.func.jacrev(partial(added, edit))
        for y, mask in zip(rolled.base[port], batch.mask, strict=True):
            squares = [jacobian(row).square().sum() for row in y[mask.bool()]]
            expected += sigma**2 * torch.stack(squares).mean() / len(batch.mask)
    extra = floored_loss(subject, params, batch, R, sigmas) - subject.priced_loss(params, batch, R)
    assert relative(extra.item(), R / 2 * expected.item()) < 1e-8


def test_no_floor_is_the_price_of_energy_alone():
    subject, batch, params, ports = adapted()
    assert floored_loss(subject, params, batch, R, dict.fromkeys(ports, 0.0)) == subject.priced_loss(params, batch, R)


def test_an_affine_adapter_pays_what_noise_on_its_reading_would_cost():
    """E |pi(y + n)|^2 over noise at one port, met by the price alone, is the energy and the floor's term: here by many draws."""
    subject, batch, params, ports = adapted("identity")
    port, sigma = ports[0], 0.4
    (edit,), y = subject.edits(params).ports[port], subject.rollout(params, batch).base[port]
    real = batch.mask.to(y.dtype)

    def energy(x):
        return ((added(edit, x).square().sum(-1) * real).sum(-1) / real.sum(-1)).mean().item()

    generator = torch.Generator().manual_seed(0)
    noisy = [energy(y + sigma * torch.randn(y.shape, generator=generator, dtype=y.dtype)) for _ in range(4000)]
    paid = floored_loss(subject, params, batch, 2.0, {port: sigma}) - subject.priced_loss(params, batch, 2.0)
    found, error = np.mean(noisy) - energy(y), np.std(noisy) / np.sqrt(len(noisy))
    assert abs(found - paid.item()) < 4 * error and paid.item() > 20 * error


def test_each_port_has_noise_of_its_own():
    seen, _ = ensemble(3)
    one, two = energy_price(seen, [0.3, 0.7])
    assert relative(one, energy_price(seen, 0.3)[0]) < 1e-14 and relative(two, energy_price(seen, 0.7)[1]) < 1e-14
    with pytest.raises(ValueError):
        energy_price(seen, [0.3, 0.7, 0.1])


def test_a_level_is_over_the_root_mean_variance_of_a_direction():
    seen, _ = ensemble(4)
    for sigma, S in zip(deviations(seen, 0.5), energy_price(seen), strict=True):
        assert abs(sigma**2 - 0.25 * np.trace(S) / len(S)) < 1e-12
    for wrong in (-0.1, np.nan):
        with pytest.raises(ValueError, match="option floor"):
            deviations(seen, wrong)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_dearer_reading_is_worth_less(loss):
    """The optimum under a floor lies between that without one and the best vector for all, which reads nothing."""
    seen, cost = ensemble(5, loss=loss)
    found = [information_values(seen, cost, R, noise) for noise in (0.0, 0.5, 2.0, 1e6)]
    values = [v.feedback for v in found]
    assert values == sorted(values) and values[0] < values[1] - 1e-6
    assert abs(values[-1] - found[0].shared) < 1e-8
    assert all(v.full == found[0].full and v.shared == found[0].shared for v in found)


def test_laws_of_several_losses_are_those_of_each():
    seen, cost = ensemble(6)
    price, rng = energy_price(seen, 0.2), np.random.default_rng(0)
    losses = [cost, *(CrossEntropy(rng.permutation(cost.labels)) for _ in range(3))]
    for law, loss in zip(shared_gains(seen, losses, R, price), losses, strict=True):
        alone = shared_gain(seen, loss, R, price)
        assert all(relative(a, b) < 1e-12 for a, b in zip(law.K, alone.K, strict=True)) and law.residual < 1e-6


def met(grown, law):
    """The cosine of a trained adapter's Jacobian with a law, and the octaves from the adapter's size to the law's."""
    ports = law.values["ports"]
    gains = [[gain_of(law.arrays, "law", port) for port in ports], [grown.arrays[f"trained.{port}"] for port in ports]]
    size, own = (np.sqrt(sum(np.sum(K**2) for K in part)) for part in gains)
    return along(*gains), np.log2(size / own)


def test_adapters_trained_over_a_floor_become_the_floored_law():
    """In direction and size; the law without one points elsewhere and is larger by more than half an octave."""
    told, bare = predict(floored({"floor": FLOOR, "coordinates": "white"})), predict(floored({}))
    grown = measure(floored({"floor": FLOOR, "coordinates": "white"}), told)
    (near, fits), (far, excess) = met(grown, told), met(grown, bare)
    assert grown.values["converged"] and near > 0.95 and near > far + 0.1
    assert abs(fits) < 0.1 and excess > 0.5
    assert grown.values["cosine_permuted"] < 0.5


def test_adamw_comes_to_the_floored_law_as_well():
    """By steps instead of a search; a run whose gradient has not fallen to the tolerance is not called converged."""
    many = {"floor": FLOOR, "steps": 600, "rate": 1e-2, "decay": 0.0}
    told = predict(floored(many))
    long, short = (measure(replace(floored(many | {"steps": n}), tolerance=1e-2), told).values for n in (600, 3))
    assert long["converged"] and long["evaluations"] == 600 and long["cosines"]["law"] > 0.95
    assert not short["converged"] and short["value"] > long["value"] + 0.01


def test_a_dearer_price_scales_r_and_shrinks_the_law():
    """At so high a price the shared gain is its first-order law, which falls as one over r."""
    cheap, dear, dearest = (predict(floored({"dearer": factor})) for factor in (1.0, 1e4, 1e5))
    assert dear.values["r"] == pytest.approx(1e4 * cheap.values["r"])
    port = dear.values["ports"][0]
    assert relative(10 * gain_of(dearest.arrays, "law", port), gain_of(dear.arrays, "law", port)) < 0.01
    assert relative(1e4 * gain_of(dear.arrays, "law", port), gain_of(cheap.arrays, "law", port)) > 0.01
