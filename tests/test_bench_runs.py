"""The bench compares like with like: every peer's answer agrees with ours, absent peers are said to be, ratios are exact."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

import bench
from bench import control, curvature, curvature_exact, curvature_large, memory, peers, practice, timing
from bench.curvature_large import Large
from bench.language import REAL, Llama
from bench.subjects import Size
from bench.timing import Amount, Contest, Peer, Row, contend, gap, weigh
from costate import main
from tuning.practice import Recipe

TINY = {
    "low-rank-riccati": lambda: control.low_rank_riccati(T=3, b=2, n=10, p=2),
    "identity-riccati": lambda: control.identity_riccati(T=3, sizes=(8,)),
    "riccati-libraries": lambda: control.riccati_libraries(T=3, sizes=((6, 1), (6, 2))),
    "reach-map": lambda: control.reach_map(T=3, b=2, n=12, m=2),
    "output-map": lambda: control.output_gradients(
        encoders=(lambda dtype: control.random_encoder(2, 16, 2, dtype),), count=3, length=6
    ),
    "token-jacobian": lambda: control.token_jacobian(blocks=2, width=16, heads=2, count=2, length=6),
    "convex-solvers": lambda: control.convex_solvers(T=3, n=4),
}


@pytest.mark.parametrize("case", control.CASES)
def test_every_peer_agrees_with_ours(case):
    torch.set_num_threads(1)
    rows = [row for contest in TINY[case]() for row in contend(case, contest, rounds=2)]
    packages = {"mpc.pytorch": "mpc", "PyPose": "pypose", "python-control dlqr": "control"}
    packages |= {f"cvxpy {name}": name.lower() for name in ("CLARABEL", "OSQP", "SCS")}
    for row in rows:
        absent = row.peer in packages and not peers.installed(packages[row.peer])
        assert row.status == ("not installed" if absent else "measured"), row
        assert absent or row.agrees or row.peer == "one forward pass", row
        assert absent or (row.ratio > 0 and row.low <= row.median <= row.high and row.own_error <= 1e-4), row
        assert bench.line(row)
    assert any(row.agrees for row in rows)


SMALL = {"size": Size(1, 8, 2, 5), "steps": 3}
LLAMA = Llama(1, 16, 2, 1, 24, 512)
BIG = (
    Large("fine", LLAMA, torch.float32, 0, 0),
    Large("coarse", LLAMA, torch.bfloat16, 0, 0),
    Large("coarse alone", LLAMA, torch.bfloat16, 0, 1 << 60),
)


def elsewhere():
    """The cases of a GPU, on this device."""
    small = {"products": (("LoRA", 2, 6),), "ranked": ("LoRA", 2, 6), "k": 4} | SMALL
    return curvature.elsewhere("cpu", models=BIG, length=8, **small)


ALSO_TINY = {
    "product": lambda: curvature.product(
        problems=(("LoRA", 2, 6), ("one module", 3, 6), ("adapters", 2, 6), ("prefix", 2, 6), ("all", 2, 6)), columns=3, **SMALL
    ),
    "top10": lambda: curvature.top10(problems=(("one module", 2, 6), ("LoRA", 3, 6)), k=4, **SMALL),
    "density": lambda: curvature.densities(
        problems=(("one module", 2, 6), ("LoRA", 2, 6)), probes=4, lanczos=16, fewer=2, **SMALL
    ),
    "gauss-newton": lambda: curvature.gauss_newton(problems=(("LoRA", 2, 8), ("LoRA", 3, 8)), k=3, **SMALL),
    "trace": lambda: curvature.traces(module=("one module", 2, 6), lora=("LoRA", 2, 6), seeds=4, **SMALL),
    "memory": lambda: curvature.memory(count=8, batches=2, budget=1 << 20, size=SMALL["size"]),
    "lm": lambda: curvature.lm(models=(("tiny", LLAMA),), length=8),
    "large": lambda: curvature.large(models=BIG, length=8, k=2, probes=2, steps=6),
    "cuda": lambda: elsewhere(),
}
PACKAGES = {"curvlinops": "curvlinops", "eigenthings": "hessian_eigenthings", "PyHessian": "pyhessian"}


@pytest.mark.parametrize("case", sorted(set(curvature.CASES) - {"compiled"}))  # compiling takes a quarter of a minute
def test_curvature_agrees_with_float64(case):
    """Ours is within its tolerance of the exact reference in every case, and each absent package is said to be absent."""
    torch.set_num_threads(1)
    rows = [row for found in ALSO_TINY[case]() for row in ([found] if isinstance(found, Row) else contend(case, found, rounds=2))]
    for row in rows:
        assert bench.line(row) and row.case == case
        package = PACKAGES.get(row.peer.split()[0].rstrip(","))
        if package and not peers.installed(package):
            assert row.status == "not installed", row
        elif not package and row.status != "not run":
            assert row.status == "measured" and row.ratio > 0 and row.agrees is not False, row
    bound = {"product": 1e-4, "top10": 1e-4, "density": 1e-5, "gauss-newton": 1e-4, "trace": 4.0, "lm": 1e-4}.get(case)
    assert bound is None or all(row.own_error is None or row.own_error <= bound for row in rows), rows
    assert rows


def test_numbers_leave_their_device_before_they_are_read(monkeypatch):
    """A tensor that no .cpu() returned is refused, as numpy refuses one on a GPU, by no answer, reference or peer of ours."""
    torch.set_num_threads(1)
    brought, here, numpy = torch.Tensor.cpu, {}, torch.Tensor.numpy

    def cpu(x, *args, **options):
        found = brought(x, *args, **options).clone()
        here[found.untyped_storage().data_ptr()] = found  # kept, so that no other tensor gets its place
        return found

    def read(x, *args, **options):
        if x.is_floating_point() and x.untyped_storage().data_ptr() not in here:
            raise TypeError("can't convert cuda:0 device type tensor to numpy")
        return numpy(x, *args, **options)

    monkeypatch.setattr(torch.Tensor, "cpu", cpu)
    monkeypatch.setattr(torch.Tensor, "numpy", read)
    with pytest.raises(TypeError, match="device"):
        np.asarray(torch.ones(2))
    peers_seen = set()
    for found in elsewhere():
        for row in [found] if isinstance(found, Row) else contend("cuda", found, rounds=2):
            assert "device type" not in row.status, row
            assert row.status in ("measured", "not installed", "not run"), row
            peers_seen.add(row.peer)
    assert {"one gradient", "fresh double backward", "eigenthings, 8 steps", "double backward"} <= peers_seen


def test_what_a_language_model_lacks_is_said(monkeypatch):
    """No GPU, too little memory on it, and no installed model are rows with a sentence, never a failure."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    (row,) = curvature.cuda()
    assert row.status == "not run" and row.note == "no CUDA device"
    if peers.installed("peft"):
        monkeypatch.setattr(curvature_large, "free_memory", lambda device: 3 << 30)
        for one, row in zip(curvature_large.LARGE, curvature.large("cuda"), strict=True):
            assert row.status == "not run" and row.note == f"it needs {one.needed >> 30} GiB free on the device, which has 3"

    def absent(name):
        raise ValueError("expected it, found none; run make smollm2")

    monkeypatch.setattr("tuning.shipped.folder_of", absent)
    (row,) = curvature.lm(models=((REAL, REAL),))
    assert row.status == "not run" and ("make smollm2" in row.note or "peft" in row.note) and bench.line(row)


def test_large_tensors_are_counted_while_they_live():
    """One that is kept, two that a product needs at once and one that it only passes through, beside one that was there."""
    there = torch.zeros(1000)

    def make():
        held = torch.ones(1000)

        def product(v):
            first = held + there
            second = first * 2
            del first
            return (second * v.sum()).sum()

        return product

    assert memory.alive(make, torch.ones(3), 4000, [there]) == (1, 3, 1)
    assert memory.alive(make, torch.ones(3), 4001, [there]) == (0, 0, 0)


@pytest.mark.parametrize("name", practice.DELTAS)
def test_the_plain_loop_has_our_losses(name):
    torch.set_num_threads(1)
    recipe = Recipe(steps=3, rates=(0.003, 0.01), looks=2, batch_size=8)
    contest, *rows = practice.sweep(name, recipe=recipe, train=40, readout=60, dev=8, test=8)
    for row in [*contend(name, contest, rounds=2), *rows]:
        assert row.status == ("measured" if peers.installed("peft") else "not installed") and bench.line(row)
        assert row.agrees is not False and (row.error is None or row.error <= 1e-5)


def test_a_decomposition_is_priced_against_its_limit():
    torch.set_num_threads(1)
    (row,) = practice.decomposition(steps=2, search=2, look=2, train=40, readout=60, dev=8, test=8)
    assert row.met and row.unit == "CPU s" and row.peer_cost == practice.LIMIT and row.ratio == row.peer_cost / row.ours_cost


def test_a_law_is_priced_on_every_backbone_asked_for():
    few, many = practice.law(laws=(("nano-2x32", 12), ("nano-2x64", 24)), readout=60, dev=8, test=8)
    assert "2 ports of width 32, 12 texts" in few.problem and "2 ports of width 64, 24 texts" in many.problem
    assert few.met and few.unit == "CPU s" and few.peer_cost == practice.LAW_LIMIT


def test_missed_multiplicities_and_signs_are_errors():
    exact = np.array([5.0, -5.0, 5.0, -3.0, 3.0, 0.1])
    error = lambda *found: curvature_exact.relative_errors(np.array(found), exact, 1e-3).max()  # noqa: E731
    assert error(5.0, 5.0, -5.0) < 1e-12 and error(5.0, -5.0, 5.0, 3.0) < 1e-12  # either sign of the tie at the end
    assert error(5.0, -5.0, -5.0) > 0.3 and error(5.0, -5.0, 3.0) > 0.3
    assert error(5.0, 5.0, -5.0, 3.03) == pytest.approx(0.01)


def test_amounts_are_compared_like_times():
    ours = Amount("ours", 50.0, error=1.0)
    rivals = [Amount("unit", 20.0, 1 / 4), Amount("absent", None), Amount("rival", 150.0, 2.0, error=5.0)]
    unit, absent, rival = weigh("case", "problem", ours, rivals, "MiB", 4.0)
    assert unit.ratio == pytest.approx(0.4) and unit.met and "costs 2.5" in bench.line(unit) and "50 MiB" in bench.line(unit)
    assert absent.status == "not installed"
    assert rival.ratio == pytest.approx(3.0) and rival.met and rival.agrees is False


def test_a_part_of_the_problem_counts_for_the_whole(monkeypatch):
    rivals = (Peer("a fifth", lambda: 0.2, np.asarray, share=0.2, line=3.0),)
    (row,) = clocked(monkeypatch, Contest("problem", "ours", lambda: 0.1, np.asarray, rivals))
    assert row.ratio == pytest.approx(10.0) and row.peer_cost == pytest.approx(1.0) and row.met


def test_the_condensed_problem_has_the_cost_of_the_states():
    lq = control._dense(4, 1, 5, 2)
    G, M, g = control.condensed(lq)
    u = np.random.default_rng(1).normal(size=(4, 2))
    x, cost = lq.x0[0], 0.0
    for t in range(4):
        x = lq.A[t][0] @ x + lq.B[t][0] @ u[t]
        cost += x @ (lq.Q if t < 3 else lq.Qf) @ x / 2
    z, start = sum(map(np.matmul, G, u)), np.linalg.solve(M, g)
    assert abs((z @ M @ z / 2 + g @ z + start @ M @ start / 2) / cost - 1) < 1e-12


def clocked(monkeypatch, contest, rounds=5):
    """The rows of a contest whose calls advance a clock by what they return."""
    now = [0.0]
    monkeypatch.setattr(timing.time, "process_time", lambda: now[0])

    def taking(call):
        def run():
            now[0] += call()
            return np.ones(2)

        return run

    made = tuple(replace(p, run=taking(p.run)) for p in contest.peers)
    whole = Contest(contest.problem, contest.ours, taking(contest.run), contest.answer, made)
    return list(contend("case", whole, rounds=rounds))


def test_ratios_are_those_of_the_clock(monkeypatch):
    """Also for a call so short that it is repeated, and one so long that it sits out after a round."""
    rivals = (Peer("short", lambda: 1e-4, np.asarray, line=0.2), Peer("long", lambda: 60.0, np.asarray, line=200.0))
    short, long = clocked(monkeypatch, Contest("problem", "ours", lambda: 0.4, np.asarray, rivals))
    assert short.ratio == pytest.approx(2.5e-4) and short.rounds == 5 and not short.met
    assert long.ratio == pytest.approx(150.0) and long.median == pytest.approx(150.0) and long.rounds == 1 and not long.met
    assert long.ours_cost == pytest.approx(0.4) and long.peer_cost == pytest.approx(60.0)


def test_the_least_time_is_reported_and_the_quartiles_are_paired(monkeypatch):
    slow = iter([0.1, 0.1, 0.1, 0.2, 0.3, 0.4])  # the first two are the warm-up and the count
    peer = iter([0.4, 0.4, 0.4, 0.4, 0.9, 1.6])
    rivals = (Peer("peer", lambda: next(peer), np.asarray, line=4.0),)
    (row,) = clocked(monkeypatch, Contest("problem", "ours", lambda: next(slow), np.asarray, rivals), rounds=4)
    assert row.ratio == pytest.approx(4.0) and row.rounds == 4
    assert (row.low, row.median, row.high) == pytest.approx(np.quantile([4.0, 2.0, 3.0, 4.0], [0.25, 0.5, 0.75]))


def test_failures_and_wrong_answers_are_said():
    def broken():
        raise RuntimeError("no such kernel")

    rivals = (
        Peer("absent", None, np.asarray, note="pip install it"),
        Peer("broken", broken, np.asarray),
        Peer("wrong", lambda: np.array([1.0, 2.5]), np.asarray),
        Peer("right", lambda: np.array([1.0, 2.0]), np.asarray),
    )
    ours = Contest("problem", "ours", lambda: np.array([1.0, 2.0]), np.asarray, rivals)
    absent, broke, wrong, right = contend("case", ours, rounds=2)
    assert absent.status == "not installed" and "pip install it" in bench.line(absent)
    assert broke.status == "failed: RuntimeError: no such kernel" and broke.ratio is None
    assert wrong.agrees is False and wrong.error == 0.25 and "!" in bench.line(wrong)
    assert right.agrees is True and right.error == 0.0
    assert gap(np.ones(2), np.ones(3)) == np.inf


def test_the_command(monkeypatch, capsys):
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setattr(control, "CASES", TINY)
    assert main(["bench", "control", "--case", "identity-riccati", "--rounds", "2", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert {row["case"] for row in record["rows"]} == {"identity-riccati"} and record["versions"]["numpy"]
    assert main(["bench", "--case", "reach-map", "--rounds", "2"]) == 0
    assert "batched Gramian loop" in capsys.readouterr().out
    for wrong, said in ((["speed"], "expected"), (["--case", "nothing"], "expected"), (["--rounds", "1"], "--rounds must be")):
        assert main(["bench", *wrong]) == 2 and said in capsys.readouterr().err
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert main(["bench"]) == 2 and "OMP_NUM_THREADS" in capsys.readouterr().err
