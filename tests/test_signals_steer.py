"""The frozen model steered with the rolled-out signals gives the tuned logits, whatever the delta."""

import pytest
import torch
import zoo

from tuning import Edits, PortBias
from tuning.subjects import place_energy

TOLERANCE = 1e-10  # float64, two blocks, O(1) numbers: observed 2e-15


@pytest.fixture(scope="module", params=zoo.KINDS)
def backbone(request):
    return zoo.backbone_of(request.param)


@pytest.mark.parametrize("name", zoo.DELTAS)
def test_signals_say_everything_the_delta_does(backbone, name):
    made, batch = zoo.subject_of(backbone, zoo.DELTAS[name]), zoo.batch_of()
    params = zoo.moved(made.initial)
    rolled, tuned = made.rollout(params, batch), made.outputs(params, batch)
    assert torch.equal(rolled.outputs, tuned)
    assert (made.steered(rolled.signals, batch) - tuned).abs().max() < TOLERANCE
    assert (made.steered({}, batch) - tuned).abs().max() > 1e-3
    ranked = sorted(rolled.signals, key=lambda key: -float(rolled.signals[key].square().sum()))
    for lost in ranked:  # a sliding window may hide one of them
        rest = {key: value for key, value in rolled.signals.items() if key != lost}
        if (made.steered(rest, batch) - tuned).abs().max() > 1e-6:
            break
    else:
        raise AssertionError("a missing signal must show")


def test_the_signal_of_a_port_bias_is_the_bias(backbone):
    made, batch = zoo.subject_of(backbone, PortBias()), zoo.batch_of()
    params = zoo.moved(made.initial)
    rolled = made.rollout(params, batch)
    for port in backbone.ports:
        expected = params[f"{port.key}.bias"].expand_as(rolled.signals[port.key])
        assert (rolled.signals[port.key] - expected).abs().max() < TOLERANCE
    biases = {port.key: params[f"{port.key}.bias"] for port in backbone.ports}
    assert (made.steered(biases, batch) - rolled.outputs).abs().max() < TOLERANCE
    size = sum(value.square().sum() for value in params.values())
    assert abs(made.energy(params, batch) - size) < 1e-9 * size


@pytest.mark.parametrize("name", ["adapter", "parallel", "port-bias"])
def test_one_pass_tells_what_a_second_frozen_one_would(backbone, name, monkeypatch):
    """The states, signals and slopes of deltas at ports, under a disturbance too, are those of a replay of frozen sublayers."""
    made, batch = zoo.subject_of(backbone, zoo.DELTAS[name]), zoo.batch_of()
    params = {key: value.requires_grad_() for key, value in zoo.moved(made.initial).items()}
    push = {backbone.ports[0].key: torch.linspace(-1, 1, backbone.width, dtype=torch.float64)}
    assert made.edits(params).at_ports

    def told() -> tuple:
        rolled = made.rollout(params, batch, push)
        size = sum(place_energy(x, batch.mask) for x in (*rolled.base.values(), *rolled.signals.values()))
        return rolled, torch.autograd.grad(size + rolled.outputs.square().sum(), list(params.values()))

    once, slopes = told()
    monkeypatch.setattr(Edits, "at_ports", False)
    twice, expected = told()
    for field in ("inputs", "base", "signals"):
        torch.testing.assert_close(getattr(once, field), getattr(twice, field), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(slopes, expected, rtol=1e-10, atol=1e-10)


def test_signals_of_every_shape_broadcast(backbone):
    made, batch = zoo.subject_of(backbone, PortBias()), zoo.batch_of()
    vector = torch.linspace(-1, 1, backbone.width, dtype=torch.float64)
    per_example, per_token = vector.expand(5, -1), vector.expand(5, 7, -1)
    first, second, third = (made.steered({"1.mlp": signal}, batch) for signal in (vector, per_example, per_token))
    assert (first - second).abs().max() == 0 and (first - third).abs().max() == 0


def test_an_unknown_port_is_refused(backbone):
    made, batch = zoo.subject_of(backbone, PortBias()), zoo.batch_of()
    with pytest.raises(ValueError, match="expected signals at ports"):
        made.steered({"9.mlp": torch.zeros(backbone.width)}, batch)


def test_energy_weighs_examples_equally_and_ignores_padding():
    signal = torch.tensor([[[3.0, 4.0], [100.0, 0.0]], [[1.0, 0.0], [0.0, 2.0]]])
    mask = torch.tensor([[True, False], [True, True]])
    assert place_energy(signal, mask).item() == pytest.approx((25.0 + (1.0 + 4.0) / 2) / 2)


def test_a_signal_after_the_last_reader_cannot_act(backbone):
    """Padding positions are read by nobody: what is added there leaves the logits unchanged."""
    made, batch = zoo.subject_of(backbone, PortBias()), zoo.batch_of()
    only_padding = (~batch.mask).double()[..., None].expand(-1, -1, backbone.width)
    assert (made.steered({"0.mlp": only_padding}, batch) - made.steered({}, batch)).abs().max() < 1e-12
