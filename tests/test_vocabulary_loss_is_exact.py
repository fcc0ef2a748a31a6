"""The loss through a frozen vocabulary map, its slope and its curvature equal autograd's, held or computed again."""

import pytest
import torch
from torch.autograd import grad, gradcheck

from probes.live import head
from probes.live.head import head_loss, logit_loss


@pytest.fixture
def problem():
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    targets = torch.randint(30, (13,), generator=generator)
    return draw(13, 7), 2 * draw(30, 7), draw(30), targets, draw(13).square()


@pytest.mark.parametrize("held", (1 << 28, 0))
@pytest.mark.parametrize("biased", (True, False))
def test_value_slope_and_curvature_equal_autograd(problem, held, biased, monkeypatch):
    """Value, slope and products agree to rounding, in chunks of five tokens, with the probabilities held or not."""
    monkeypatch.setattr(head, "HELD", held)
    monkeypatch.setattr(head, "CHUNK", 5 * 30 * 8)
    h, weight, bias, targets, w = problem
    bias, h = bias if biased else None, h.requires_grad_()
    ours = head_loss(h.tanh(), weight, bias, targets, w)
    plain = logit_loss(torch.nn.functional.linear(h.tanh(), weight, bias), targets, w)
    torch.testing.assert_close(ours, plain, rtol=1e-14, atol=0)
    slopes = [grad(x, h, create_graph=True)[0] for x in (ours, plain)]
    torch.testing.assert_close(*slopes, rtol=0, atol=1e-13 * float(slopes[1].abs().max()))
    u = torch.randn(13, 7, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    bends = [grad(s, h, u)[0] for s in slopes]
    torch.testing.assert_close(*bends, rtol=0, atol=1e-13 * float(bends[1].abs().max()))
    assert gradcheck(lambda x: head_loss(x, weight, bias, targets, w), (h,))


def test_confident_tokens_keep_their_curvature(problem):
    """Where p is one to the last digit in float32, the curvature is still that of float64."""
    h, weight, _, targets, w = problem
    weight = 40 * weight  # odds of e^-40 and less
    u = torch.randn(13, 7, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    exact = _product(h, weight, targets, w, u)
    z = h @ weight.T
    p = z.softmax(-1)
    v = u @ weight.T
    v = v - v.gather(-1, p.argmax(-1, keepdim=True))
    closed = (w[:, None] * p * (v - (p * v).sum(-1, keepdim=True))) @ weight
    torch.testing.assert_close(exact, closed, rtol=1e-12, atol=0)
    assert float(exact.abs().max()) > 0


def _product(h, weight, targets, w, u):
    h = h.clone().requires_grad_()
    (slope,) = grad(head_loss(h, weight, None, targets, w), h, create_graph=True)
    return grad(slope, h, u)[0]


def test_float32_rounds_no_more_than_plain_autograd():
    """Over a large vocabulary a float32 product is as near to float64 as that of autograd is."""
    generator = torch.Generator().manual_seed(0)
    h, weight, u = (torch.randn(*shape, generator=generator) for shape in ((16, 64), (50_000, 64), (16, 64)))
    targets, w = torch.randint(50_000, (16,), generator=generator), torch.full((16,), 1 / 16)
    fine = _product(h.double() / 8, weight.double(), targets, w.double(), u.double())
    errors = []
    for loss in (head_loss, lambda x, weight, _, targets, w: logit_loss(x @ weight.T, targets, w)):
        x = (h / 8).requires_grad_()
        (slope,) = grad(loss(x, weight, None, targets, w), x, create_graph=True)
        errors.append(float((grad(slope, x, u)[0] - fine).norm()))
    assert errors[0] <= 2 * errors[1]


def test_at_most_one_tensor_of_vocabulary_size_is_alive():
    """Value, slope and product hold the probabilities and chunks, nothing else of n times V numbers."""
    n, d, vocabulary = 64, 8, 20_000
    weight = torch.randn(vocabulary, d) / 8
    h = torch.randn(n, d).requires_grad_()
    targets, w = torch.randint(vocabulary, (n,)), torch.full((n,), 1 / n)
    seen = _largest_alive(lambda: _products(h, weight, targets, w), n * vocabulary)
    assert seen == 1


def _products(h, weight, targets, w):
    (slope,) = grad(head_loss(h, weight, None, targets, w), h, create_graph=True)
    return grad(slope, h, torch.ones_like(h), retain_graph=True)


def _largest_alive(run, size):
    """The most storages of at least half this many numbers that were alive at once, by the allocator's own account."""
    from torch.profiler import ProfilerActivity, profile

    head_chunk, head.CHUNK = head.CHUNK, size // 2  # bytes: an eighth of the size a chunk
    try:
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
            run()
    finally:
        head.CHUNK = head_chunk
    alive, most = {}, 0
    for event in found.profiler.kineto_results.events():
        if event.name() == "[memory]" and abs(event.nbytes()) >= 2 * size:
            alive[event.nbytes() > 0] = alive.get(event.nbytes() > 0, 0) + 1
            most = max(most, alive.get(True, 0) - alive.get(False, 0))
    return most
