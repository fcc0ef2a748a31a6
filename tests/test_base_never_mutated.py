"""Nothing done with a delta changes the frozen model, not even an error in the middle of a pass."""

import copy
import dataclasses
import hashlib
import threading

import pytest
import torch
import zoo
from seeds import shifted

from tuning import Edits, LoRA, Prefix, encode, fit, minibatch, penalized, wrap
from tuning.backbones import frame, hidden
from tuning.edits import current


def digest(model: torch.nn.Module) -> str:
    """The content of all parameters and buffers, and whether any of them is trained."""
    made = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        made.update(name.encode() + value.detach().numpy().tobytes())
    made.update(str([p.requires_grad or p.grad is not None for p in model.parameters()]).encode())
    return made.hexdigest()


@pytest.mark.parametrize("kind", ["bert", "llama"])
@pytest.mark.parametrize("name", zoo.DELTAS)
def test_use_and_training_leave_the_base_alone(kind, name):
    backbone, batch = zoo.backbone_of(kind), zoo.batch_of()
    made = zoo.subject_of(backbone, zoo.DELTAS[name])
    before, frozen = digest(backbone.model), made.steered({}, batch)
    params = {key: value.requires_grad_() for key, value in zoo.moved(made.initial).items()}
    made.rollout(params, batch)
    made.loss(params, batch).backward()
    assert all(value.grad is not None and value.grad.abs().max() > 0 for value in params.values() if value.numel() > 64)
    fit(penalized(made, [batch], 0.1), made.initial, max_evaluations=4)
    minibatch(made, batch, steps=2, batch_size=3, seed=shifted(0))
    assert digest(backbone.model) == before
    assert torch.equal(made.steered({}, batch), frozen)


def test_an_error_in_an_edit_leaves_no_trace():
    backbone, batch = zoo.backbone_of("gpt2"), zoo.batch_of()
    before, frozen = digest(backbone.model), hidden(backbone, batch, frame(backbone))

    def broken(h, y):
        raise RuntimeError("planted")

    weights = {"h.0.mlp.c_fc.bias": torch.ones(24, dtype=torch.float64)}
    with pytest.raises(RuntimeError, match="planted"):
        hidden(backbone, batch, frame(backbone, Edits(ports={"1.mlp": (broken,)}, weights=weights)))
    assert current() is None and digest(backbone.model) == before
    assert torch.equal(hidden(backbone, batch, frame(backbone)), frozen)


def test_edits_nest():
    """A forward pass inside an edit of another one sees only its own edits."""
    backbone, batch = zoo.backbone_of("bert"), zoo.batch_of()
    frozen, seen = hidden(backbone, batch, frame(backbone)), []

    def nested(h, y):
        seen.append(hidden(backbone, batch, frame(backbone)))
        return y + 1.0

    outer = hidden(backbone, batch, frame(backbone, Edits(ports={"0.mlp": (nested,)})))
    assert torch.equal(seen[0], frozen) and not torch.equal(outer, frozen)


def test_threads_do_not_share_edits():
    backbone, batch = zoo.backbone_of("bert"), zoo.batch_of()
    subjects = [zoo.subject_of(backbone, delta) for delta in (LoRA(2), Prefix(2), zoo.DELTAS["full"])]
    params = [zoo.moved(made.initial) for made in subjects]
    expected = [made.outputs(p, batch) for made, p in zip(subjects, params, strict=True)]
    wrong = []

    def work(i: int) -> None:
        for _ in range(10):
            if not torch.equal(subjects[i].outputs(params[i], batch), expected[i]):
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_an_edit_of_an_unknown_weight_is_refused():
    backbone, batch = zoo.backbone_of("bert"), zoo.batch_of()
    with pytest.raises(ValueError, match="expected edits of this backbone's parameters"):
        hidden(backbone, batch, frame(backbone, Edits(weights={"nowhere": torch.zeros(1)})))
    with pytest.raises(ValueError, match="expected a tokenizer"):
        encode(backbone, ["text"])


def test_wrapping_twice_edits_once():
    model, batch = zoo.model_of("bert"), zoo.batch_of()
    first = wrap(model)
    edits = Edits(ports={"0.mlp": (lambda h, y: y + 1.0,)})
    once = hidden(first, batch, frame(first, edits))
    second = wrap(model)
    assert first.fingerprint == second.fingerprint
    assert torch.equal(hidden(second, batch, frame(second, edits)), once)


def test_a_copy_that_was_not_wrapped_is_refused_rather_than_left_unedited():
    backbone, batch = zoo.backbone_of("bert"), zoo.batch_of()
    copied = dataclasses.replace(backbone, model=copy.deepcopy(backbone.model))
    with pytest.raises(ValueError, match="got a copy of one"):
        hidden(copied, batch, frame(copied, Edits(ports={"0.mlp": (lambda h, y: y + 1.0,)})))
    again = wrap(copied.model)
    edits = Edits(ports={"0.mlp": (lambda h, y: y + 1.0,)})
    assert torch.equal(hidden(again, batch, frame(again, edits)), hidden(backbone, batch, frame(backbone, edits)))
