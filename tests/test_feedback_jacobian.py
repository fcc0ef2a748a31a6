"""The feedback operator is the Jacobian of the signal in the sublayer's input."""

import pytest
import torch
import zoo

from tuning import Adapter, PortBias


@pytest.fixture(scope="module", params=["bert", "gpt2", "llama", "mpnet"])
def backbone(request):
    return zoo.backbone_of(request.param)


def pair(shape):
    generator = torch.Generator().manual_seed(5)
    return (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))


@pytest.mark.parametrize("name", ["prompt", "prefix", "adapter", "parallel", "lora", "ia3", "full"])
@pytest.mark.parametrize("port", ["0.attention", "1.mlp"])
def test_the_transpose_is_the_transpose(backbone, name, port):
    made, batch = zoo.subject_of(backbone, zoo.DELTAS[name]), zoo.batch_of()
    operator = made.feedback(zoo.moved(made.initial), batch, port)
    v, w = pair(operator.shape)
    assert operator.shape == (5, 7, 16)
    left, right = (operator.matvec(v) * w).sum(), (operator.rmatvec(w) * v).sum()
    assert abs(left - right) < 1e-10 * (1 + abs(left))


def test_open_loop_has_no_feedback(backbone):
    made, batch = zoo.subject_of(backbone, PortBias()), zoo.batch_of()
    operator = made.feedback(zoo.moved(made.initial), batch, "1.mlp")
    v, w = pair(operator.shape)
    # The two passes are subtracted, which leaves rounding of the frozen Jacobian.
    assert operator.matvec(v).abs().max() < 1e-12 and operator.rmatvec(w).abs().max() < 1e-12


def test_a_parallel_adapter_in_closed_form():
    """In a sublayer without its own normalisation, J = s W_up diag(act'(W_down h + b)) W_down per token."""
    backbone, batch = zoo.backbone_of("bert"), zoo.batch_of()
    made = zoo.subject_of(
        backbone, Adapter(3, placement="parallel", activation="tanh", scale=1.5, ports=("mlp",))
    )
    params = zoo.moved(made.initial)
    operator = made.feedback(params, batch, "1.mlp")
    h = made.rollout(params, batch).inputs["1.mlp"]
    down, bias, up = (params[f"1.mlp.{what}"] for what in ("down", "down_bias", "up"))
    v, _ = pair(operator.shape)
    slope = 1 - torch.tanh(h @ down.T + bias) ** 2
    assert (operator.matvec(v) - 1.5 * ((v @ down.T) * slope) @ up.T).abs().max() < 1e-12


def test_an_unknown_port_is_refused(backbone):
    made = zoo.subject_of(backbone, PortBias())
    with pytest.raises(ValueError, match="expected a port"):
        made.feedback(made.initial, zoo.batch_of(), "5.mlp")


def test_the_gain_of_an_adapter_on_the_sublayer_s_output():
    """A sequential adapter with identity activation reads the output y: d pi / d y = s W_up W_down."""
    backbone, batch = zoo.backbone_of("bert"), zoo.batch_of()
    made = zoo.subject_of(backbone, Adapter(3, activation="identity", scale=0.5))
    params = zoo.moved(made.initial)
    base = made.rollout(params, batch).base["1.mlp"]
    expected = 0.5 * params["1.mlp.up"] @ params["1.mlp.down"]
    assert (made.gain(params, "1.mlp", base, batch.mask) - expected).abs().max() < 1e-12
    open_loop = zoo.subject_of(backbone, PortBias())
    assert open_loop.gain(zoo.moved(open_loop.initial), "1.mlp", base, batch.mask).abs().max() == 0


def test_a_disturbance_enters_before_the_delta():
    """In open loop it adds to the bias; in closed loop the adapter sees it, unlike a signal added later."""
    backbone, batch = zoo.backbone_of("gpt2"), zoo.batch_of()
    push = {"0.mlp": torch.linspace(-1, 1, 16, dtype=torch.float64)}
    bias = zoo.subject_of(backbone, PortBias())
    params = zoo.moved(bias.initial)
    shifted = params | {"0.mlp.bias": params["0.mlp.bias"] + push["0.mlp"]}
    assert (bias.disturbed(push, params, batch) - bias.outputs(shifted, batch)).abs().max() < 1e-12
    adapter = zoo.subject_of(backbone, Adapter(3, ports=("0.mlp",)))
    params = zoo.moved(adapter.initial)
    signals = adapter.rollout(params, batch).signals
    after = adapter.steered(signals | {"0.mlp": signals["0.mlp"] + push["0.mlp"]}, batch)
    assert (adapter.disturbed(push, params, batch) - after).abs().max() > 1e-3
    silent = adapter.initial
    assert (adapter.disturbed(push, silent, batch) - adapter.steered(push, batch)).abs().max() < 1e-12
