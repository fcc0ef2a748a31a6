"""Decoders found together share a code: it reconstructs, transfers and repeats itself where deltas act on one signal."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import zoo

from probes.dimension.projection import random_subspace
from tuning import Adapter, Full, LoRA, Prefix
from tuning.decomposition import (
    Decoder,
    InCode,
    Solved,
    codes,
    decompose,
    decompositions,
    losses_at,
    principal,
    random_decoders,
    stick,
    uniform,
)
from tuning.practice import logits_of
from validations.claims.subspace import experiment
from validations.claims.subspace.claim import ahead, corrected, published
from validations.claims.subspace.experiment import predict
from validations.claims.subspace.landscape import ROOM, SIDE, Plane, common, over
from validations.claims.subspace.plants import NUMBERS, SIGNALS, together

TASKS = 6


def solved(shift=0.0):
    """Every plant's delta displaced as its labels need, along the task's own mixture of two signals; without training."""
    made = {name: [] for name in NUMBERS}
    for task in range(TASKS):
        given = together(task, 0)
        x, y = given.train.tokens[:, 0], given.train.labels.double() - 0.5
        signal = torch.linalg.lstsq(x, y[:, None]).solution[:, 0]
        for name, subject in given.subjects.items():
            made[name].append(Solved(subject, {"z": 8.0 * subject.map.T @ signal + shift}, given.train))
    return made


def test_principal_codes_are_shared_and_reconstruct():
    """M_t has orthonormal rows, so that displacements are the same points turned: their codes are one, at any dimension."""
    tasks = solved()
    whole = principal(tasks, TASKS)
    for name, own in tasks.items():
        for k, one in enumerate(own):
            code = whole.encode(name, one.displacement)
            torch.testing.assert_close(whole.decoders[name].apply(code)["z"], one.displacement, rtol=1e-9, atol=1e-9)
            torch.testing.assert_close(code, whole.encode("lora", tasks["lora"][k].displacement), rtol=1e-9, atol=1e-9)
    codes = torch.stack([whole.encode("lora", one.displacement) for one in tasks["lora"]])
    torch.testing.assert_close(codes.square().mean(0), torch.ones(TASKS, dtype=torch.float64), rtol=1e-9, atol=1e-9)
    least = principal(tasks, 2)
    for name in tasks:
        torch.testing.assert_close(least.decoders[name].matrix, whole.decoders[name].matrix[:, :2])


def test_the_joint_search_lowers_reconstruction_and_aligns_codes():
    """Half as far from the displacements as no decoder is, and codes of one task nearer to each other than to other tasks'."""
    tasks = solved()
    found = decompose(tasks, 4, steps=250, rate=0.1, seed=1)
    left, size, codes = 0.0, 0.0, {}
    for name, own in tasks.items():
        codes[name] = torch.stack([found.encode(name, one.displacement) for one in own])
        for one, code in zip(own, codes[name], strict=True):
            left += float((found.decoders[name].apply(code)["z"] - one.displacement).square().sum())
            size += float(one.displacement.square().sum())
    assert left < 0.5 * size
    near = (codes["lora"] - codes["prefix"]).norm(dim=1)
    far = torch.cdist(codes["lora"], codes["prefix"]).sum(1) - near
    assert float(near.mean()) < float(far.mean()) / (TASKS - 1)


def test_equal_arguments_give_equal_decoders_and_another_seed_others():
    tasks = {name: own[:1] for name, own in solved().items()}  # one task: the published single-task setting
    one, same, other = (decompose(tasks, 1, steps=5, seed=seed).decoders["lora"].matrix for seed in (3, 3, 4))
    assert torch.equal(one, same) and not torch.equal(one, other)


def test_searches_of_several_dimensions_share_texts_and_reconstruct_alike():
    """Every dimension has decoders of its own size, and four numbers miss less of the displacements than one."""
    tasks = solved()
    several = decompositions(tasks, [1, 4], steps=150, rate=0.1, seed=1)
    assert [one.decoders["lora"].dimension for one in several] == [1, 4]
    left = []
    for found in several:
        off = [(found.decoders[n].apply(found.encode(n, x.displacement))["z"] - x.displacement) for n in tasks for x in tasks[n]]
        left.append(float(torch.cat(off).square().sum()))
    assert left[1] < left[0]


def test_losses_of_many_displacements_are_those_of_one_after_the_other():
    """On a network, with texts of several lengths: in shared passes where copies share frozen weights, and where they do not."""
    backbone, batch = zoo.backbone_of("bert"), zoo.batch_of()
    for delta in (LoRA(2), Prefix(2), Adapter(2), Full()):
        subject = zoo.subject_of(backbone, delta)
        moved = 0.1 * torch.randn(3, subject.size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        whole = Decoder(
            {name: tuple(value.shape) for name, value in subject.initial.items()}, torch.eye(subject.size, dtype=moved.dtype)
        )
        each = [InCode(subject, whole).loss({"code": one}, batch) for one in moved]
        torch.testing.assert_close(losses_at(subject, moved, batch), torch.stack(each))


def test_a_code_is_found_through_every_decoder_at_once():
    """Through the two signals that the labels need each delta loses half of its loss; codes together are those of codes alone."""
    given = together(0, 0)
    options = {"steps": 60, "batch_size": 32, "seed": 0}
    for name, subject in given.subjects.items():
        basis = np.linalg.qr(np.random.default_rng(281).standard_normal((SIGNALS, SIGNALS)))[0][:, :2]
        good = Decoder({"z": (NUMBERS[name],)}, subject.map.T @ torch.as_tensor(basis))
        bad = random_decoders({name: Decoder(good.shapes, good.matrix[:, :1])}, 0)[name]
        found = codes(subject, [good, bad], given.train, rates=(0.2, 0.2), **options)
        assert [len(code) for code in found] == [2, 1]
        (alone,) = codes(subject, [good], given.train, rates=(0.2,), **options)
        torch.testing.assert_close(found[0], alone)
        losses = [
            float(InCode(subject, at).loss({"code": code}, given.test)) for at, code in zip((good, bad), found, strict=True)
        ]
        assert losses[0] < 0.7 * np.log(2) < losses[1]


def test_full_tuning_shares_a_code_through_a_random_projection():
    """Its zero code is the frozen network; beside a search the decoders are asked for codes at which it does well too."""
    backbone, batch = zoo.backbone_of("bert"), zoo.batch_of()
    full, lora = (zoo.subject_of(backbone, delta) for delta in (Full(), LoRA(2)))
    shapes = {name: tuple(value.shape) for name, value in full.initial.items()}
    coded = InCode(full, random_subspace(shapes, 3, seed=0, dtype=torch.float64))
    torch.testing.assert_close(logits_of(coded, coded.initial, batch), logits_of(full, full.initial, batch))
    moved = {name: value + 0.1 for name, value in lora.initial.items()}
    tasks = {"lora": [Solved(lora, moved, batch)]}
    apart, joined = (decompose(tasks, 3, steps=30, batch_size=2, beside=beside, seed=0) for beside in ((), (coded,)))
    losses = [
        float(coded.loss({"code": found.encode("lora", tasks["lora"][0].displacement)}, batch).detach())
        for found in (apart, joined)
    ]
    assert losses[1] < losses[0]


def test_a_code_moves_a_delta_by_its_decoder_from_where_it_starts():
    """On a network: the zero code leaves the delta at its start, and any other puts it where the decoder says."""
    backbone, batch = zoo.backbone_of("bert"), zoo.batch_of()
    for delta in (LoRA(2), Prefix(2)):
        subject = zoo.subject_of(backbone, delta)
        shapes = {name: tuple(value.shape) for name, value in subject.initial.items()}
        matrix = torch.randn(subject.size, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        coded = InCode(subject, Decoder(shapes, 0.1 * matrix))
        assert torch.equal(logits_of(coded, coded.initial, batch), logits_of(subject, subject.initial, batch))
        code = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)
        placed = coded.placed({"code": code})
        flat = torch.cat([(placed[name] - value).flatten() for name, value in subject.initial.items()])
        torch.testing.assert_close(flat, 0.1 * matrix @ code)
        assert torch.equal(logits_of(coded, {"code": code}, batch), logits_of(subject, placed, batch))
        at = code.clone().requires_grad_()
        slope = torch.autograd.grad(coded.loss({"code": at}, batch), at)[0]
        numbers = {name: value.clone().requires_grad_() for name, value in placed.items()}
        slopes = torch.autograd.grad(subject.loss(numbers, batch), list(numbers.values()))
        torch.testing.assert_close(slope, 0.1 * matrix.T @ torch.cat([one.flatten() for one in slopes]))


def test_random_decoders_have_the_norms_they_replace():
    shapes = {"z": (SIGNALS,)}
    like = {name: Decoder(shapes, (k + 1.0) * torch.ones(SIGNALS, 3)) for k, name in enumerate(NUMBERS)}
    drawn = random_decoders(like, 0)
    for name, decoder in like.items():
        torch.testing.assert_close(drawn[name].matrix.norm(), decoder.matrix.norm())
        assert not torch.equal(drawn[name].matrix, decoder.matrix)


def test_weights_are_uniform_on_the_simplex_and_the_published_ones_are_not():
    """Means of 1/3 each against 1/2, 1/4, 1/4; the band is five standard errors of 4,000 numbers of variance below 1/12."""
    generator = torch.Generator().manual_seed(0)
    for draw, means in ((uniform, [1 / 3] * 3), (stick, [0.5, 0.25, 0.25])):
        drawn = torch.stack([draw(3, generator) for _ in range(4000)]).numpy()
        assert (drawn >= 0).all() and np.allclose(drawn.sum(1), 1.0)
        assert np.allclose(drawn.mean(0), means, atol=5 * (12 * 4000) ** -0.5)


def test_what_cannot_be_decomposed_is_refused():
    tasks = solved()
    with pytest.raises(ValueError, match="at least one of each"):
        principal({"lora": []}, 1)
    with pytest.raises(ValueError, match="the same tasks"):
        decompose(tasks | {"lora": tasks["lora"][:2]}, 1, seed=0)
    still = [replace(one, params=one.subject.initial) for one in tasks["lora"]]
    with pytest.raises(ValueError, match="trained lora that has moved"):
        decompose(tasks | {"lora": still}, 1, seed=0)


def test_corrected_performance_takes_chance_off():
    """Of 0.9 with all numbers and 0.5 by chance, 0.7 keeps a half; the published ratio says seven ninths."""
    columns = {name: np.array([value, value]) for name, value in {"full": 0.9, "learned": 0.7, "majority": 0.5}.items()}
    assert corrected("learned")(columns) == pytest.approx(0.5) and published("learned")(columns) == pytest.approx(7 / 9)
    assert ahead("learned", "majority")(columns) == pytest.approx(0.5)


def test_a_part_that_lacks_what_its_cells_need_is_refused_by_name():
    given = together(0, 0)
    with pytest.raises(ValueError, match="give the part's option dev"):
        predict(replace(given, dev=None))
    with pytest.raises(ValueError, match="code_rates is missing"):
        predict(replace(given, options={k: v for k, v in given.options.items() if k != "code_rates"}))
    with pytest.raises(ValueError, match="at least one other task"):
        predict(replace(given, other_tasks=()))


def test_a_plane_holds_the_codes_that_span_it():
    """Two codes lie in the plane with room around, and every point of it is a code of their span."""
    codes = np.array([[3.0, 0.0, 4.0], [0.0, 2.0, 0.0]])
    plane = Plane.of(codes)
    np.testing.assert_allclose(plane.placed(codes) @ plane.axes, codes, atol=1e-12)
    assert plane.extent == pytest.approx(ROOM * 5.0) and plane.codes.shape == (SIDE, SIDE, 3)
    assert np.linalg.matrix_rank(np.vstack([codes, plane.codes.reshape(-1, 3)]), tol=1e-9) == 2
    with pytest.raises(ValueError, match="at least two numbers"):
        Plane.of(codes[:, :1])


def test_a_landscape_is_the_loss_at_every_code_and_a_rotation_turns_what_is_read():
    given = together(0, 0)
    subject = given.subjects["lora"]
    coded = InCode(subject, Decoder({"z": (NUMBERS["lora"],)}, subject.map.T[:, :2]))
    plane = Plane.of(np.array([[1.0, 0.0], [0.0, 2.0]]))
    losses = over(plane, coded, given.test)
    middle = SIDE // 2
    assert losses[middle, middle] == pytest.approx(float(coded.loss(coded.initial, given.test)))
    assert losses[0, -1] == pytest.approx(float(coded.loss({"code": torch.tensor(plane.codes[0, -1])}, given.test)))
    np.testing.assert_allclose(over(plane, coded, given.test, -np.eye(2)), losses[::-1, ::-1])


def test_the_common_region_is_where_every_delta_keeps_half_its_gain():
    """Of four points one delta does well on two and the other on three, both on one: a quarter of any, and of the plane."""
    losses = {"one": np.array([[0.5, 0.4], [1.0, 1.0]]), "other": np.array([[1.0, 0.2], [0.4, 0.4]])}
    limits = {"one": (1.0, 0.0), "other": (1.0, 0.0)}
    assert common(losses, limits) == (1 / 4, 1 / 4)
    assert common(losses, limits | {"one": (1.0, -1.0)}) == (0.0, 0.0)


def test_equal_networks_on_equal_texts_are_trained_once(monkeypatch):
    """A second setting of the same network, texts and options takes the first one's run; another seed, rate or text does not."""
    backbone, batch = zoo.backbone_of("bert"), zoo.batch_of()
    options = {"steps": 2, "batch_size": 2, "rates": (1e-2,), "looks": 2}
    given = replace(together(0, 0), subjects={"lora": zoo.subject_of(backbone, LoRA(2))}, options=options)
    given = replace(given, train=batch, dev=batch, test=batch)
    made, real = [], experiment._trained
    monkeypatch.setattr(experiment, "_trained", lambda *asked: made.append(asked) or real(*asked))
    experiment._trained_once.cache_clear()
    first = experiment.trained(given, "lora")
    again = replace(given, subjects={"lora": zoo.subject_of(backbone, LoRA(2))}, other_tasks=(given,))
    assert experiment.trained(again, "lora") is first and len(made) == 1
    others = [replace(given, seed=1), replace(given, options=options | {"rates": (2e-2,)})]
    others.append(replace(given, train=batch._replace(labels=batch.labels.flip(0))))
    for other in others:
        experiment.trained(other, "lora")
    assert len(made) == 4
    fresh = real(given, "lora").params
    assert all(torch.equal(first.params[name], value) for name, value in fresh.items())
