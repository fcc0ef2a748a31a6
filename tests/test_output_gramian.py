"""The output Gramian is G R^-1 G' by singular values; its energies are the least, its ranks those that theory counts."""

import json
import math
from dataclasses import replace

import cvxpy
import numpy as np
import pytest
import torch
from zoo import KINDS, backbone_of, batch_of, moved, subject_of

from costate import main
from probes import (
    axis_places,
    departure,
    least_energy,
    margin_shift,
    output_gramian,
    reach_table,
    reachability,
    response,
    token_slots,
)
from theory import minimum_energy
from tuning import LoRA, PortBias, Prefix

ROUND = {"rtol": 1e-9, "atol": 1e-12}  # float64, maps of condition below 1e6


def measured(delta=None, kind="bert", size=5, **options):
    """A tiny subject away from its starting point, its batch, and the response there."""
    s, batch = subject_of(backbone_of(kind), delta or Prefix(2)), batch_of(size)
    return s, batch, response(s.outputs, moved(s.initial), [batch], **options)


def linear(matrix):
    """The response of y = M z to two parameters, one example whose outputs are the rows of M."""
    m = torch.as_tensor(matrix, dtype=torch.float64)
    first = m.shape[1] // 2

    def outputs(z, batch):
        return (torch.cat([z["a"], z["b"]]) @ m.T)[None] * batch

    zero = {"a": torch.zeros(first, dtype=m.dtype), "b": torch.zeros(m.shape[1] - first, dtype=m.dtype)}
    return response(outputs, zero, [torch.ones(1, 1, dtype=m.dtype)])


def test_golden_energy():
    """System S of the golden problems: G, its least energy to d by two independent solvers."""
    g = linear([[0.4, 0.8, 0.5], [1.25, 0.3, 1.0]])
    found = output_gramian(g)
    d = torch.tensor([[2.4, 2.25]], dtype=torch.float64)
    cost = least_energy(found, d)
    assert cost.value == pytest.approx(5.773050640267732, rel=1e-12)
    assert float(cost.examples) == pytest.approx(5.773050640267732, rel=1e-12) and cost.miss < 1e-12
    u = found.control(g, cost.costate)
    np.testing.assert_allclose(u, [0.5318731088, 2.1456483838, 0.9414640989], atol=1e-9)
    np.testing.assert_allclose(found.values**2, [3.327597371894569, 0.3749026281054311], rtol=1e-12)


@pytest.mark.parametrize("metric", [None, 2.5])
def test_values_are_those_of_the_stacked_map(metric):
    _, _, g = measured()
    n, c, m = g.shape
    found = output_gramian(g, metric=metric)
    G = g.matrix.reshape(n * c, m) / math.sqrt(metric or 1.0)
    values = torch.linalg.svdvals(G)
    torch.testing.assert_close(found.values, values, **ROUND)
    K = g.kernel(metric)
    U = found.outputs.reshape(n * c, -1)
    torch.testing.assert_close(U @ torch.diag(found.values**2) @ U.T, K, **ROUND)
    for i in range(n):
        torch.testing.assert_close(found.examples[i], K[i * c : (i + 1) * c, i * c : (i + 1) * c], **ROUND)
        torch.testing.assert_close(found.example_values[i], torch.linalg.svdvals(G.reshape(n, c, m)[i]), **ROUND)
    assert found.energy == pytest.approx(float(K.trace()), rel=1e-12)
    lead = found.control(g, found.outputs[..., :3] / found.values[:3])
    moved_outputs = g.matvec(lead).reshape(n * c, 3)
    torch.testing.assert_close(moved_outputs, U[:, :3] * found.values[:3], rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(lead.T @ lead * (metric or 1.0), torch.eye(3, dtype=torch.float64), **ROUND)


def test_a_response_too_large_to_form_gives_the_same_gramian():
    _, _, g = measured()
    _, _, never = measured(budget=0)
    assert never.matrix is None
    one, two = output_gramian(g, ["0.*", "1.*"]), output_gramian(never, ["0.*", "1.*"])
    torch.testing.assert_close(one.values, two.values, **ROUND)
    for label in ("0.*", "1.*"):
        torch.testing.assert_close(one.places[label].values, two.places[label].values, **ROUND)
    nu = torch.randn(g.shape[:2], dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(one.control(g, nu), two.control(never, nu), **ROUND)


def test_float32_rank_comes_from_the_map_and_not_from_its_square():
    """Gains 1, 1e-2, 1e-5 in float32: the Gramian's third eigenvalue, 1e-10, is noise; the singular value is not."""
    gains = torch.tensor([1.0, 1e-2, 1e-5], dtype=torch.float64)
    left = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1)))[0]
    matrix = (left @ torch.diag(gains)).float()
    g = response(lambda z, b: (z["z"] @ matrix.T)[None] * b, {"z": torch.zeros(3)}, [torch.ones(1, 1)])
    found = output_gramian(g)
    assert found.rank == 3 and g.dtype == torch.float32
    torch.testing.assert_close(found.values, gains, rtol=2e-2, atol=0)  # the entries' own rounding, 6e-8 of 1e-5
    squared = torch.linalg.eigvalsh(g.kernel())[0]
    assert abs(float(squared) / 1e-10 - 1) > 0.5


def test_ranks_count_directions():
    """Equal gains count one each; a halving spectrum has effective rank 4 and participation ratio 3; noise none."""
    even = output_gramian(linear(np.eye(4)))
    assert even.rank == 4 and even.effective_rank == pytest.approx(4) and even.participation_ratio == pytest.approx(4)
    halving = output_gramian(linear(np.diag(0.5 ** (np.arange(1, 41) / 2))))
    assert halving.effective_rank == pytest.approx(4, rel=1e-8)
    assert halving.participation_ratio == pytest.approx(3, rel=1e-8) and halving.rank == 40
    rng = np.random.default_rng(0)
    low = output_gramian(linear(rng.normal(size=(9, 2)) @ rng.normal(size=(2, 12))))
    assert low.rank == 2 and low.size == low.live == 12
    nothing = output_gramian(linear(np.zeros((2, 4))))
    assert nothing.rank == nothing.effective_rank == nothing.live == 0


def test_shares_add_up_over_ports_layers_and_heads():
    s, _, g = measured(Prefix(2))
    heads = axis_places(g.shapes, {name: (1, 4) for name in g.shapes}, lambda i: f"head {i}")
    for groups in (["0.*", "1.*"], ["*.keys", "*.values"], heads):
        found = output_gramian(g, groups)
        assert sum(part.share for part in found.places.values()) == pytest.approx(1, rel=1e-12)
        assert sum(part.size for part in found.places.values()) == g.shape[2] == s.size
        whole = sum((part.examples for part in found.places.values()), torch.zeros_like(found.examples))
        torch.testing.assert_close(whole, found.examples, **ROUND)
    only = g.matrix.reshape(*g.shape[:2], 4, 2, 4, 4)[..., 1, :]  # four tensors (length, heads, width)
    assert output_gramian(g, heads).places["head 1"].energy == pytest.approx(float((only**2).sum()), rel=1e-12)


def test_a_shared_signal_is_the_sum_of_its_token_slots():
    """One signal for all tokens moves the outputs as the slots of a signal per token do together; padding moves none."""
    s, batch = subject_of(backbone_of("bert"), PortBias()), batch_of(6)
    slots, real = token_slots(batch.mask), batch.mask[..., None]
    length = batch.mask.shape[1]
    for row, n in zip(slots, batch.mask.sum(1), strict=True):
        assert row[:n].tolist() == [0, *range(1, n - 1), length - 1][:n] and not row[n:].any()
    zero = torch.zeros(length, s.width, dtype=torch.float64)
    shared = response(s.steered, {port: zero[0] for port in s.ports}, [batch])
    per_token = response(
        lambda z, b: s.steered({port: v[token_slots(b.mask)] * b.mask[..., None] for port, v in z.items()}, b),
        {port: zero for port in s.ports},
        [batch],
    )
    rows = per_token.matrix.reshape(*shared.shape[:2], len(s.ports), length, s.width)
    torch.testing.assert_close(rows.sum(3).flatten(2), shared.matrix, **ROUND)
    names = {0: "first", length - 1: "last"}
    sets = axis_places(per_token.shapes, {p: (0, length) for p in s.ports}, lambda i: names.get(i, "content"))
    found = output_gramian(per_token, sets)
    assert list(found.places) == ["first", "content", "last"]
    assert found.places["last"].energy == pytest.approx(float((rows[..., -1, :] ** 2).sum()), rel=1e-12)
    assert sum(part.share for part in found.places.values()) == pytest.approx(1, rel=1e-12)
    assert real.any()


def test_energy_is_the_quadratic_form_and_no_control_does_it_for_less():
    _, batch, g = measured(size=4)
    n, c, m = g.shape
    d = torch.randn(n, c, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    found = output_gramian(g)
    K = g.kernel()
    for ridge in (1e-3, 0.5):
        cost = least_energy(found, d, ridge=ridge)
        direct = d.reshape(-1) @ torch.linalg.solve(K + ridge * torch.eye(n * c, dtype=K.dtype), d.reshape(-1))
        assert cost.value == pytest.approx(float(direct), rel=1e-8)
        z = found.control(g, cost.costate)
        left = d - g.matvec(z)
        assert cost.value == pytest.approx(float(z @ z + (left**2).sum() / ridge), rel=1e-8)
        assert cost.miss == pytest.approx(float(left.norm() / d.norm()), rel=1e-8)
        for i in range(n):
            own = d[i] @ torch.linalg.solve(found.examples[i] + ridge * torch.eye(c, dtype=K.dtype), d[i])
            assert float(cost.examples[i]) == pytest.approx(float(own), rel=1e-8)
    cost = least_energy(found, d)
    z = found.control(g, cost.costate)
    torch.testing.assert_close(g.matvec(z), d, rtol=0, atol=1e-8)
    assert cost.value == pytest.approx(float(z @ z), rel=1e-8) and cost.miss < 1e-8
    flat = g.matrix.reshape(n * c, m).numpy()
    theory = minimum_energy([np.eye(n * c)], [flat], d.reshape(-1).numpy())
    assert theory.converged and cost.value == pytest.approx(float(theory.energy), rel=1e-8)
    null = torch.linalg.svd(g.matrix.reshape(n * c, m))[2][n * c :]
    assert all(float((z + row) @ (z + row)) > cost.value for row in null[:5])
    assert (cost.examples <= cost.value).all()  # a control per example is never dearer than a shared one


def test_what_cannot_be_reached_is_missed_and_not_paid_for():
    found = output_gramian(linear([[2.0, 0.0], [0.0, 0.0]]))
    cost = least_energy(found, torch.tensor([[3.0, 4.0]], dtype=torch.float64))
    assert cost.value == pytest.approx(2.25) and cost.miss == pytest.approx(0.8)
    dear = least_energy(found, torch.tensor([[3.0, 4.0]], dtype=torch.float64), ridge=0.1)
    assert dear.value == pytest.approx(9 / 4.1 + 16 / 0.1)
    still = least_energy(found, torch.zeros(1, 2, dtype=torch.float64))
    assert still.value == still.miss == float(still.examples) == 0


def test_fewer_controls_cost_more():
    """K of a place is below K of the whole, so the same shift at the same ridge is dearer from there alone."""
    _, batch, g = measured(PortBias(), size=6)
    shift = margin_shift(g.outputs, batch.labels)
    found = output_gramian(g, [f"{b}.*" for b in range(2)] + ["0.mlp*"])
    cost = {name: least_energy(part, shift, ridge=0.01).value for name, part in found.places.items()}
    assert least_energy(found, shift, ridge=0.01).value < min(cost.values())
    assert cost["0.*"] < cost["0.mlp*"]
    part = found.places["1.*"]
    z = part.control(g, least_energy(part, shift, ridge=0.01).costate)
    outside = torch.cat([torch.full(shape, not name.startswith("1.")).reshape(-1) for name, shape in g.shapes.items()])
    assert (z[outside] == 0).all() and (z[~outside] != 0).all()


@pytest.mark.parametrize("classes", [2, 3, 6])
def test_margin_shift_is_the_smallest_that_gives_the_margin(classes):
    """Feasible, and of the form sum_j m_j (e_label - e_j) with m_j >= 0 only where the lead is the margin itself: by Karush,
    Kuhn and Tucker no shorter shift gives it. A solver's
    optimum v that misses its constraints by s is no shorter than |v|^2 >= |d|^2 - 2 s sum m, by the same multipliers."""
    rng = np.random.default_rng(classes)
    y = rng.normal(size=(12, classes)) * 1.5
    labels = rng.integers(classes, size=12)
    found = margin_shift(torch.as_tensor(y), torch.as_tensor(labels), 1.0).numpy()
    for row, label, d in zip(y, labels, found, strict=True):
        rivals = [j for j in range(classes) if j != label]
        leads, multipliers = (row + d)[label] - (row + d)[rivals], -d[rivals]
        assert leads.min() >= 1 - 1e-12 and abs(d.sum()) < 1e-12
        assert (multipliers >= 0).all() and (abs(leads - 1) < 1e-12)[multipliers > 0].all()
        v = cvxpy.Variable(classes)
        limits = [(row + v)[label] - (row + v)[j] >= 1 for j in rivals]
        cvxpy.Problem(cvxpy.Minimize(cvxpy.sum_squares(v)), limits).solve(solver="CLARABEL")
        slack = max(0.0, float(1 - ((row + v.value)[label] - (row + v.value)[rivals]).min()))
        assert slack < 1e-6 and v.value @ v.value >= d @ d - 2 * slack * multipliers.sum() - 1e-12 * (1 + d @ d)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("targets", [("q", "v"), ("mlp",)])
def test_lora_at_zero_reaches_the_rank_that_its_second_factor_has(kind, targets):
    """Only B moves outputs at B = 0: rank = min(N C, sum of r d_out), one less per column of a B whose output goes
    straight into a residual stream from which layer normalisation removes the mean. A decoder that is asked for its first
    word attends to one token of its own, so that queries there choose nothing; ReLU leaves units out that no text lights.
    """
    backbone = backbone_of(kind)
    s = subject_of(backbone, LoRA(1, targets=targets))
    alone = [name.replace(".cross.", ".attention.") for name in s.initial if name.endswith(".cross.q.B")]
    live = sum(value.numel() for name, value in s.initial.items() if name.endswith(".B") and name not in alone)
    dark = sum(value.numel() for name, value in s.initial.items() if name.endswith(".up.B")) if kind == "t5" else 0
    centred = any(isinstance(module, torch.nn.LayerNorm) for module in backbone.model.modules())
    most = live - (backbone.blocks if centred and "mlp" in targets else 0)
    for size in (4, 40):
        found = output_gramian(response(s.outputs, s.initial, [batch_of(size)]))
        assert live - dark // 2 <= found.live <= live < found.size == s.size
        assert found.rank == min(3 * size, most)
        assert 1 <= found.effective_rank <= found.rank


def test_reach_grows_with_the_delta():
    """Deltas that contain one another: rank and sigma_1 never fall, the energy of one target never rises."""
    backbone, batch = backbone_of("gpt2"), batch_of(20)
    ports = [p.key for p in backbone.ports]
    made = {f"{k} ports": subject_of(backbone, PortBias(tuple(ports[-k:]))) for k in (1, 2, 4)}
    responses = {name: response(s.outputs, s.initial, [batch]) for name, s in made.items()}
    shift = margin_shift(responses["1 ports"].outputs, batch.labels)
    rows = reach_table(responses, shift, ridge=0.01)
    assert [row.name for row in rows] == list(made) and [row.size for row in rows] == [16, 32, 64]
    assert rows[0].rank == 15  # a signal into the residual stream loses its mean
    for less, more in zip(rows, rows[1:], strict=False):
        assert less.rank < more.rank and less.largest <= more.largest and more.energy <= less.energy
    by_function = reach_table(responses, lambda y: margin_shift(y, batch.labels), ridge=0.01)
    assert by_function == rows
    assert rows[1] == reachability("2 ports", output_gramian(responses["2 ports"]), shift, ridge=0.01)


def test_departure_is_the_second_order_share():
    """y = z + a z^2 departs by a |z|; a linear map by nothing; what moves at second order only, without bound."""
    one = {"z": torch.zeros(1, dtype=torch.float64)}
    ones = torch.ones(3, 1, dtype=torch.float64)
    g = response(lambda z, b: b * (z["z"] + 0.5 * z["z"] ** 2), one, [ones])
    z = torch.tensor([0.2], dtype=torch.float64)
    torch.testing.assert_close(departure(g, z, ones * (z + 0.5 * z**2)), torch.full((3,), 0.1).double())
    assert (departure(g, z, ones * z) == 0).all()
    flat = response(lambda z, b: b * z["z"] ** 2, one, [ones])
    assert torch.isinf(departure(flat, z, ones * z**2)).all()
    s, batch, g = measured(Prefix(2))
    d = torch.randn(g.shape[2], dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    start, etas = moved(s.initial), []
    for size in (1e-3, 1e-4):
        parts = (size * d).split([v.numel() for v in start.values()])
        there = {k: v + p.reshape(v.shape) for (k, v), p in zip(start.items(), parts, strict=True)}
        etas.append(float(departure(g, size * d, s.outputs(there, batch)).median()))
    assert etas[0] / etas[1] == pytest.approx(10, rel=0.1)  # the remainder is quadratic


def test_bad_input_is_a_sentence():
    g = linear(np.eye(4))
    found = output_gramian(g)
    with pytest.raises(ValueError, match="no parameter matches"):
        output_gramian(g, ["c"])
    with pytest.raises(ValueError, match="with a column in it"):
        output_gramian(g, {"none": torch.zeros(4, dtype=torch.bool)})
    with pytest.raises(ValueError, match="shift must have shape"):
        least_energy(found, torch.zeros(1, 3))
    with pytest.raises(ValueError, match="ridge be >= 0"):
        least_energy(found, torch.zeros(1, 4), ridge=-1.0)
    with pytest.raises(ValueError, match="does not divide"):
        axis_places(g.shapes, {"a": (0, 3)})
    with pytest.raises(ValueError, match="labels"):
        margin_shift(torch.zeros(3, 2), torch.zeros(2, dtype=torch.int64))
    broken = output_gramian(replace(g, matrix=g.matrix * np.nan))
    assert broken.status == "not finite" and broken.rank == 0


@pytest.mark.slow
def test_the_command_prints_a_table_and_draws(capsys, tmp_path):
    chosen = ["probe", "controllability", "--task", "agreement", "--examples", "12", "--length", "12"]
    figure = tmp_path / "reach.svg"
    more = ["--delta", "prefix:length=1", "--by", "head", "--against", "prefix:length=2", "--margin", "9"]
    assert main([*chosen, *more, "--figure", str(figure), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in found["places"]] == ["all", *(f"head {i}" for i in range(4))]
    assert [row["name"] for row in found["deltas"]] == ["prefix:length=1", "prefix:length=2"]
    assert all(row["eta"] >= 0 and 0 <= row["miss"] <= 1 for row in found["places"])
    assert sum(found["share"].values()) == pytest.approx(1, rel=1e-5)
    assert found["places"][0]["largest"] == pytest.approx(found["singular_values"][0])
    assert figure.read_text(encoding="utf-8").count("<svg") == 1
    for by, first in (("port", "0.attention"), ("layer", "0"), ("token", "first")):
        assert main([*chosen, "--by", by]) == 0
        out = capsys.readouterr().out
        assert "effective_rank" in out and first in out
    assert (
        main([*chosen, "--delta", "port-bias", "--by", "head"]) == 2
        and "no parameters of single heads" in capsys.readouterr().err
    )
    assert main([*chosen, "--figure", "reach.gif"]) == 2 and ".svg or .pdf or .png" in capsys.readouterr().err
