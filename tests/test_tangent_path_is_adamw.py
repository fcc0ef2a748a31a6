"""AdamW on the tangent model is AdamW: torch's own on a linear model, and the network's where that is linear in its numbers."""

import numpy as np
import pytest
import torch
from seeds import shifted

from theory import CrossEntropy
from theory.adam import adamw_path
from theory.ensemble import ensemble_lq, kernel_lq
from validations.claims.practice.experiment import measure, predict
from validations.claims.practice.plants import fixed_features, saturating
from validations.claims.practice.runs import ends, extrapolated, steps_to


@pytest.mark.parametrize("decay, clip", [(0.0, np.inf), (0.1, np.inf), (0.0, 0.05)])
def test_a_path_is_torchs(decay, clip):
    rng = np.random.default_rng(shifted(0))
    G, y0, origin = rng.standard_normal((7, 3, 5)), rng.standard_normal((7, 3)), rng.standard_normal(5)
    labels, rows = rng.integers(0, 3, 7), [rng.permutation(7)[:4] for _ in range(12)]
    rates, shares = [0.01, 0.1], np.linspace(0.2, 1.0, 12).tolist()

    def slopes(taken, shift):
        loss = CrossEntropy(np.tile(labels[taken], len(shift)))
        return loss.gradient((y0[taken] + shift).reshape(-1, 3)).reshape(shift.shape)

    run = list(adamw_path(G, slopes, origin, rows, rates, shares, decay=decay, clip=clip))
    for member, rate in enumerate(rates):
        z = torch.tensor(origin, requires_grad=True)
        optimizer = torch.optim.AdamW([z], lr=rate, weight_decay=decay)
        for taken, share, (met, _) in zip(rows, shares, run, strict=True):
            y = torch.tensor(y0[taken]) + torch.tensor(G[taken]) @ (z - torch.tensor(origin))
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(y, torch.tensor(labels[taken])).backward()
            torch.nn.utils.clip_grad_norm_([z], clip)
            optimizer.param_groups[0]["lr"] = rate * share
            optimizer.step()
            np.testing.assert_allclose(met[member] + origin, z.detach().numpy(), atol=1e-9)


def test_rates_must_be_positive():
    with pytest.raises(ValueError, match=r"list of positive rates, got \[0.0\]"):
        next(adamw_path(np.zeros((1, 1, 1)), None, np.zeros(1), [np.array([0])], [0.0], [1.0]))


@pytest.mark.parametrize("started", [False, True])
def test_the_kernel_alone_gives_the_ensembles_optimum(started):
    rng = np.random.default_rng(shifted(1))
    G, y0, labels = rng.standard_normal((9, 3, 40)), rng.standard_normal((9, 3)), rng.integers(0, 3, 9)
    loss, r = CrossEntropy(labels), 0.3
    E = loss.basis(3)
    rows = np.einsum("ca,ncm->nam", E, G).reshape(-1, 40)
    start = rng.standard_normal((9, 2)) / 9 if started else None
    costates = kernel_lq(rows @ rows.T / r, y0, loss, start=start, tolerance=1e-10)
    found = ensemble_lq(G, y0, loss, r)
    np.testing.assert_allclose(-rows.T @ costates.ravel() / r, found.z, atol=1e-8)
    with pytest.raises(ValueError, match=r"of shape \(18, 18\) in the contrasts"):
        kernel_lq(np.eye(9), y0, loss)


def test_where_the_network_is_linear_the_forecast_is_the_run():
    setting = fixed_features(2, 0)
    predicted = predict(setting)
    measured = measure(setting, predicted)
    for told, run in zip(predicted.values["path"]["runs"], measured.values["runs"], strict=True):
        for foretold, look in zip(told["looks"], run["looks"][1:], strict=True):
            assert foretold["step"] == look["step"] and foretold["eta"] < 1e-9
            assert foretold["loss"] == pytest.approx(look["loss"], abs=1e-6)
            assert foretold["dev_loss"] == pytest.approx(look["dev_loss"], abs=1e-6)
            assert look["r2_shift"] > 1 - 1e-5  # held-out shifts are kept in half precision
    path, run = predicted.values["path"], measured.values
    assert (path["rate"], path["step"]) == (run["rate"], run["step"])


def test_where_it_saturates_the_forecast_ends():
    setting = saturating(1, 0)
    predicted = predict(setting)
    run, told = measure(setting, predicted).values["runs"][0], predicted.values["path"]["runs"][0]
    assert run["looks"][1]["r2_shift"] > 0.9 > 0.0 > run["looks"][-1]["r2_shift"]
    assert told["looks"][0]["r2"] > 0.9 > 0.5 > told["looks"][-1]["r2"]


def test_what_is_read_off_a_run():
    looks = [{"step": 0, "loss": 1.0}, {"step": 1, "loss": 0.9}, {"step": 10, "loss": 0.5}, {"step": 100, "loss": 0.0}]
    assert steps_to(looks, 1.0, 100) == pytest.approx(10 ** (1 + 0.8))  # 0.9 lies four fifths of the way from 0.5 to 1.0
    assert steps_to(looks, 1.0, 10, share=0.2) == pytest.approx(1.0)
    assert ends([1.0, 4.0, 16.0], [True, True, False]) == pytest.approx(8.0)
    assert ends([1.0, 4.0], [True, True]) is None and ends([2.0], [False]) == pytest.approx(2.0)
    power = [{"step": s, "loss": 1.0 - 0.01 * s} for s in (0, 1, 2, 4, 50)]
    assert extrapolated(power, 1.0, 50, 100) == pytest.approx(0.5)
