"""On a real network too full information, states, gates and one vector for all nest: at the heads of nano with a prefix."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from control_problems import relative

from theory import CrossEntropy, prefixed_attention
from theory.shared_gain import Ensemble, PatternValues, information_values, pattern_values
from tuning import Prefix, tasks
from tuning.backbones import frame, hidden, load
from tuning.edits import Edits, merge
from tuning.preparation import prepare

pytestmark = pytest.mark.slow  # all of them wait for a head to be fitted

SLOTS, TEXTS = 3, 24
SOLVED = 1e-9  # the dual's Newton steps end at 1e-12 of the first gradient; values of order one are flat there


@pytest.fixture(scope="module")
def network():
    """A task's texts, nano in double precision with a prefix of words in every attention, and what its heads read and put out."""
    backbone = load("nano", dtype=torch.float64)
    given = prepare(backbone, tasks.load("agreement"), seed=0, train=TEXTS, test=8, readout=200, length=24)
    return given.subject(Prefix(SLOTS), 0), given.train


def passed(subject, batch, signals=None, params=None):
    """The logits with signals (N, T, d) added to the heads' outputs, with what these and the heads' queries and keys were."""
    backbone, seen = subject.backbone, {}

    def kept(key, added=None):
        def enters(x):
            seen[key] = x.detach()
            return x if added is None else x + added

        return enters

    def leaves(key):
        def edit(x, y):
            seen[key] = y.detach()
            return y

        return edit

    blocks = range(backbone.blocks)
    listens = Edits(
        inputs={backbone.linear(b, "o").path: (kept(f"{b}.heads", (signals or {}).get(b)),) for b in blocks},
        outputs={backbone.linear(b, "q").path: (leaves(f"{b}.q"),) for b in blocks},
    )
    run = frame(backbone, merge([subject.edits(subject.initial | (params or {})), listens]), record=True, record_keys=True)
    states = hidden(backbone, batch, run)
    logits = torch.nn.functional.linear(
        subject.readout.features(backbone, states, batch.mask), subject.readout.weight, subject.readout.bias
    )
    return logits, seen, run


def heads(x, count):
    """(N, T, d) as (N, heads, T, width) in numpy."""
    return x.unflatten(-1, (count, -1)).transpose(1, 2).numpy()


def gates(subject, batch, seen, run, block):
    """The attention of every head of a block on the prefix's slots, (N, heads, T, SLOTS), by the exact identity."""
    q, (k, v) = heads(seen[f"{block}.q"], subject.backbone.heads), run.keys[block]
    keys, values = (subject.initial[f"{block}.attention.{what}"].transpose(0, 1)[None].numpy() for what in ("keys", "values"))
    mask = batch.mask.bool().numpy()[:, None, None]
    return prefixed_attention(
        q, k.detach().numpy(), v.detach().numpy(), *(np.repeat(x, len(q), 0) for x in (keys, values)), mask=mask
    )


def ensemble(subject, batch):
    """Every head a port: the response to signals there, the states that its block reads, and its gates."""
    backbone, real = subject.backbone, batch.mask.double()
    signals = {
        b: torch.zeros(*batch.mask.shape, backbone.width, dtype=torch.float64, requires_grad=True) for b in range(backbone.blocks)
    }
    logits, seen, run = passed(subject, batch, signals)
    rows = [torch.autograd.grad(logits[:, c].sum(), list(signals.values()), retain_graph=True) for c in range(logits.shape[1])]
    G, phi, on = [], [], []
    for block, slopes in enumerate(zip(*rows, strict=True)):
        slope = (torch.stack(slopes, 1) * real[:, None, :, None]).unflatten(-1, (backbone.heads, -1)).numpy()
        weights = gates(subject, batch, seen, run, block).weights
        for head in range(backbone.heads):
            G.append(slope[..., head, :])
            phi.append(run.inputs[f"{block}.attention"].detach().numpy())
            on.append(weights[:, head, :, :SLOTS])
    weights = real.numpy() / real.numpy().sum(1, keepdims=True)
    return Ensemble(tuple(G), tuple(phi), logits.detach().numpy(), weights), on


def test_values_nest_at_the_heads_of_nano(network):
    subject, batch = network
    seen, on = ensemble(subject, batch)
    cost = CrossEntropy(batch.labels.numpy())
    for r, noise in ((1.0, 0.0), (1e-2, 0.0), (1e-2, 0.3)):
        values: PatternValues = pattern_values(seen, on, cost, r, noise=noise)
        rungs = [values.full, values.state, values.gate, values.shared, float(cost.value(seen.y0).mean())]
        print(f"nano, r {r:g}, noise {noise:g}: full, state, gate, shared, nothing {[round(x, 6) for x in rungs]}")
        assert all(low <= high + SOLVED for low, high in zip(rungs, rungs[1:], strict=False))
        assert rungs[0] < rungs[1] - 1e-6 and rungs[1] < rungs[2] - 1e-6 and rungs[3] < rungs[4] - 1e-6  # and are worth something


def test_adapters_of_nano_lie_between_full_information_and_one_vector(network):
    subject, batch = network
    seen, _ = ensemble(subject, batch)
    means = [np.einsum("nt,ntq->q", seen.weights, f) / len(f) for f in seen.phi]
    basis = [
        np.linalg.svd((f - m)[seen.weights > 0], full_matrices=False)[2][:20].T for f, m in zip(seen.phi, means, strict=True)
    ]
    read = replace(seen, phi=tuple((f - m) @ B for f, m, B in zip(seen.phi, means, basis, strict=True)))
    values = information_values(read, CrossEntropy(batch.labels.numpy()), 1e-2)
    assert values.full <= values.feedback + SOLVED and values.feedback <= values.shared + SOLVED
    assert values.full < values.feedback < values.shared


def test_changed_values_of_a_prefix_move_the_heads_of_nano_by_gate_times_change(network):
    """The last block's heads, whose gates no change of values moves: the response of the gate's pattern is exact at any size."""
    subject, batch = network
    last = subject.backbone.blocks - 1
    name, generator = f"{last}.attention.values", torch.Generator().manual_seed(1)
    change = torch.randn(subject.initial[name].shape, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        _, before, run = passed(subject, batch)
        _, after, _ = passed(subject, batch, params={name: subject.initial[name] + change})
    moved = heads(after[f"{last}.heads"] - before[f"{last}.heads"], subject.backbone.heads)
    told = gates(subject, batch, before, run, last).weights[..., :SLOTS] @ change.transpose(0, 1)[None].numpy()
    real = batch.mask.numpy()[:, None, :, None]
    assert relative(moved * real, told * real) < 1e-12
