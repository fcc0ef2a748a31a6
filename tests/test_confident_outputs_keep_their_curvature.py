"""The curvature of a criterion in the outputs is right to its last digits however confident these are, or it is refused.

Truth is the closed form in extended precision, as a sum of products of probabilities, which does not cancel.
"""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from probes import fisher, gauss_newton, gauss_newton_spectrum
from probes.curvature.output_curvature import output_curvature
from theory.loss import CrossEntropy

MARGINS = (0, 4, 10, 16, 25, 40, 80)
DTYPES = [torch.float32, torch.float64]


def laplacian(y):
    """sum_{i<j} p_i p_j (e_i - e_j)(e_i - e_j)' of each row of logits, (B, C, C)."""
    y = y.double().numpy().astype(np.longdouble)
    p = np.exp(y - y.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    between = p[:, :, None] * p[:, None, :]
    np.einsum("nii->ni", between)[:] = 0
    return np.einsum("ij,ni->nij", np.eye(y.shape[1]), between.sum(2)) - between


def logits(margin, dtype, seed, classes=3, count=12):
    g = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (count,), generator=g)
    return (margin * F.one_hot(labels, classes) + torch.randn(count, classes, generator=g, dtype=torch.float64)).to(dtype), labels


WEIGHT = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
# name: (criterion(y, labels), each example's factor, temperature)
SOFTMAX = {
    "plain": (F.cross_entropy, lambda t: np.full(len(t), 1 / len(t)), 1),
    "by hand": (lambda y, t: (y.logsumexp(1) - y.gather(1, t[:, None])[:, 0]).sum(), lambda t: np.ones(len(t)), 1),
    "weighted": (lambda y, t: F.cross_entropy(y, t, WEIGHT.to(y.dtype)), lambda t: (WEIGHT[t] / WEIGHT[t].sum()).numpy(), 1),
    "smoothed": (lambda y, t: F.cross_entropy(y, t, label_smoothing=0.1), lambda t: np.full(len(t), 1 / len(t)), 1),
    "ignoring": (
        lambda y, t: F.cross_entropy(y, torch.where(torch.arange(len(t)) < 3, -100, t)),
        lambda t: np.where(np.arange(len(t)) < 3, 0, 1 / (len(t) - 3)),
        1,
    ),
    "tempered": (lambda y, t: F.cross_entropy(y / 2, t), lambda t: np.full(len(t), 0.25 / len(t)), 2),
    "in float32": (lambda y, t: F.cross_entropy(y.float(), t), lambda t: np.full(len(t), 1 / len(t)), 1),
    "against probabilities": (lambda y, t: F.cross_entropy(y, F.one_hot(t, 3).to(y)), lambda t: np.full(len(t), 1 / len(t)), 1),
}


@pytest.mark.parametrize("name", SOFTMAX)
@pytest.mark.parametrize("dtype", DTYPES)
def test_softmax_at_any_confidence(name, dtype):
    criterion, factor, temperature = SOFTMAX[name]
    # a criterion that computes in float32 has the rounding of log p there, in p
    close = 1e-4 if name == "in float32" else 1e-11
    for margin in MARGINS:
        for seed in range(3):
            y, labels = logits(margin, dtype, seed)
            found = output_curvature(lambda y, b: criterion(y, b[0]), y, (labels,)).numpy()
            truth = factor(labels)[:, None, None] * laplacian(y.double() / temperature)
            scale = abs(truth).max((1, 2), keepdims=True)
            assert (abs(found - truth) <= close * scale).all(), (margin, seed)


def test_a_criterion_that_takes_float32_alone():
    """Class weights in float32 refuse float64 outputs; the rounding left is that of log p in float32."""
    for margin in MARGINS:
        y, labels = logits(margin, torch.float32, 0)
        found = output_curvature(lambda y, b: F.cross_entropy(y, b[0], WEIGHT.float()), y, (labels,)).numpy()
        truth = (WEIGHT[labels] / WEIGHT[labels].sum()).numpy()[:, None, None] * laplacian(y)
        assert (abs(found - truth) <= 1e-4 * abs(truth).max((1, 2), keepdims=True)).all(), margin


@pytest.mark.parametrize("dtype", DTYPES)
def test_logistic_at_any_confidence(dtype):
    """p (1 - p) of several outputs, each with its own label, on both sides."""
    for margin in MARGINS:
        y, labels = logits(margin, dtype, 0, 4)
        y = y * torch.tensor([1, -1, 1, -1])
        targets = F.one_hot(labels, 4).to(dtype)
        found = output_curvature(lambda y, b: F.binary_cross_entropy_with_logits(y, b[0]), y, (targets,))
        e = np.exp(-abs(y.double().numpy()).astype(np.longdouble))
        np.testing.assert_allclose(found.diagonal(dim1=1, dim2=2), (e / (1 + e) ** 2 / y.numel()).astype(float), rtol=1e-11)
        assert not (found - torch.diag_embed(found.diagonal(dim1=1, dim2=2))).any()


OTHERS = {  # not of the softmax's or the logistic's kind, though at some outputs their curvature looks alike
    "square": (lambda y: y.square().sum(), lambda y: 2 * torch.eye(3).expand(len(y), 3, 3)),
    "one output": (lambda y: y[:, 0].square().sum(), lambda y: torch.diag(torch.tensor([2.0, 0, 0])).expand(len(y), 3, 3)),
    "saddle": (
        lambda y: (y[:, 0] * y[:, 1]).sum(),
        lambda y: torch.tensor([[0.0, 1, 0], [1, 0, 0], [0, 0, 0]]).expand(len(y), 3, 3),
    ),
    "counts": (lambda y: y.exp().sum(), lambda y: torch.diag_embed(y.exp())),
    "far from its centre": (
        lambda y: F.softplus(2 * (y - 5)).sum(),
        lambda y: torch.diag_embed(4 * torch.sigmoid(2 * (y - 5)) * torch.sigmoid(-2 * (y - 5))),
    ),
    "linear": (lambda y: y.sum(), lambda y: torch.zeros(len(y), 3, 3)),
}


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_other_criteria_keep_their_own_curvature(name, dtype):
    criterion, truth = OTHERS[name]
    for shift in (-40, -3, 0, 2, 30):
        y = logits(0, dtype, 1)[0] + shift
        found, wanted = output_curvature(lambda y, b: criterion(y), y, (y,)), truth(y.double()).double()
        # past its centre by d, p (1 - p) is known to eps / (1 - p), and no better
        room = 4e-16 * 4 if name == "far from its centre" else 0
        assert ((found - wanted).abs() <= 1e-12 * wanted.abs() + room).all(), shift


def test_a_ridge_beside_confident_cross_entropy_is_kept():
    for dtype in DTYPES:
        y, labels = logits(40, dtype, 0)
        found = output_curvature(lambda y, b: F.cross_entropy(y, b[0]) + 1e-9 * y.square().sum(), y, (labels,))
        torch.testing.assert_close(found, 2e-9 * torch.eye(3).double().expand(12, 3, 3), rtol=1e-6, atol=1e-15)


COUPLED = {
    "square of the sum": lambda y, t: F.cross_entropy(y, t) + 1e-3 * y.sum(0).square().sum(),
    "batch mean taken off": lambda y, t: F.cross_entropy(y - y.mean(0), t),
    "softmax over the batch": lambda y, t: y.logsumexp(0).sum(),
    "neighbours": lambda y, t: F.cross_entropy(y, t) + (y[1:] * y[:-1]).mean(),
    "the first and the last": lambda y, t: F.cross_entropy(y, t) + 1e-6 * (y[0] * y[-1]).sum(),
}


@pytest.mark.parametrize("name", COUPLED)
@pytest.mark.parametrize("dtype", DTYPES)
def test_coupled_examples_are_refused(name, dtype):
    for margin in (0, 10, 40):
        for count in (2, 3, 8, 13):
            y, labels = logits(margin, dtype, count, count=count)
            if name == "softmax over the batch":
                y = y / 10  # at margin 40 a column is one example's, and nothing is coupled
            with pytest.raises(ValueError, match="couples"):
                output_curvature(lambda y, b: COUPLED[name](y, b[0]), y, (labels,))


def linear(params, batch):
    return batch[2] + batch[0] @ params["w"].T


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_spectrum_of_a_confident_model(dtype):
    """All N (C - 1) or fewer eigenvalues, and the operator with the same closed form, in units of the largest."""
    for margin in (*MARGINS, 120, 300):
        for seed in range(3):
            g = torch.Generator().manual_seed(seed)
            x, y = torch.randn(16, 6, generator=g, dtype=dtype), torch.randint(3, (16,), generator=g)
            params = {"w": 0.1 * torch.randn(3, 6, generator=g, dtype=dtype)}
            offset = margin * F.one_hot(y, 3).to(dtype)
            batches = [(x[:5], y[:5], offset[:5]), (x[5:], y[5:], offset[5:])]
            found = gauss_newton_spectrum(linear, lambda y, b: F.cross_entropy(y, b[1]), params, batches)
            curvature = laplacian(torch.cat([linear(params, b) for b in batches]))
            unit, inputs = abs(curvature).max(), x.double().numpy()
            dense = np.einsum("nab,ni,nj->aibj", (curvature / unit).astype(float), inputs, inputs).reshape(18, 18) / 16
            wanted = np.linalg.eigvalsh(dense)[::-1]
            assert found.status == "exact" and found.rank == 12 and found.examples == 16
            measured = (found.values.numpy() / unit).astype(float)
            np.testing.assert_allclose(measured, wanted[:12], rtol=1e-9, atol=1e-12 * wanted[0])
            leading = found.vectors(2).double().numpy()
            np.testing.assert_allclose(dense @ leading, leading * wanted[:2], atol=1e-5 * wanted[0])
            if margin <= 80 or dtype == torch.float64:  # beyond, p underflows in float32
                product = fisher(linear, params, batches).dense().double().numpy()
                np.testing.assert_allclose((product / unit).astype(float), dense, atol=1e-4 * wanted[0])


def test_the_closed_form_of_theory_does_not_cancel():
    for margin in (*MARGINS, 300):
        y, labels = logits(margin, torch.float64, 0)
        np.testing.assert_allclose(CrossEntropy(labels.numpy()).hessian(y.numpy()), laplacian(y).astype(float), rtol=1e-11)


def test_unsure_examples_do_not_hide_confident_ones():
    """One undecided example beside confident ones: their curvature is still in the rank where the inputs keep it apart."""
    x, margin = torch.eye(4, dtype=torch.float64), torch.tensor([0.0, 10.0, 20.0, 28.0]).double()
    offset = margin[:, None] * F.one_hot(torch.zeros(4, dtype=torch.long), 2).double()
    params, batch = {"w": torch.zeros(2, 4, dtype=torch.float64)}, (x, torch.zeros(4, dtype=torch.long), offset)
    found = gauss_newton_spectrum(linear, lambda y, b: F.cross_entropy(y, b[1]), params, [batch])
    e = np.exp(-margin.numpy())
    np.testing.assert_allclose(found.values, 2 * e / (1 + e) ** 2 / 4, rtol=1e-9)
    dense = gauss_newton(linear, lambda y, b: F.cross_entropy(y, b[1]), params, [batch]).dense()
    np.testing.assert_allclose(found.trace, float(dense.trace()), rtol=1e-12)
