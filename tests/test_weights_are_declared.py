"""A mean over labels is weighed by labels: declared weights give one matrix for any cut, undeclared ones are asked for."""

import re

import pytest
import torch
from torch.nn.functional import cross_entropy

from probes import (
    empirical_fisher,
    fisher,
    gauss_newton,
    gauss_newton_directions,
    gauss_newton_spectrum,
    hessian,
    local_learning_coefficient,
    response,
    summaries,
)

EXACT = {"rtol": 1e-9, "atol": 1e-11}  # float64 sums of fewer than 1e3 terms; wrong weights show at 0.1
VOCABULARY, WIDTH, ROWS, LENGTH = 5, 3, 6, 7


def draw(*shape, seed):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


PARAMS = {"in": draw(VOCABULARY, WIDTH, seed=1), "out": draw(WIDTH, VOCABULARY, seed=2)}


def texts(seed=0):
    """Rows of tokens whose labels begin after prompts of every length."""
    ids = torch.randint(VOCABULARY, (ROWS, LENGTH), generator=torch.Generator().manual_seed(seed))
    labels = ids.clone()
    for row in range(ROWS):
        labels[row, :row] = -100
    return {"input_ids": ids, "labels": labels}


def logits(p, batch):
    return torch.tanh(p["in"][batch["input_ids"]]) @ p["out"]


def loss(p, batch):
    """The next-token loss: a mean over the labels that are not -100, from the second of each row on."""
    return cross_entropy(logits(p, batch)[:, :-1].reshape(-1, VOCABULARY), batch["labels"][:, 1:].reshape(-1))


def last(p, batch):
    return logits(p, batch)[:, -1]


def last_loss(y, batch):
    return cross_entropy(y, batch["labels"][:, -1])


def cut(batch, sizes):
    return [dict(zip(batch, parts, strict=True)) for parts in zip(*(x.split(sizes) for x in batch.values()), strict=True)]


def tokens(batch):
    return (batch["labels"][:, 1:] != -100).sum()


@pytest.mark.parametrize("sizes", [(6,), (3, 3), (1, 2, 3), (5, 1), (1,) * 6])
def test_any_cut_gives_one_matrix(sizes):
    whole, parts = texts(), cut(texts(), sizes)
    reference = hessian(loss, PARAMS, [whole]).dense()
    counted = [int(tokens(b)) for b in parts]
    for weights in (tokens, counted, torch.tensor(counted)):
        op = hessian(loss, PARAMS, parts, weights=weights)
        torch.testing.assert_close(op.dense(), reference, **EXACT)
        assert op.examples == sum(counted)
    flat = lambda p, b: logits(p, b)[:, :-1].reshape(-1, VOCABULARY)  # noqa: E731
    criterion = lambda y, b: cross_entropy(y, b["labels"][:, 1:].reshape(-1))  # noqa: E731
    bent = gauss_newton(flat, criterion, PARAMS, parts, weights=tokens).dense()
    torch.testing.assert_close(bent, gauss_newton(flat, criterion, PARAMS, [whole]).dense(), **EXACT)
    found = local_learning_coefficient(loss, PARAMS, parts, weights=tokens, step=1e-4, chains=4, draws=4, burn=0)
    assert found.initial_loss == pytest.approx(float(loss(PARAMS, whole)), rel=1e-12)
    assert found.nbeta == pytest.approx(sum(counted) / torch.tensor(float(sum(counted))).log().item(), rel=1e-6)


def test_means_over_rows_are_said_to_be():
    """The mean of the last token's loss is one over rows, whatever else the labels hold."""
    whole, parts = texts(), cut(texts(), (1, 2, 3))
    each = lambda p, b: cross_entropy(last(p, b), b["labels"][:, -1], reduction="none")  # noqa: E731
    final = lambda p, b: last_loss(last(p, b), b)  # noqa: E731
    over_rows = {
        "hessian": lambda b, **o: hessian(final, PARAMS, b, **o).dense(),
        "gauss_newton": lambda b, **o: gauss_newton(last, last_loss, PARAMS, b, **o).dense(),
        "fisher": lambda b, **o: fisher(last, PARAMS, b, **o).dense(),
        "empirical": lambda b, **o: empirical_fisher(each, PARAMS, b, **o).dense(),
        "spectrum": lambda b, **o: gauss_newton_spectrum(last, last_loss, PARAMS, b, **o).values,
        "summary": lambda b, **o: summaries(final, ["*"], params=PARAMS, batches=b, **o)[0].trace.value,
        "directions": lambda b, **o: gauss_newton_directions(last, last_loss, PARAMS, b, 3, **o).values,
    }
    for name, measure in over_rows.items():
        one = measure([whole])
        for weights in ("rows", [1, 2, 3], [2.0, 4.0, 6.0]):
            torch.testing.assert_close(measure(parts, weights=weights), one, **EXACT, msg=name)
        with pytest.raises(ValueError, match='weights="rows"'):
            measure(parts)
    with pytest.raises(ValueError, match="weights="):  # even of one batch: the number of items is its temperature
        local_learning_coefficient(loss, PARAMS, [whole], step=1e-4)
    assert response(last, PARAMS, parts).shape[0] == ROWS  # nothing is averaged, so nothing needs to be said


def test_the_remedy_in_the_sentence_is_the_remedy():
    whole, parts = texts(), cut(texts(), (2, 1, 3))
    with pytest.raises(ValueError) as refused:
        hessian(loss, PARAMS, parts)
    given = re.search(r"weights=(\[[\d, ]+\]) for a next-token loss", str(refused.value))[1]
    op = hessian(loss, PARAMS, parts, weights=[int(n) for n in given[1:-1].split(",")])
    torch.testing.assert_close(op.dense(), hessian(loss, PARAMS, [whole]).dense(), **EXACT)


def test_nothing_is_asked_where_all_counts_agree():
    """Equal shares by rows and by labels, with the first label of a row or without."""
    ids = texts()["input_ids"]
    even = {"input_ids": ids, "labels": torch.where(torch.arange(LENGTH) < 3, -100, ids)}
    found = hessian(loss, PARAMS, cut(even, (1, 5))).dense()
    torch.testing.assert_close(found, hessian(loss, PARAMS, [even]).dense(), **EXACT)
    classes = [(draw(n, WIDTH, seed=n), torch.arange(n) % VOCABULARY) for n in (2, 5)]
    assert hessian(lambda p, b: cross_entropy(b[0] @ p["out"], b[1]), {"out": PARAMS["out"]}, classes).examples == 7


def test_ragged_rows_and_unnamed_labels_are_asked_about():
    short = {k: v[:, :4] for k, v in texts().items() if k == "input_ids"}
    long = {"input_ids": texts()["input_ids"]}
    plain = [{**b, "labels": b["input_ids"]} for b in (short, long)]  # no -100 anywhere
    with pytest.raises(ValueError, match=re.escape("weights=[18, 36] for a next-token loss, weights=[24, 42]")):
        hessian(loss, PARAMS, plain)
    classes = ([0, 1, 2, -100], [-100, 1, -100, 0])
    unnamed = [(draw(4, WIDTH, seed=i), torch.tensor(some)) for i, some in enumerate(classes)]
    with pytest.raises(ValueError, match=re.escape("weights=[3, 2]")):
        hessian(lambda p, b: cross_entropy(b[0] @ p["out"], b[1]), {"out": PARAMS["out"]}, unnamed)
    rows = lambda p, b: logits(p, b).reshape(-1, VOCABULARY)  # noqa: E731
    with pytest.raises(ValueError, match="rows per example"):  # no labels at all: the outputs tell
        fisher(rows, PARAMS, [short, long])
    joined = fisher(rows, PARAMS, [short, long], weights=lambda b: b["input_ids"].numel()).dense()
    apart = [fisher(rows, PARAMS, [b]).dense() * b["input_ids"].numel() for b in (short, long)]
    torch.testing.assert_close(joined, (apart[0] + apart[1]) / (ROWS * 11), **EXACT)


def test_bad_weights_are_a_sentence():
    parts = cut(texts(), (2, 4))
    for weights, said in (
        ([1], "2 positive"),
        ([1, -1], "positive"),
        ([1, float("nan")], "positive"),
        ("tokens", '"rows"'),
        (lambda b: 0, "counts nothing"),
    ):
        with pytest.raises(ValueError, match=said):
            hessian(loss, PARAMS, parts, weights=weights)
