"""Curvature and response of sequence outputs are those of their positions that count, each as one row."""

import pytest
import torch
from torch.func import hessian as dense_hessian
from torch.func import jacrev
from torch.nn.functional import cross_entropy, mse_loss
from torch.utils._python_dispatch import TorchDispatchMode

from probes import fisher, gauss_newton, hessian, output_gramian, response

EXACT = {"rtol": 1e-9, "atol": 1e-12}  # float64 sums of fewer than 1e3 terms
V, D = 5, 3


def draw(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


PARAMS = {"in": draw(V, D, seed=1), "out": draw(D, V, seed=2)}
SIZES = {k: v.shape for k, v in PARAMS.items()}


def texts(rows, length, seed=0):
    """Tokens whose labels begin after prompts of every length."""
    ids = torch.randint(V, (rows, length), generator=torch.Generator().manual_seed(seed))
    return {"input_ids": ids, "labels": torch.where(torch.arange(length) < torch.arange(rows)[:, None] % length, -100, ids)}


def logits(p, batch):
    return torch.tanh(p["in"][batch["input_ids"]].cumsum(1)) @ p["out"]


def counts(batch):
    return batch["labels"] != -100


def unflatten(z):
    return {"in": z[: V * D].reshape(V, D), "out": z[V * D :].reshape(D, V)}


Z = torch.cat([v.reshape(-1) for v in PARAMS.values()])


def jacobian(batch, f=logits):
    return jacrev(lambda z: f(unflatten(z), batch))(Z)


def dense_fisher(batches, mask=None):
    """sum over the positions that count of J' (diag p - pp') J, over their number."""
    total, number = torch.zeros(len(Z), len(Z), dtype=torch.float64), 0
    for batch in batches:
        p, J = logits(PARAMS, batch).softmax(-1), jacobian(batch)
        if mask is not None:
            p, J = p[mask(batch)], J[mask(batch)]
        p, J = p.reshape(-1, V), J.reshape(-1, V, len(Z))
        total += torch.einsum("nai,nab,nbj->ij", J, torch.diag_embed(p) - p[:, :, None] * p[:, None], J)
        number += len(p)
    return total / number


BATCHES = [texts(4, 6), texts(2, 9, seed=1), texts(3, 2, seed=2)]


@pytest.mark.parametrize("memory", [None, 0])
def test_fisher_of_the_positions_that_count(memory):
    op = fisher(logits, PARAMS, BATCHES, mask=counts, memory=memory)
    assert op.examples == sum(int(counts(b).sum()) for b in BATCHES)
    torch.testing.assert_close(op.dense(), dense_fisher(BATCHES, counts), **EXACT)
    v = draw(len(Z), 3, seed=4)
    torch.testing.assert_close(op.block("out").dense(), op.dense()[V * D :, V * D :], **EXACT)
    torch.testing.assert_close(op @ v, dense_fisher(BATCHES, counts) @ v, **EXACT)


def test_fisher_of_all_positions_needs_no_mask():
    plain = [{"input_ids": b["input_ids"]} for b in BATCHES]
    op = fisher(logits, PARAMS, plain)
    assert op.examples == 24 + 18 + 6
    torch.testing.assert_close(op.dense(), dense_fisher(plain), **EXACT)
    everywhere = fisher(logits, PARAMS, plain, mask=lambda b: torch.ones_like(b["input_ids"], dtype=torch.bool))
    assert torch.equal(everywhere.dense(), op.dense())


def test_weights_outrank_the_count_of_positions():
    weighted = fisher(logits, PARAMS, BATCHES, mask=counts, weights="rows")
    assert weighted.examples == 9
    wanted = sum(len(b["labels"]) * dense_fisher([b], counts) for b in BATCHES) / 9
    torch.testing.assert_close(weighted.dense(), wanted, **EXACT)


def test_a_mask_of_rows():
    last = lambda p, b: logits(p, b)[:, -1]  # noqa: E731
    some = lambda b: torch.arange(len(b["labels"])) % 2 == 0  # noqa: E731
    kept = [{k: x[some(b)] for k, x in b.items()} for b in BATCHES]
    op = fisher(last, PARAMS, BATCHES, mask=some)
    assert op.examples == 2 + 1 + 2
    torch.testing.assert_close(op.dense(), fisher(last, PARAMS, kept, weights="rows").dense(), **EXACT)


def test_gauss_newton_of_a_token_mean_is_the_fisher():
    """(1/n) sum (diag p - pp') (x) xx' with n the unmasked tokens, whatever shape the criterion reads."""
    tokens = lambda b: int(counts(b).sum())  # noqa: E731
    op = gauss_newton(logits, lambda y, b: cross_entropy(y.flatten(0, 1), b["labels"].flatten()), PARAMS, BATCHES, weights=tokens)
    torch.testing.assert_close(op.dense(), dense_fisher(BATCHES, counts), **EXACT)
    turned = gauss_newton(logits, lambda y, b: cross_entropy(y.mT, b["labels"]), PARAMS, BATCHES, weights=tokens)
    torch.testing.assert_close(turned.dense(), op.dense(), **EXACT)


def test_gauss_newton_of_a_mean_over_outputs():
    """A mean square over (B, T, V) is (2 / (B T V)) J'J: V times smaller than one over positions."""
    batch = BATCHES[0]
    criterion = lambda y, b: mse_loss(y, torch.zeros_like(y))  # noqa: E731
    J = jacobian(batch).reshape(-1, len(Z))
    found = gauss_newton(logits, criterion, PARAMS, [batch], weights="rows").dense()
    torch.testing.assert_close(found, 2 / (4 * 6 * V) * J.T @ J, **EXACT)
    by_position = gauss_newton(logits, lambda y, b: y.square().sum(-1).mean(), PARAMS, [batch], weights="rows").dense()
    torch.testing.assert_close(by_position, V * found, **EXACT)
    coupled = lambda y, b: (y[:, 1:] * y[:, :-1]).mean()  # noqa: E731
    bend = dense_hessian(lambda y: coupled(y, batch))(logits(PARAMS, batch)).reshape(len(J), len(J))
    torch.testing.assert_close(gauss_newton(logits, coupled, PARAMS, [batch], weights="rows").dense(), J.T @ bend @ J, **EXACT)


def test_a_linear_head_alone_has_the_hessian_as_its_fisher():
    point, frozen = {"out": PARAMS["out"]}, {"in": PARAMS["in"]}
    outputs = lambda p, b: logits({**frozen, **p}, b)  # noqa: E731
    loss = lambda p, b: cross_entropy(outputs(p, b).flatten(0, 1), b["labels"].flatten())  # noqa: E731
    op = hessian(loss, point, BATCHES, weights=lambda b: int(counts(b).sum()))
    torch.testing.assert_close(op.dense(), fisher(outputs, point, BATCHES, mask=counts).dense(), **EXACT)


@pytest.mark.parametrize("margin", [0, 20, 60, 300])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_confident_positions_keep_their_curvature(margin, dtype):
    """p (1 - p) of two outputs per position, against exp(-m) / (1 + exp(-m))^2 where p (1 - p) cancels."""
    x = torch.tensor([[1.0, 2.0], [0.5, 3.0]], dtype=dtype)
    params = {"w": torch.zeros((), dtype=dtype)}
    shift = torch.stack([torch.zeros_like(x), torch.full_like(x, margin)], -1)
    outputs = lambda p, b: shift + torch.stack([torch.zeros_like(x), b[0] * p["w"]], -1)  # noqa: E731
    e = torch.tensor(-float(margin), dtype=torch.float64).exp()
    wanted = e / (1 + e) ** 2 * (x.double() ** 2).mean()
    found = fisher(outputs, params, [(x,)]).dense().double()[0, 0]
    torch.testing.assert_close(found, wanted, rtol=1e-5 if dtype == torch.float32 else 1e-12, atol=1e-44)


def test_products_leave_vectors_as_they_are():
    """Outputs that are the parameters themselves push a vector through unchanged: the product may not write into it."""
    params, v = {"y": draw(2, 3, 4, seed=5)}, draw(24, seed=6)
    op, kept = fisher(lambda p, b: p["y"], params, [(torch.zeros(2),)]), v.clone()
    p = params["y"].softmax(-1)
    u = v.reshape(2, 3, 4)
    torch.testing.assert_close(op @ v, (p * (u - (p * u).sum(-1, keepdim=True))).flatten() / 6, **EXACT)
    assert torch.equal(v, kept)
    shared = fisher(lambda p, b: p["y"].sum().expand(2, 3, 4) + b[0][:, None, None] * 0, params, [(torch.zeros(2).double(),)])
    torch.testing.assert_close(shared @ v, torch.zeros(24).double(), **EXACT)


class Large(TorchDispatchMode):
    """Counts the operations whose result is a new tensor of at least so many numbers."""

    def __init__(self, size):
        super().__init__()
        self.size, self.made = size, []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **kwargs or {})
        given = {x.untyped_storage().data_ptr() for x in args if isinstance(x, torch.Tensor)}
        for x in found if isinstance(found, tuple | list) else [found]:
            if isinstance(x, torch.Tensor) and x.untyped_storage().nbytes() >= self.size * 8:
                self.made += [str(func)] * (x.untyped_storage().data_ptr() not in given)
        return found


def test_a_product_makes_one_tensor_of_the_size_of_the_outputs():
    """J v, which the softmax's product then overwrites; p is held, and stated."""
    head, x, params = draw(6, 400, seed=7), draw(20, 6, seed=8), {"w": draw(6, 6, seed=9)}
    op = fisher(lambda p, b: torch.tanh(b[0] @ p["w"]) @ head, params, [(x,)])
    assert op.held >= 20 * 400 * 8
    with Large(20 * 400) as seen:
        op @ draw(36, seed=10)
    assert len(seen.made) == 1, seen.made


def test_masks_that_do_not_fit_are_a_sentence():
    for mask, said in (
        (lambda b: b["labels"], "bool tensor"),
        (lambda b: counts(b)[:, :-1], r"bool tensor \(4, 6\).*\(4, 5\)"),
        (lambda b: torch.zeros_like(counts(b)), "no position.*leave the batch out"),
        (lambda b: None, "NoneType"),
    ):
        with pytest.raises(ValueError, match=rf"batches\[0\]: .*{said}"):
            fisher(logits, PARAMS, BATCHES, mask=mask)
    with pytest.raises(ValueError, match=r"batches\[1\]"):
        fisher(logits, PARAMS, BATCHES, mask=lambda b: counts(b) & (len(b["labels"]) != 2))
    with pytest.raises(ValueError, match="softmax outputs"):
        fisher(lambda p, b: p["in"][:, 0], PARAMS, BATCHES, mask=counts)


@pytest.mark.parametrize("route", ["vmap", "loop"])
def test_response_of_sequences_is_the_jacobian_of_their_positions(route):
    batches = [{"input_ids": texts(n, 4, seed=n)["input_ids"]} for n in (3, 2)]
    found = response(logits, PARAMS, batches, route=route)
    wanted = torch.cat([jacobian(b).flatten(1, 2) for b in batches])
    assert found.shape == (5, 4 * V, len(Z)) and found.outputs.shape == (5, 4 * V)
    torch.testing.assert_close(found.matrix, wanted, **EXACT)
    torch.testing.assert_close(found.outputs, torch.cat([logits(PARAMS, b).flatten(1) for b in batches]), **EXACT)
    flat = wanted.flatten(0, 1)
    gramian = output_gramian(found, ["in", "out"])
    torch.testing.assert_close(gramian.values, torch.linalg.svdvals(flat), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(gramian.examples, wanted @ wanted.mT, **EXACT)
    assert gramian.places["in"].energy == pytest.approx(float((wanted[..., : V * D] ** 2).sum()), rel=1e-9)


def test_response_of_sequences_too_many_is_refused_with_the_remedy():
    batches = [{"input_ids": texts(n, 4, seed=n)["input_ids"]} for n in (3, 2)]
    size = 5 * 4 * V * len(Z) * 8
    assert response(logits, PARAMS, batches, budget=size).matrix is not None
    with pytest.raises(ValueError, match=r"batches\[1\]: outputs \(2, 4, 5\) are 20 an example.*choose positions and columns"):
        response(logits, PARAMS, batches, budget=size - 1)
    chosen = response(lambda p, b: logits(p, b)[:, -1, :2], PARAMS, batches, budget=1)
    assert chosen.matrix is None and chosen.shape == (5, 2, len(Z))
    with pytest.raises(ValueError, match=r"batches\[1\]: each example has 45 outputs and in the batches before 30"):
        response(logits, PARAMS, BATCHES)
