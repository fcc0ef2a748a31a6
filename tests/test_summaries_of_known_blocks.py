"""Block summaries equal closed forms, and the dense and the iterative route agree."""

import pathlib
import re

import numpy as np
import pytest
import torch
from scipy import stats
from torch.func import functional_call
from transformers import BertConfig, BertForSequenceClassification

from probes import by_layer, drawing, gauss_newton, hessian, summaries

ROOT = pathlib.Path(__file__).parents[1]
SPECTRA = {
    "encoder.layer.0.A": [5.0, 1.0, -2.0, 0.0],
    "encoder.layer.0.B": [3.0, 3.0, -3.0, -3.0, 0.5, 0.0],
    "head.weight": [0.25, 2.0, 1.0],
}
ONES = [(torch.ones(6),), (torch.ones(2),)]


def quadratic(spectra, seed=0):
    """loss = 1/2 z'Hz with H block-diagonal over the tensors, each block with the given spectrum; and a point."""
    g = torch.Generator().manual_seed(seed)
    blocks, point = {}, {}
    for name, values in spectra.items():
        q = torch.linalg.qr(torch.randn(len(values), len(values), generator=g, dtype=torch.float64))[0]
        blocks[name] = q @ torch.diag(torch.tensor(values, dtype=torch.float64)) @ q.T
        point[name] = torch.randn(len(values), generator=g, dtype=torch.float64)

    def loss(params, batch):
        return sum(0.5 * z @ blocks[name] @ z for name, z in params.items()) * batch[0].mean().double()

    return loss, point


def positive_dimension(values, ridge):
    kept = np.maximum(values, 0)
    return float((kept / (kept + ridge)).sum())


def test_every_summary_of_a_block_diagonal_quadratic():
    loss, point = quadratic(SPECTRA)
    found = summaries(loss, params=point, batches=ONES, ridge=0.1)
    assert [row.name for row in found] == list(SPECTRA)
    for row, values in zip(found, SPECTRA.values(), strict=True):
        assert (row.size, row.route, row.products, row.exact) == (len(values), "dense", len(values), True)
        assert row.largest.value == pytest.approx(max(values), abs=1e-12)
        assert row.smallest.value == pytest.approx(min(values), abs=1e-12)
        assert row.trace.value == pytest.approx(sum(values), abs=1e-12) and row.trace.stderr == 0
        assert row.effective_dimension.value == pytest.approx(positive_dimension(values, 0.1), abs=1e-10)
        assert row.negative_mass.value == pytest.approx(np.mean(np.array(values) < 0), abs=1e-12)
        assert max(row.largest.residual, row.smallest.residual) < 1e-12


def test_a_group_inside_a_diagonalised_one_costs_nothing():
    loss, point = quadratic(SPECTRA)
    op = hessian(loss, point, ONES)
    groups = {"all": "*"} | by_layer(op.names) | {"A": "*.A", "all again": "*"}
    found = {row.name: row for row in summaries(op, groups)}
    assert list(found) == ["all", "encoder.layer.0", "head", "A", "all again"]
    assert op.products == found["all"].products == 13
    assert all(found[name].products == 0 for name in list(found)[1:])
    assert found["A"].route == "shared" and found["A"].largest.value == pytest.approx(5, abs=1e-12)
    assert found["encoder.layer.0"].smallest.value == pytest.approx(-3, abs=1e-12)


def test_dense_and_iterative_agree():
    rng = np.random.default_rng(0)
    spectra = {
        "0.A": np.r_[np.linspace(0, 1, 56), [6.0, 5.0, 5.0, -4.0]],
        "0.B": np.r_[np.zeros(50), rng.standard_normal(40)],
        "1.zero": np.zeros(64),
    }
    loss, point = quadratic(spectra)
    groups = {"all": "*", "0.A": "0.A", "0.B": "0.B", "1.zero": "1.zero"}
    exact = summaries(loss, groups, params=point, batches=ONES, dense=1000, ridge=0.5)
    runs = [
        summaries(loss, groups, params=point, batches=ONES, dense=0, probes=4, steps=12, tol=1e-6, ridge=0.5, seed=seed)
        for seed in range(8)
    ]
    for sure, *rows in zip(exact, *runs, strict=True):
        for row in rows:
            assert row.route == "iterative" and row.products > 0
            for end in ("largest", "smallest"):
                known, seen = getattr(sure, end), getattr(row, end)
                assert seen.converged and abs(known.value - seen.value) <= seen.residual + 1e-12
        # the trace's Hutchinson error and the Gauss rules' error, each against its own reported uncertainty: the mean of
        # eight runs on 3 degrees of freedom each or more is out by chance once in 10^7
        for name in ("trace", "effective_dimension"):
            found, truth = [getattr(row, name) for row in rows], getattr(sure, name).value
            room = stats.t.ppf(1 - 0.5e-7, 24) * np.sqrt(np.sum([e.stderr**2 for e in found])) / 8
            assert abs(np.mean([e.value for e in found]) - truth) <= room + 1e-9
        missed = [
            not e.interval[0] - 1e-12 <= sure.negative_mass.value <= e.interval[1] + 1e-12
            for e in (row.negative_mass for row in rows)
        ]
        assert sum(missed) <= stats.binom.ppf(1 - 1e-7, 8, 0.05)
    for zero in (drawn[-1] for drawn in runs):
        assert zero.largest.value == zero.smallest.value == zero.trace.value == zero.effective_dimension.value == 0
        assert zero.products < 30


def test_linear_regression_in_closed_form():
    g = torch.Generator().manual_seed(1)
    x = torch.randn(12, 5, generator=g, dtype=torch.float64)
    y = torch.randn(12, 1, generator=g, dtype=torch.float64)
    batches = [(x[:8], y[:8]), (x[8:], y[8:])]
    point = {"left.weight": torch.randn(3, 1, generator=g, dtype=torch.float64), "right.weight": torch.zeros(2, 1).double()}

    def outputs(params, batch):
        return batch[0][:, :3] @ params["left.weight"] + batch[0][:, 3:] @ params["right.weight"]

    def criterion(y, batch):
        return 0.5 * (y - batch[1]).square().sum(1).mean()

    def loss(params, batch):
        return criterion(outputs(params, batch), batch)

    found = summaries(
        loss,
        {"left": "left.*", "both": ["left.*", "right.*"]},
        params=point,
        batches=batches,
        outputs=outputs,
        criterion=criterion,
        ridge=0.3,
    )
    for row, columns in zip(found, (x[:, :3], x), strict=True):
        values = torch.linalg.eigvalsh(columns.T @ columns / 12)
        assert row.spectrum == "gauss-newton"
        assert row.largest.value == pytest.approx(float(values[-1]), rel=1e-12)
        assert row.smallest.value == pytest.approx(float(values[0]), rel=1e-10)
        assert row.gauss_newton_trace == pytest.approx(float(values.sum()), rel=1e-12)
        assert row.trace.value == pytest.approx(float(values.sum()), rel=1e-12)
        assert row.effective_dimension.value == pytest.approx(float((values / (values + 0.3)).sum()), rel=1e-12)
        assert row.negative_mass.value == 0
    flat = summaries(gauss_newton(outputs, criterion, point, batches), {"all": "*"}, ridge=0.3)[0]
    assert flat.spectrum == "positive part"
    assert flat.effective_dimension.value == pytest.approx(found[1].effective_dimension.value, rel=1e-10)


def test_the_figure_has_the_same_bytes_each_time():
    loss, point = quadratic(SPECTRA)
    rows = summaries(loss, params=point, batches=ONES, dense=0, probes=2, steps=2)
    figure = drawing.curvature_figure(rows[0], rows, rows)
    magic = {"svg": b"<?xml", "pdf": b"%PDF", "png": b"\x89PNG"}
    drawn = {kind: drawing.file_bytes(figure, kind) for kind in drawing.FORMATS}
    assert all(content.startswith(magic[kind]) for kind, content in drawn.items())
    assert drawing.file_bytes(drawing.curvature_figure(rows[0], rows, rows), "svg") == drawn["svg"]


def test_layers_are_found_in_names():
    names = [
        "lora/3.attention.q.A",
        "bias/3.mlp.bias",
        "bert.encoder.layer.11.output.weight",
        "bert.embeddings.norm.bias",
        "classifier",
        "layer1.0.conv1.weight",
        "layer1.1.conv1.weight",
    ]
    assert by_layer(names) == {
        "3": tuple(names[:2]),
        "bert.encoder.layer.11": (names[2],),
        "bert.embeddings.norm": (names[3],),
        "classifier": ("classifier",),
        "layer1.0": (names[5],),
        "layer1.1": (names[6],),
    }


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"ridge": 0.0}, "ridge must be positive"),
        ({"groups": "nothing.*"}, "no parameter matches 'nothing.*'"),
        ({"batches": None}, "a loss needs params and batches"),
        ({"outputs": lambda params, batch: batch[0]}, "outputs, criterion, params and batches together"),
    ],
)
def test_a_bad_request_is_a_sentence(change, words):
    loss, point = quadratic(SPECTRA)
    options = {"groups": None, "params": point, "batches": ONES} | change
    with pytest.raises(ValueError, match=re.escape(words)):
        summaries(loss, options.pop("groups"), **options)


def test_a_model_of_ones_own_needs_nothing_of_the_lab():
    torch.manual_seed(0)
    config = BertConfig(vocab_size=500, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)
    model = BertForSequenceClassification._from_config(config, attn_implementation="eager").eval()
    params = {name: p.detach() for name, p in model.named_parameters() if name.endswith("output.dense.bias")}
    batches = [(torch.randint(500, (8, 12)), torch.randint(2, (8,))) for _ in range(2)]

    def loss(params, batch):
        return torch.nn.functional.cross_entropy(functional_call(model, params, (batch[0],)).logits, batch[1])

    op = hessian(loss, params, batches)
    rows = summaries(op, by_layer)
    assert [row.name for row in rows] == ["bert.encoder.layer.0", "bert.encoder.layer.1"]
    whole = torch.linalg.eigvalsh(op.dense().double())
    layer = rows[1]
    assert float(whole[0]) - 1e-6 <= layer.smallest.value < layer.largest.value <= float(whole[-1]) + 1e-6
