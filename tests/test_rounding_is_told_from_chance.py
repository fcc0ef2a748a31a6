"""A gradient that repeats to the rounding of half precision is taken and its gap stated; a random loss is refused."""

import itertools

import pytest
import torch
from torch.nn.functional import cross_entropy

from probes import hessian
from probes.curvature import assembly
from probes.curvature.assembly import default_memory
from probes.inputs import SLOPES, chance, check_repeats

HALF = (torch.bfloat16, torch.float16)
ROUND = {d: 4 * torch.finfo(d).eps for d in HALF}


def draw(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize("precision", HALF)
def test_slopes_may_differ_where_the_value_repeats(precision):
    given = {"dtype": torch.float32, "precision": precision, "device": "cuda"}
    for share in (3e-2, 1e-1, 0.99 * SLOPES):
        for loss in (0.0, 0.9 * ROUND[precision] * 2.3):
            assert chance((loss, 2.3), (share * 0.7, 0.7), **given) == "", (share, loss)
    said = chance((0.0, 2.3), (1.01 * SLOPES * 0.7, 0.7), **given)
    assert "25% of their norm" in said and "load the model in float32" in said
    assert "own" in chance((1.1 * ROUND[precision] * 2.3, 2.3), (3e-2 * 0.7, 0.7), **given)
    assert "own" in chance((1.1 * ROUND[precision] * 2.3, 2.3), (0.0, 0.7), **given)
    assert "own" in chance((0.1, 1.0), (0.0, 0.0), **given)
    assert "inf" in chance((0.0, 2.3), (0.5, 0.0), **given)


@pytest.mark.parametrize("precision", [torch.float32, torch.float64])
def test_wider_numbers_repeat_to_their_own_rounding(precision):
    for share, taken in ((1e-5, True), (1e-3, False)):
        assert (chance((0.0, 2.3), (share * 2.3, 0.7), torch.float32, precision, "cuda") == "") == taken
    assert chance((0.0, 1.0), (1e-9, 1.0), torch.float64, precision, "cuda") == "" or precision == torch.float64


@pytest.mark.parametrize("precision", [*HALF, torch.float32, torch.float64])
def test_on_a_cpu_bits_agree(precision):
    assert chance((0.0, 1.0), (0.0, 1.0), torch.float32, precision, "cpu") == ""
    assert "own" in chance((0.0, 1.0), (1e-30, 1.0), torch.float32, precision, "cpu")
    assert "own" in chance((1e-30, 1.0), (0.0, 1.0), torch.float32, precision, "cpu")


class Wobble(torch.autograd.Function):
    """The identity, whose gradient is multiplied by numbers that change from call to call."""

    share, turn = 0.05, itertools.count()

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, g):
        return g * (1 + Wobble.share * (1 if next(Wobble.turn) % 2 else -1))


BATCH = {"x": draw(20, 6, seed=1), "y": torch.arange(20) % 3}
PARAMS = {"w": draw(6, 3, seed=2)}


def wobbling(p, batch):
    return cross_entropy((batch["x"].bfloat16() @ Wobble.apply(p["w"]).bfloat16()).float(), batch["y"])


@pytest.fixture
def elsewhere(monkeypatch):
    """Judges every gap as on a device with kernels that add in any order."""
    from probes import inputs

    plain = inputs.chance
    monkeypatch.setattr(inputs, "chance", lambda *given: plain(*given[:-1], "cuda"))


def test_an_operator_states_how_far_its_gradient_repeats(elsewhere, monkeypatch):
    """Gradients of 1.05 g and .95 g are .1 g apart, relative to the one that came first."""
    op = hessian(wobbling, PARAMS, [BATCH])
    assert 0.1 / 1.05 - 1e-3 < op.noise < 0.1 / 0.95 + 1e-3
    assert op.status == "rounded in bfloat16, repeats to 1e-01" and "noise=0.09" in repr(op)
    assert op.block("w").noise == op.noise
    still = hessian(lambda p, b: wobbling(p, b).detach() + (p["w"] ** 2).sum(), PARAMS, [BATCH])
    assert still.noise == 0 and still.status == "exact"
    monkeypatch.setattr(Wobble, "share", 0.2)
    with pytest.raises(ValueError, match="repeats and its slopes change by .*float32"):
        hessian(wobbling, PARAMS, [BATCH])


def test_a_random_loss_is_refused_in_half_precision_too(elsewhere):
    turn = itertools.count()
    noisy = lambda p, b: wobbling(p, b) * (1 + 0.1 * (next(turn) % 3))  # noqa: E731
    with pytest.raises(ValueError, match="random.*state between calls"):
        hessian(noisy, PARAMS, [BATCH])


def test_on_this_cpu_the_same_gradient_is_refused():
    with pytest.raises(ValueError, match="random"):
        hessian(wobbling, PARAMS, [BATCH])


def test_the_gap_is_that_of_the_slopes_alone():
    pair = itertools.cycle([torch.tensor([1000.0, 3.0, 4.0]), torch.tensor([1000.0, 3.0, 4.05])])
    bits = torch.ones(3)
    assert check_repeats(bits, bits.clone(), lambda: None, torch.float32, "it") == 0
    with pytest.raises(ValueError, match="random"):
        check_repeats(next(pair), next(pair), lambda: next(pair), torch.float32, "it", 1)


def test_product_error_is_the_error():
    x = {"x": draw(20, 6, seed=1, dtype=torch.float64), "y": BATCH["y"]}
    loss = lambda p, b: cross_entropy(b["x"].to(p["w"].dtype) @ p["w"], b["y"])  # noqa: E731
    fine = hessian(loss, {"w": PARAMS["w"].double()}, [x])
    scaled = hessian(lambda p, b: 1.25 * loss(p, b), {"w": PARAMS["w"].double()}, [x])
    assert scaled.product_error(fine, probes=3) == pytest.approx(0.25, rel=1e-12)
    assert fine.product_error(fine) == 0
    single = hessian(loss, PARAMS, [x])
    assert 1e-9 < single.product_error(fine, seed=1) < 1e-5
    half = hessian(lambda p, b: cross_entropy((b["x"].bfloat16() @ p["w"].bfloat16()).float(), b["y"]), PARAMS, [x])
    errors = [half.product_error(fine, seed=s) for s in range(3)]
    assert all(1e-4 < e < 20 * torch.finfo(torch.bfloat16).eps for e in errors) and len(set(errors)) == 3
    v = torch.randn(18, 1, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    apart = (half @ v.float()).double() - fine.dense() @ v
    assert errors[2] == pytest.approx(float(apart.norm() / (fine.dense() @ v).norm()), rel=1e-3)
    with pytest.raises(ValueError, match="same parameters"):
        half.product_error(hessian(lambda p, b: (p["u"] ** 2).sum() * b["x"].mean(), {"u": torch.ones(18)}, [x]))
    flat = hessian(lambda p, b: (p["w"] * b["x"][:6, :3]).mean(), {"w": PARAMS["w"].double()}, [x])
    with pytest.raises(ValueError, match="product is zero"):
        half.product_error(flat)


def test_memory_follows_what_is_free(monkeypatch, tmp_path):
    stated = tmp_path / "meminfo"
    monkeypatch.setattr(assembly, "MEMINFO", stated)
    cpu, GiB = torch.device("cpu"), 1 << 30
    assert default_memory(cpu) == 2 * GiB
    for kilobytes, bytes_ in ((40 << 20, 10 * GiB), (1 << 20, 2 * GiB)):
        stated.write_text(f"MemTotal: 99 kB\nMemAvailable:   {kilobytes} kB\nHugePages_Total: 0\n", encoding="utf-8")
        assert default_memory(cpu) == bytes_
    stated.write_text("MemTotal: 99 kB\n", encoding="utf-8")
    assert default_memory(cpu) == default_memory(torch.device("mps")) == 2 * GiB
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda d: (50 * GiB, 80 * GiB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda d: 20 * GiB)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda d: 10 * GiB)
    assert default_memory(torch.device("cuda")) == 36 * GiB


def test_graphs_are_held_by_the_default(monkeypatch):
    loss = lambda p, b: cross_entropy(torch.tanh(b["x"]) @ p["w"], b["y"])  # noqa: E731
    monkeypatch.setattr(assembly, "default_memory", lambda device: 0)
    op = hessian(loss, PARAMS, [BATCH, BATCH])
    assert (op.kept, op.rebuilt, op.held) == (0, 2, 0)
    monkeypatch.setattr(assembly, "default_memory", lambda device: 1 << 30)
    held = op.block("w")  # asked anew
    assert (held.kept, held.rebuilt) == (2, 0) and held.held > 0
    torch.testing.assert_close(held.dense(), op.dense())
