"""The feedback operator is the Jacobian of the signal in the sublayer's input."""

import pytest
import torch
import zoo

from tuning import Adapter, LoRA, PortBias, Prefix


@pytest.fixture(scope="module", params=["bert", "gpt2", "llama", "mpnet"])
def backbone(request):
    return zoo.backbone_of(request.param)


def pair(shape):
    generator = torch.Generator().manual_seed(5)
    return (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))


@pytest.mark.parametrize("name", zoo.DELTAS)
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
    made = zoo.subject_of(backbone, Adapter(3, placement="parallel", activation="tanh", scale=1.5, ports=("mlp",)))
    params = zoo.moved(made.initial)
    operator = made.feedback(params, batch, "1.mlp")
    h = made.rollout(params, batch).inputs["1.mlp"]
    down, bias, up = (params[f"1.mlp.{what}"] for what in ("down", "down_bias", "up"))
    v, _ = pair(operator.shape)
    slope = 1 - torch.tanh(h @ down.T + bias) ** 2
    assert (operator.matvec(v) - 1.5 * ((v @ down.T) * slope) @ up.T).abs().max() < 1e-12


def mlp_of(backbone, h, v):
    """(slopes of the GELU, W_1, W_2) of BERT's second mlp at its input h, and dy/dh v of the frozen sublayer."""
    layer = backbone.model.encoder.layer[1]
    up, down = layer.intermediate.dense, layer.output.dense.weight
    z = (h @ up.weight.T + up.bias).requires_grad_()
    slope = torch.autograd.grad(torch.nn.functional.gelu(z).sum(), z)[0]
    return slope, up, down, (slope * (v @ up.weight.T)) @ down.T


def test_a_sequential_adapter_in_closed_form():
    """It reads the sublayer's output: J = s W_up diag(act'(W_down y + b)) W_down dy/dh."""
    backbone, batch = zoo.backbone_of("bert"), zoo.batch_of()
    made = zoo.subject_of(backbone, Adapter(3, activation="tanh", scale=1.5, ports=("1.mlp",)))
    params = zoo.moved(made.initial)
    operator, rolled = made.feedback(params, batch, "1.mlp"), made.rollout(params, batch)
    down, bias, up = (params[f"1.mlp.{what}"] for what in ("down", "down_bias", "up"))
    v, _ = pair(operator.shape)
    *_, moved = mlp_of(backbone, rolled.inputs["1.mlp"], v)
    slope = 1 - torch.tanh(rolled.base["1.mlp"] @ down.T + bias) ** 2
    expected = 1.5 * ((moved @ down.T) * slope) @ up.T
    assert (operator.matvec(v) - expected).abs().max() < 1e-12


def test_low_rank_updates_in_closed_form():
    """On W_1 and W_2 at once: J = W_2' diag(act'(W_1' h + b)) W_1' - W_2 diag(act'(W_1 h + b)) W_1, W' = W + s B A."""
    backbone, batch = zoo.backbone_of("bert"), zoo.batch_of()
    made = zoo.subject_of(backbone, LoRA(2, alpha=3, targets=("up", "down")))
    params = zoo.moved(made.initial)
    operator = made.feedback(params, batch, "1.mlp")
    h, (v, _) = made.rollout(params, batch).inputs["1.mlp"], pair(operator.shape)
    _, up, down, frozen = mlp_of(backbone, h, v)
    first, second = (1.5 * params[f"1.mlp.{role}.B"] @ params[f"1.mlp.{role}.A"] for role in ("up", "down"))
    z = (h @ (up.weight + first).T + up.bias).requires_grad_()
    slope = torch.autograd.grad(torch.nn.functional.gelu(z).sum(), z)[0]
    tuned = (slope * (v @ (up.weight + first).T)) @ (down + second).T
    assert (operator.matvec(v) - (tuned - frozen)).abs().max() < 1e-12
    assert frozen.abs().max() > 0.1 and (tuned - frozen).abs().max() > 0.1


def test_the_gate_of_a_prefix_in_closed_form():
    """u = W_o g (p - o) per head, so J v = W_o (dg (p - o) + g (dp - do)) with dg = g (1 - g) (mean_P ds - mean_C ds).

    g is the attention on the prefix, p and o the attention to the prefix and to the text alone (He et al. 2022, eq. 5),
    ds the change of the scores, its means under the two attentions; all tokens move at once.
    """
    backbone, batch = zoo.backbone_of("bert"), zoo.batch_of()
    made = zoo.subject_of(backbone, Prefix(2))
    params = zoo.moved(made.initial)
    operator = made.feedback(params, batch, "1.attention")
    h, (v, _) = made.rollout(params, batch).inputs["1.attention"], pair(operator.shape)
    module = backbone.model.encoder.layer[1].attention
    linears = (module.self.query, module.self.key, module.self.value)
    q, k, values = (linear(h).unflatten(-1, (4, 4)) for linear in linears)
    dq, dk, dvalues = ((v @ linear.weight.T).unflatten(-1, (4, 4)) for linear in linears)
    keys, prefix = params["1.attention.keys"], params["1.attention.values"]
    hidden = torch.zeros(5, 1, 1, 7).masked_fill(~batch.mask[:, None, None], -1e9)
    own = torch.einsum("bthc,bshc->bhts", q, k) / 2 + hidden
    down = (torch.einsum("bthc,bshc->bhts", dq, k) + torch.einsum("bthc,bshc->bhts", q, dk)) / 2
    first, dfirst = (torch.einsum("bthc,lhc->bhtl", x, keys) / 2 for x in (q, dq))
    g = torch.sigmoid(first.logsumexp(-1) - own.logsumexp(-1))
    a, b = own.softmax(-1), first.softmax(-1)
    ds, dr = (a * down).sum(-1), (b * dfirst).sum(-1)
    dg = g * (1 - g) * (dr - ds)
    o, p = torch.einsum("bhts,bshc->bthc", a, values), torch.einsum("bhtl,lhc->bthc", b, prefix)
    do = torch.einsum("bhts,bshc->bthc", a, dvalues)
    do = do + torch.einsum("bhts,bshc->bthc", a * (down - ds[..., None]), values)
    dp = torch.einsum("bhtl,lhc->bthc", b * (dfirst - dr[..., None]), prefix)
    g, dg = (x.transpose(1, 2)[..., None] for x in (g, dg))
    expected = (dg * (p - o) + g * (dp - do)).flatten(-2) @ module.output.dense.weight.T
    found = operator.matvec(v)
    assert (found - expected).abs().max() < 1e-11
    without = (g * (dp - do)).flatten(-2) @ module.output.dense.weight.T
    assert (found - without).abs().max() > 1e-2, "the slope of the gate must show"


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
