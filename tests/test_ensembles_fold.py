"""Members folded into one batch have the gradients of one member after the other, for every delta that shares the weights."""

import pytest
import torch
import torch.nn.functional as F
import zoo

from tuning import Batch, LoRA, Readout, subject
from tuning.ensembles import Whole, descend, fold, foldable, outputs, train_subspaces


def shares(delta):
    """Whether a delta changes no weight but biases."""
    backbone = zoo.backbone_of("bert")
    return all(name.endswith(".bias") for name in delta.edits(backbone, delta.initial(backbone, 0)).weights)


SHARING = [name for name, delta in zoo.DELTAS.items() if shares(delta)]
MEMBERS = 3


def _pair(kind, delta, dtype, *, trained=False):
    """Folded gradients and those of one member after the other, as two vectors."""
    backbone = zoo.backbone_of(kind, dtype=dtype)
    generator = torch.Generator().manual_seed(1)
    head = Readout(torch.randn(3, 16, generator=generator).to(dtype), torch.zeros(3, dtype=dtype))
    made = subject(backbone, delta, head, 0, train_readout=trained)
    params = {
        name: (z + 0.1 * torch.randn(MEMBERS, *z.shape, generator=generator)).to(dtype).requires_grad_()
        for name, z in made.initial.items()
    }
    own = [zoo.batch_of(seed=e) for e in range(MEMBERS)]
    batch = Batch(*(torch.stack(x) for x in zip(*own, strict=True)))
    logits = outputs(made, params, batch)
    losses = F.cross_entropy(logits.flatten(0, 1), batch.labels.flatten(), reduction="none").view(MEMBERS, -1).mean(1)
    folded = torch.autograd.grad(losses.sum(), list(params.values()), allow_unused=True)
    single = [
        torch.autograd.grad(made.loss({n: v[e] for n, v in params.items()}, own[e]), list(params.values()), allow_unused=True)
        for e in range(MEMBERS)
    ]
    kept = [i for i, g in enumerate(folded) if g is not None]
    assert all(one[i] is not None for one in single for i in kept)
    return (torch.cat([folded[i].flatten() for i in kept]), torch.cat([sum(one[i] for one in single).flatten() for i in kept]))


@pytest.mark.parametrize("name", SHARING)
def test_gradients_are_those_of_one_after_the_other(name):
    folded, single = _pair("bert", zoo.DELTAS[name], torch.float64, trained=True)
    assert torch.linalg.norm(single) > 1e-3
    assert torch.linalg.norm(folded - single) <= 1e-13 * torch.linalg.norm(single)
    exact = _pair("bert", zoo.DELTAS[name], torch.float64)[1]
    folded, single = _pair("bert", zoo.DELTAS[name], torch.float32)
    # in float32 both round: the fold by no more than twice as much as one after the other
    assert torch.linalg.norm(folded - exact) <= 2 * torch.linalg.norm(single - exact) <= 1e-5 * torch.linalg.norm(exact)


@pytest.mark.parametrize("kind", [kind for kind in zoo.KINDS if kind != "bert"])
@pytest.mark.parametrize("name", ["bitfit", "lora", "mix"])
def test_the_fold_holds_in_every_architecture(kind, name):
    folded, single = _pair(kind, zoo.DELTAS[name], torch.float64)
    assert torch.linalg.norm(folded - single) <= 1e-12 * torch.linalg.norm(single)


@pytest.mark.parametrize("name", [name for name in zoo.DELTAS if name not in SHARING])
def test_weight_matrices_cannot_be_shared(name):
    made = subject(zoo.backbone_of("bert"), zoo.DELTAS[name], Readout(torch.zeros(3, 16).double(), torch.zeros(3).double()), 0)
    assert not foldable(made)
    with pytest.raises(ValueError, match="one after the other"):
        fold(made, {n: z.expand(2, *z.shape) for n, z in made.initial.items()})


def _runs(delta, subspaces, **options):
    weight = torch.randn(3, 16, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    made = subject(zoo.backbone_of("bert"), delta, Readout(weight, torch.zeros(3).double()), 0)
    shapes = {n: tuple(z.shape) for n, z in made.initial.items()}
    held = {"held": zoo.batch_of(seed=7)}
    return made, train_subspaces(made, subspaces(shapes), zoo.batch_of(size=6), steps=5, held=held, **options)


@pytest.mark.parametrize("name", ["lora-qv", "some-weights"])
def test_members_train_as_they_would_alone(name):
    whole = lambda shapes: [Whole(shapes)] * 3  # noqa: E731
    options = {"penalty": 0.1, "batch": 4}
    made, run = _runs(zoo.DELTAS[name], whole, rates=[0.01, 0.1, 0.1], seeds=[0, 0, 1], **options)
    assert run.folded == (name == "lora-qv") and run.losses.shape == (5, 3) and run.finite.all()
    assert not torch.allclose(run.theta[1], run.theta[2])
    for e, (rate, seed) in enumerate([(0.01, 0), (0.1, 0), (0.1, 1)]):
        _, alone = _runs(zoo.DELTAS[name], lambda shapes: [Whole(shapes)], rates=[rate], seeds=[seed], **options)
        torch.testing.assert_close(run.theta[e], alone.theta[0], rtol=1e-6, atol=1e-9)
        torch.testing.assert_close(run.objective[e], alone.objective[0])
        assert run.scores["held"][e] == alone.scores["held"][0]
    step = Whole({n: tuple(v.shape) for n, v in made.initial.items()}).apply(run.theta[0])
    z = {n: v + step[n] for n, v in made.initial.items()}
    away = sum((z[n] - v).square().sum() for n, v in made.initial.items())
    torch.testing.assert_close(run.objective[0], made.loss(z, zoo.batch_of(size=6)) + 0.05 * away)


def test_a_run_that_diverges_is_marked_and_the_others_go_on():
    _, run = _runs(LoRA(2), lambda shapes: [Whole(shapes)] * 2, rates=[1e200, 0.05])
    assert run.finite.tolist() == [False, True]
    assert run.losses[0].isfinite().all() and run.losses[-1, 0].isnan() and run.objective[0].isnan()
    assert run.scores["held"][0].isnan() and run.scores["held"][1].isfinite()
    assert run.objective[1] < run.losses[0, 1]


def test_the_step_is_the_optimizer_s():
    z = {"z": torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64)}
    run = descend(lambda p, _: (p["z"] - 5).pow(4).sum(-1), z, [Whole({"z": (3,)})], rates=[0.3], steps=7)
    theta = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    adam = torch.optim.Adam([theta], lr=0.3, eps=1e-12)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(adam, 7)
    for _ in range(7):
        adam.zero_grad()
        (z["z"] + theta - 5).pow(4).sum().backward()
        adam.step()
        schedule.step()
    torch.testing.assert_close(run.theta[0], theta.detach())


@pytest.mark.parametrize(
    "options, sentence",
    [
        ({"rates": [0.1]}, "a positive rate for each of 2"),
        ({"rates": [0.1, -1.0]}, "a positive rate for each of 2"),
        ({"rates": [0.1, 0.1], "batch": 3}, "a seed per run"),
        ({"rates": [0.1, 0.1], "batch": 99, "seeds": [0, 1]}, "between 1 and 6 examples"),
    ],
)
def test_bad_input_is_refused(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        _runs(LoRA(2), lambda shapes: [Whole(shapes)] * 2, **options)
