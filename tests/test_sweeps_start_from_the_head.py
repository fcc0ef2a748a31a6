"""Sweeps start from a head at zero: nothing but the head moves the logits there, and options reach the delta they name."""

import numpy as np
import pytest
import torch
from seeds import shifted

from tuning import BitFit, Full, LoRA, Readout, encode, load, subject
from tuning.subjects import READOUT_PARAMETERS
from tuning.tasks import load as load_task
from validations import study
from validations.claims.shared.setting import Setting
from validations.claims.sweep import experiment as sweep
from validations.claims.sweep.experiment import _edges, headed, responding
from validations.plan import options_of


@pytest.mark.parametrize("delta", [LoRA(rank=2), BitFit()], ids=lambda d: type(d).__name__)
def test_only_the_head_moves_the_logits_at_the_start(delta):
    backbone = load("nano")
    batch = encode(backbone, load_task("subject-number", sizes={"train": 12, "test": 12}).splits["train"], length=16)
    made = headed(subject(backbone, delta, Readout(torch.ones(2, backbone.width), torch.ones(2)), seed=shifted(0)))
    assert set(responding(made)) == set(READOUT_PARAMETERS) and made.size == subject(
        backbone, delta, made.readout, 0
    ).size + 2 * (128 + 1)
    generator = torch.Generator().manual_seed(0)
    moves = {name: torch.randn(p.shape, generator=generator) for name, p in made.initial.items()}

    def response(names):
        pushed = {name: move if name in names else torch.zeros_like(move) for name, move in moves.items()}
        return torch.func.jvp(lambda p: made.outputs(p, batch), (made.initial,), (pushed,))[1]

    assert not made.outputs(made.initial, batch).any()
    assert (
        response(READOUT_PARAMETERS).abs().max() > 0.1 and not response([n for n in moves if n not in READOUT_PARAMETERS]).any()
    )


@pytest.mark.slow
def test_chains_of_the_learning_coefficient_are_those_run_one_by_one(monkeypatch):
    """Members that fold into one pass give the chains of the plain loss; full tuning, which cannot fold, has chains too."""
    for name, value in {"BURN": 1, "SAMPLES": 5, "PART": 6}.items():
        monkeypatch.setattr(sweep, name, value)
    backbone = load("nano")
    batch = encode(backbone, load_task("subject-number", sizes={"train": 12, "test": 12}).splits["train"], length=16)

    def chains(delta):
        made = headed(subject(backbone, delta, Readout(torch.ones(2, backbone.width), torch.ones(2)), seed=shifted(0)))
        generator = torch.Generator().manual_seed(1)
        trained = {name: p + 0.1 * torch.randn(p.shape, generator=generator) for name, p in made.initial.items()}
        return sweep._coefficient(Setting({"delta": made}, batch, batch, 0, 0.0, 0.0, 0), made, trained)

    folded = chains(LoRA(rank=2))
    monkeypatch.setattr(sweep, "foldable", lambda _: False)
    alone = chains(LoRA(rank=2))
    assert folded["curvature"] == alone["curvature"] > 0
    np.testing.assert_allclose(folded["chains"], alone["chains"], rtol=1e-3)
    assert len(chains(Full())["chains"]) == 4


def test_an_edge_is_a_rate_that_ends_the_grid_and_beats_its_neighbour():
    def rows(*scores):
        return [{"place": 0, "step": k, "dimension": 8, "score": x} for k, x in enumerate(scores)]

    def found(chosen, *scores):
        return _edges(rows(*scores), [chosen], lambda row: row["score"], 0.005)

    assert found(1, 0.1, 0.9, 0.2) == [] and found(2, 0.1, 0.2, 0.9) == [8] and found(0, 0.9, 0.2, 0.1) == [8]
    assert found(2, 0.1, 0.9, 0.901) == [] and found(0, 0.3) == [8]


def test_an_option_in_a_delta_s_table_is_that_delta_s_alone():
    read = study.read("dimension")
    own, others = (options_of(read, read.parts["sweep"], name) for name in ("full", "lora"))
    assert own["seeds"] == 2 and "seeds" not in others and "full" not in others
    assert own["penalty"] == others["penalty"] == 0.003 and np.all(np.diff(own["dimensions"]) > 0)
