"""A prompt in a subspace: linear in its code, found on prompts of other tasks, and read back from its file or refused."""

import os

import pytest
import torch
import zoo
from safetensors.torch import load_file, save_file

from tuning import IntrinsicPrompt, Prompt
from tuning.decomposition import Solved, intrinsic_prompt
from tuning.deltas import parse

LENGTH, DIRECTIONS = 2, 2


def prompts(backbone, batch):
    """Three prompts that were moved along two directions of their rows, from one start."""
    subject = zoo.subject_of(backbone, Prompt(LENGTH))
    generator = torch.Generator().manual_seed(4)
    along = torch.randn(DIRECTIONS, LENGTH, backbone.width, generator=generator, dtype=torch.float64)
    start = subject.initial["embedding.prompt"]
    for weights in torch.tensor([[1.0, 0.5], [-0.5, 1.0], [0.7, -0.9]], dtype=torch.float64):
        yield Solved(subject, {"embedding.prompt": start + torch.tensordot(weights, along, 1)}, batch)


def test_rows_are_the_centre_and_the_basis_times_the_code():
    backbone = zoo.backbone_of("bert")
    delta = IntrinsicPrompt(3, LENGTH, projection=5)
    basis, centre = delta.frozen(backbone)
    code = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    rows = delta.edits(backbone, {"embedding.code": code}).prompt
    torch.testing.assert_close(rows, centre + sum(c * basis[..., k] for k, c in enumerate(code)), rtol=1e-12, atol=1e-12)
    assert torch.equal(centre, Prompt(LENGTH).initial(backbone, 5)["embedding.prompt"])
    assert not torch.equal(basis, IntrinsicPrompt(3, LENGTH, projection=6).frozen(backbone)[0])


def test_a_subspace_found_on_prompts_holds_them_and_is_read_back(tmp_path):
    """The rows of every prompt lie in it to a tenth of their displacement; a random one of that size holds less than a third."""
    backbone, batch = zoo.backbone_of("bert"), zoo.batch_of()
    solved = list(prompts(backbone, batch))
    delta = intrinsic_prompt(
        tmp_path / "found.safetensors", solved, DIRECTIONS, seed=1, steps=400, rate=0.05, reconstruction=100.0
    )
    assert parse(str(f"intrinsic-prompt:dimension=2,length=2,subspace={delta.subspace}")) == delta
    subject = zoo.subject_of(backbone, delta)
    torch.testing.assert_close(
        subject.outputs(subject.initial, batch),
        solved[0].subject.outputs(solved[0].subject.initial, batch),
        rtol=1e-12,
        atol=1e-12,
    )

    def left(one: IntrinsicPrompt) -> float:
        basis = one.frozen(backbone)[0].flatten(0, 1).double()
        moved = torch.stack([s.displacement for s in solved], 1)
        return float((moved - basis @ torch.linalg.lstsq(basis, moved).solution).norm() / moved.norm())

    assert left(delta) < 0.1 and left(IntrinsicPrompt(DIRECTIONS, LENGTH)) > 2 / 3


def test_a_file_that_is_none_or_of_another_prompt_is_refused(tmp_path):
    backbone, path = zoo.backbone_of("bert"), tmp_path / "some.safetensors"
    delta = IntrinsicPrompt(2, LENGTH, str(path))
    with pytest.raises(ValueError, match="expected a safetensors file with a basis and a centre"):
        delta.initial(backbone, 0)
    path.write_bytes(b"nothing")
    with pytest.raises(ValueError, match="expected a safetensors file with a basis and a centre"):
        delta.initial(backbone, 0)
    save_file({"basis": torch.zeros(LENGTH, 3, 2), "centre": torch.zeros(LENGTH, 3)}, path)
    assert load_file(path)["basis"].shape == (LENGTH, 3, 2)
    with pytest.raises(ValueError, match="got \\(2, 3, 2\\) and \\(2, 3\\)"):
        delta.initial(backbone, 0)


def test_a_file_that_is_written_anew_is_read_anew(tmp_path):
    backbone, path = zoo.backbone_of("bert"), tmp_path / "some.safetensors"
    delta, centre = IntrinsicPrompt(1, LENGTH, str(path)), torch.zeros(LENGTH, backbone.width)
    for number in (1.0, 2.0):
        save_file({"basis": torch.full((LENGTH, backbone.width, 1), number), "centre": centre}, path)
        os.utime(path, ns=(0, int(number)))
        assert delta.frozen(backbone)[0].unique().tolist() == [number]


def test_prompts_of_different_starts_share_no_subspace(tmp_path):
    backbone, batch = zoo.backbone_of("bert"), zoo.batch_of()
    one = next(prompts(backbone, batch))
    other = Solved(zoo.subject_of(backbone, Prompt(LENGTH + 1)), {}, batch)
    with pytest.raises(ValueError, match="started from the same rows"):
        intrinsic_prompt(tmp_path / "x.safetensors", [one, other], 1, seed=0)
