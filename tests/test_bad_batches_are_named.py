"""A value or derivative that is not finite is refused in whichever batch it stands, and costs no second pass to find."""

import math

import pytest
import torch
from torch.nn.functional import cross_entropy

from probes import (
    empirical_fisher,
    extremality,
    fisher,
    gauss_newton,
    gauss_newton_spectrum,
    hessian,
    layer_representations,
    linear_regime,
    local_learning_coefficient,
    response,
    summaries,
)

N = 4


def draw(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


PARAMS = {"w": draw(3, 2, seed=1)}


def outputs(p, batch):
    return torch.tanh(batch["x"] @ p["w"])


def criterion(y, batch):
    return cross_entropy(y, batch["y"])


def loss(p, batch):
    return criterion(outputs(p, batch), batch)


def losses(p, batch):
    return cross_entropy(outputs(p, batch), batch["y"], reduction="none")


PROBES = {
    "hessian": lambda b: hessian(loss, PARAMS, b),
    "hessian, rebuilt": lambda b: hessian(loss, PARAMS, b, memory=0),
    "gauss_newton": lambda b: gauss_newton(outputs, criterion, PARAMS, b),
    "gauss_newton, rebuilt": lambda b: gauss_newton(outputs, criterion, PARAMS, b, memory=0),
    "fisher": lambda b: fisher(outputs, PARAMS, b),
    "empirical_fisher": lambda b: empirical_fisher(losses, PARAMS, b),
    "gauss_newton_spectrum": lambda b: gauss_newton_spectrum(outputs, criterion, PARAMS, b),
    "summaries": lambda b: summaries(loss, params=PARAMS, batches=b),
    "learning": lambda b: local_learning_coefficient(loss, PARAMS, b, step=1e-4, chains=4, draws=4, burn=0),
    "response": lambda b: response(outputs, PARAMS, b),
    "response, looped": lambda b: response(outputs, PARAMS, b, route="loop"),
    "response, not formed": lambda b: response(outputs, PARAMS, b, budget=0),
    "linear_regime": lambda b: linear_regime(outputs, PARAMS, PARAMS, b, [0.1]),
    "extremality": lambda b: extremality(loss, PARAMS, b, 0.1),
    "layers": lambda b: layer_representations(lambda x: {"one": outputs(PARAMS, x)}, b),
}


def batches(place, value):
    made = [{"x": draw(N, 3, seed=i), "y": torch.arange(N) % 2} for i in range(3)]
    made[place]["x"][1, 1] = value
    return made


@pytest.mark.parametrize("name", PROBES)
def test_values_that_are_not_finite(name):
    for place in range(3):
        with pytest.raises(ValueError, match=rf"batches\[{place}\].*not finite"):
            PROBES[name](batches(place, math.nan))


def test_a_batch_without_labels():
    """Every label -100: the mean is over nothing. Without weights it is seen before anything runs."""
    for place in range(3):
        made = batches(place, 0.0)
        made[place]["y"] = torch.full((N,), -100)
        for weights in (None, [N] * 3):
            for f in (
                lambda b, w=weights: hessian(loss, PARAMS, b, weights=w),
                lambda b, w=weights: hessian(loss, PARAMS, b, weights=w, memory=0),
                lambda b, w=weights: gauss_newton(outputs, criterion, PARAMS, b, weights=w),
                lambda b, w=weights: gauss_newton_spectrum(outputs, criterion, PARAMS, b, weights=w),
            ):
                with pytest.raises(ValueError, match=rf"batches\[{place}\].*not finite.*all its labels are -100"):
                    f(made)


def test_derivatives_that_are_not_finite():
    """sqrt has no slope at 0; |x|^1.5 has a slope there and no curvature, which the first product meets."""
    made = [{"x": torch.ones(2, 1).double() * (i != 1)} for i in range(3)]
    root = lambda p, b: (b["x"] * p["w"]).abs().sqrt().mean()  # noqa: E731
    bent = lambda p, b: ((b["x"] * p["w"]).abs() ** 1.5).mean()  # noqa: E731
    line = lambda p, b: (b["x"] + p["w"] - 1).abs().sqrt()  # noqa: E731
    one = {"w": torch.ones(1, dtype=torch.float64)}
    for memory in (0, 1 << 30):
        with pytest.raises(ValueError, match=r"batches\[1\].*gradient is not finite"):
            hessian(root, one, made, memory=memory)
        op = hessian(
            lambda p, b: bent(p, {"x": b["x"] * 0 + 1}) if b["x"].any() else bent({"w": p["w"] - 1}, {"x": b["x"] + 1}),
            one,
            made,
            memory=memory,
        )
        with pytest.raises(ValueError, match=r"batches\[1\].*product with its curvature is not finite"):
            op @ torch.ones(1)
        with pytest.raises(ValueError, match="the vector of the product is not finite"):
            op @ torch.full((1,), math.nan)
    with pytest.raises(ValueError, match=r"batches\[1\].*derivative of an output is not finite"):
        response(line, one, made)
    for product in (lambda g: g.matvec(torch.ones(1)), lambda g: g.rmatvec(torch.ones(6, 1))):
        with pytest.raises(ValueError, match=r"batches\[1\].*not finite"):
            product(response(line, one, made, budget=0))
    with pytest.raises(ValueError, match="not finite"):
        response(line, one, made, budget=0).kernel()
    with pytest.raises(ValueError, match=r"batches\[1\].*derivative of the outputs is not finite"):
        linear_regime(line, one, one, made, [0.1])


def test_later_batches_are_asked_for_one_number():
    made = batches(0, 1.0)
    wrong = lambda p, b: losses(p, b) if b is made[2] else loss(p, b)  # noqa: E731
    with pytest.raises(ValueError, match=r"batches\[2\].*scalar"):
        hessian(wrong, PARAMS, made)
    with pytest.raises(ValueError, match=r"batches\[2\].*scalar"):
        local_learning_coefficient(wrong, PARAMS, made, step=1e-4, chains=4, draws=4, burn=0)
    with pytest.raises(ValueError, match=r"batches\[2\].*outputs must return"):
        response(lambda p, b: outputs(p, b)[:, 0] if b is made[2] else outputs(p, b), PARAMS, made)


def test_the_check_is_folded_into_the_first_pass():
    """One call a batch, and one more of the first; where a graph is not kept, the call that checks is a gradient's."""
    calls = []

    def counted(p, batch):
        calls.append(batch)
        return loss(p, batch)

    made = batches(0, 1.0)
    for memory in (1 << 30, 0):
        calls.clear()
        hessian(counted, PARAMS, made, memory=memory)
        assert len(calls) == 4 and sum(b is made[0] for b in calls) == 2
