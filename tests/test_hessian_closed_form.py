"""Curvature operators equal their closed forms and explicit float64 matrices, over unequal batches."""

import weakref

import pytest
import torch
from torch.func import hessian as dense_hessian
from torch.nn.functional import cross_entropy, layer_norm

from probes.curvature.hessian import empirical_fisher, fisher, gauss_newton, hessian

SIZES = (5, 2, 9)
# float64, fewer than 1e3 terms of size about 1 in any sum: rounding is below 1e-12, wrong weights show at 0.1
EXACT = {"rtol": 1e-10, "atol": 1e-11}


def draw(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def batches():
    x, y = draw(sum(SIZES), 4), torch.randint(3, (sum(SIZES),), generator=torch.Generator().manual_seed(1))
    return list(zip(x.split(SIZES), y.split(SIZES), strict=True))


@pytest.fixture(scope="module")
def params():
    return {"embed": draw(6, 4, seed=2), "norm": 1 + 0.1 * draw(6, seed=3), "head": draw(3, 6, seed=4)}


def outputs(p, batch):
    return torch.tanh(layer_norm(batch[0] @ p["embed"].T, (6,)) * p["norm"]) @ p["head"].T


def loss(p, batch):
    return cross_entropy(outputs(p, batch), batch[1])


def merged(batches):
    return tuple(torch.cat(parts) for parts in zip(*batches, strict=True))


def explicit(params, batches):
    """The Hessian of the mean over all examples at once, by torch.func."""
    blocks = dense_hessian(loss)(params, merged(batches))
    sizes = {k: v.numel() for k, v in params.items()}
    rows = [torch.cat([blocks[a][b].reshape(sizes[a], sizes[b]) for b in params], 1) for a in params]
    return torch.cat(rows)


def test_least_squares_is_the_second_moment(batches):
    """For mean (x'w - t)^2 / 2 the Hessian is the mean of x x'."""
    x = merged(batches)[0]
    op = hessian(lambda p, b: ((b[0] @ p["w"] - 1) ** 2).mean() / 2, {"w": draw(4)}, batches)
    torch.testing.assert_close(op.dense(), x.T @ x / len(x), **EXACT)
    assert op.products == 4 and op.shape == (4, 4) and op.examples == sum(SIZES)


def test_logistic_is_the_kronecker_form(batches):
    """For softmax regression H = mean (diag p - p p') (x) x x', and GGN and Fisher are the same matrix."""
    x, y = merged(batches)
    p = {"w": draw(3, 4, seed=5)}
    linear = lambda q, b: b[0] @ q["w"].T  # noqa: E731
    s = (x @ p["w"].T).softmax(-1)
    middle = torch.diag_embed(s) - s[:, :, None] * s[:, None, :]
    closed = torch.einsum("ncd,ni,nj->cidj", middle, x, x).reshape(12, 12) / len(x)
    for op in (
        hessian(lambda q, b: cross_entropy(linear(q, b), b[1]), p, batches),
        fisher(linear, p, batches),
        gauss_newton(linear, lambda z, b: cross_entropy(z, b[1]), p, batches),
    ):
        torch.testing.assert_close(op.dense(), closed, **EXACT)


@pytest.mark.parametrize("memory, rebuilt", [(1 << 30, 0), (0, 3), (4000, None)])
def test_hessian_of_a_network(params, batches, memory, rebuilt):
    op = hessian(loss, params, batches, memory=memory)
    assert op.kept + op.rebuilt == 3 and rebuilt in (None, op.rebuilt)
    reference = explicit(params, batches)
    torch.testing.assert_close(op.dense(), reference, **EXACT)
    v = draw(op.shape[0], 3, seed=6)
    torch.testing.assert_close(op @ v, reference @ v, **EXACT)
    torch.testing.assert_close(op @ v[:, 0], reference @ v[:, 0], **EXACT)


def test_block_is_the_diagonal_block(params, batches):
    op, reference = hessian(loss, params, batches), explicit(params, batches)
    torch.testing.assert_close(op.block("norm").dense(), reference[24:30, 24:30], **EXACT)
    ends = torch.cat([torch.arange(24), torch.arange(30, 48)])
    torch.testing.assert_close(op.block(["embed", "head"]).dense(), reference[ends][:, ends], **EXACT)


def test_gauss_newton_and_fisher_are_j_h_j(params, batches):
    x, y = merged(batches)
    jacobian = torch.func.jacrev(lambda q: outputs(q, (x, y)))(params)
    j = torch.cat([jacobian[k].reshape(len(x), 3, -1) for k in params], -1)
    s = outputs(params, (x, y)).softmax(-1)
    middle = torch.diag_embed(s) - s[:, :, None] * s[:, None, :]
    reference = torch.einsum("nci,ncd,ndj->ij", j, middle, j) / len(x)
    for memory in (1 << 30, 0):
        op = gauss_newton(outputs, lambda z, b: cross_entropy(z, b[1]), params, batches, memory=memory)
        torch.testing.assert_close(op.dense(), reference, **EXACT)
        other = fisher(outputs, params, batches, memory=memory)
        torch.testing.assert_close(other.dense(), reference, **EXACT)


def test_given_weights_are_used(params, batches):
    """A batch with weight 2 counts as the same batch listed twice."""
    some = hessian(loss, params, batches[:2], weights=[2 * SIZES[0], SIZES[1]]).dense()
    torch.testing.assert_close(some, hessian(loss, params, [batches[0], *batches[:2]]).dense(), **EXACT)


def test_bad_input_is_a_sentence(params, batches):
    with pytest.raises(ValueError, match="dropout"):
        hessian(lambda p, b: torch.nn.functional.dropout(outputs(p, b)).mean(), params, batches)
    extra = {**params, "idle": draw(2)}
    with pytest.raises(ValueError, match="does not use idle"):
        hessian(loss, extra, batches)
    padded = hessian(loss, extra, batches, allow_unused=True).dense()
    torch.testing.assert_close(padded[:48, :48], explicit(params, batches), **EXACT)
    assert not padded[48:].any() and not padded[:, 48:].any()
    with pytest.raises(ValueError, match="scalar"):
        hessian(outputs, params, batches)
    with pytest.raises(ValueError, match="C >= 2"):
        fisher(lambda p, b: outputs(p, b)[:, :1], params, batches)
    with pytest.raises(ValueError, match="positive numbers"):
        hessian(loss, params, batches, weights=[1, 2])


def test_empirical_fisher_is_the_second_moment_of_gradients(params, batches):
    losses = lambda p, b: cross_entropy(outputs(p, b), b[1], reduction="none")  # noqa: E731
    each = torch.func.jacrev(lambda q: losses(q, merged(batches)))(params)
    rows = torch.cat([each[k].reshape(sum(SIZES), -1) for k in params], 1)
    torch.testing.assert_close(empirical_fisher(losses, params, batches).dense(), rows.T @ rows / len(rows), **EXACT)
    with pytest.raises(ValueError, match="one loss per example"):
        empirical_fisher(loss, params, batches)


def test_blocks_between_parameters(params, batches):
    op, reference = hessian(loss, params, batches), explicit(params, batches)
    block = op.between("embed", ["h*", "norm"])
    assert block.shape == (24, 24)
    torch.testing.assert_close(block.dense(), reference[:24, 24:], **EXACT)
    torch.testing.assert_close(block.T.dense(), reference[24:, :24], **EXACT)
    torch.testing.assert_close(op.between("head", "norm").dense(), reference[30:, 24:30], **EXACT)
    v = draw(24, 2, seed=7)
    torch.testing.assert_close(block @ v, reference[:24, 24:] @ v, **EXACT)
    with pytest.raises(ValueError, match="shape"):
        block @ draw(5)
    with pytest.raises(ValueError, match="no parameter matches"):
        op.between("embed", "tail")


def test_lora_at_the_start_is_a_kronecker_product():
    """With B = 0 the A-B block is (dL/dW) (x) I_r and the A block is zero: singular values of dL/dW, each +-, r times."""
    x, y, r = draw(40, 6), torch.randint(3, (40,), generator=torch.Generator().manual_seed(2)), 2
    whole = lambda p, b: cross_entropy(torch.tanh(b[0] @ (p["w"]).T) @ draw(3, 5, seed=3).T, b[1])  # noqa: E731
    w = draw(5, 6, seed=4)
    slope = torch.func.grad(lambda q: whole({"w": q}, (x, y)))(w)
    start = {"a": draw(r, 6, seed=5), "b": torch.zeros(5, r, dtype=torch.float64)}
    op = hessian(lambda p, b: whole({"w": w + p["b"] @ p["a"]}, b), start, [(x, y)])
    assert not op.block("a").dense().any()
    cross = op.between("a", "b").dense().reshape(r, 6, 5, r)
    torch.testing.assert_close(cross, torch.einsum("ij,kl->ljik", slope, torch.eye(r, dtype=torch.float64)), **EXACT)


def test_order_and_split_do_not_matter(params, batches):
    """Symmetry, linearity, and the same matrix from any order and any split of the examples."""
    op = hessian(loss, params, batches)
    x, y = merged(batches)
    for seed in range(5):
        g = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(x), generator=g)
        cuts = sorted(torch.randperm(len(x) - 1, generator=g)[:seed].tolist())
        parts = [slice(i, j) for i, j in zip([0, *(c + 1 for c in cuts)], [*(c + 1 for c in cuts), len(x)], strict=True)]
        other = hessian(loss, params, [(x[order][p], y[order][p]) for p in parts], memory=[1 << 30, 0][seed % 2])
        u, v = draw(op.shape[0], 2, seed=seed).T
        torch.testing.assert_close(other @ u, op @ u, **EXACT)
        torch.testing.assert_close(u @ (op @ v), v @ (op @ u), **EXACT)
        torch.testing.assert_close(op @ (2 * u - 3 * v), 2 * (op @ u) - 3 * (op @ v), **EXACT)


def test_memory_is_the_budget(params, batches):
    """Graphs are held while they fit, and what is held is counted."""
    whole = hessian(loss, params, batches)
    assert whole.kept == 3 and whole.held > 0
    for share in (0.9, 0.5, 0.2):
        op = hessian(loss, params, batches, memory=int(share * whole.held))
        assert op.held <= share * whole.held and op.kept < 3


def test_one_number_and_one_example():
    op = hessian(lambda p, b: (p["w"] ** 3 * b[0]).mean(), {"w": draw(1)}, [(torch.ones(1, dtype=torch.float64),)])
    torch.testing.assert_close(op.dense(), 6 * draw(1)[None])


@pytest.mark.slow
def test_compiled_product_is_the_product(params, batches):
    op = hessian(loss, params, batches[:1], compiled=True)
    v = draw(op.shape[0], seed=6)
    torch.testing.assert_close(op @ v, explicit(params, batches[:1]) @ v, **EXACT)


def test_graphs_are_freed_with_their_operator(params, batches):
    """Nodes that save their own outputs (softmax, tanh) must not keep each other alive."""
    alive = []

    def bent(p, batch):
        y = outputs(p, batch).softmax(-1).tanh()
        watch = lambda *_: None  # noqa: E731
        y.register_hook(watch)  # held by the graph alone
        alive.append(weakref.ref(watch))
        return y

    for op in (hessian(lambda p, b: bent(p, b).mean(), params, batches), fisher(bent, params, batches)):
        assert (op @ draw(op.shape[0])).any() and any(r() is not None for r in alive)
    del op
    assert len(alive) == 8 and all(r() is None for r in alive)
