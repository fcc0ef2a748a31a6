"""The race of control solvers: sweeps are exact derivatives, passes are counted as made, and linear plants are foretold."""

import dataclasses

import numpy as np
import pytest
import torch

from probes.reach.response import response
from tuning.preparation import backbone_of, prepare, task_of
from tuning.training import flatten, unflatten
from validations import plan
from validations.claims.shared.linearisation import linearise
from validations.claims.shared.training import at_rest
from validations.claims.solvers.ensemble import of_network, of_tangent
from validations.claims.solvers.experiment import _told
from validations.claims.solvers.plants import linear
from validations.claims.solvers.race import SOLVERS, Rules, race

RULES = Rules(budget=40, tolerance=1e-3, lengths=(2, 6), rates=(0.1, 0.05), batch_size=16, stop=6)


@pytest.fixture(scope="module")
def nano(tmp_path_factory):
    made = prepare(
        backbone_of("nano"), task_of("tense", str(tmp_path_factory.mktemp("data"))), seed=0, length=16, train=6, test=6
    )
    return made.subject(plan.delta({"kind": "PortBias"}), 0), made.train


def test_sweeps_of_the_network_are_its_derivatives(nano):
    """The response by C - 1 sweeps is that of `probes` up to what a text's classes share, in float32."""
    subject, batch = nano
    rest, ensemble = at_rest(subject), of_network(subject, batch)
    u = 0.05 * np.random.default_rng(0).standard_normal(flatten(rest).size)
    seen, params = ensemble.forward(u), unflatten(u, rest)
    whole = response(subject.steered, params, [batch]).numpy()
    contrasts = whole - whole[:, :1]
    assert np.abs(seen.response() - contrasts).max() < 1e-4 * np.abs(contrasts).max()
    leaves = {port: value.requires_grad_() for port, value in params.items()}
    slope = torch.autograd.grad(ensemble.mean_loss(leaves), list(leaves.values()))
    assert np.abs(seen.gradient() - torch.cat(slope).double().numpy()).max() < 1e-4 * np.abs(seen.gradient()).max()


def test_the_linearisation_at_rest_is_the_network_there(nano):
    subject, batch = nano
    rest, network = at_rest(subject), of_network(subject, batch)
    tangent = of_tangent(linearise(subject.steered, rest, batch), rest)
    u = flatten(rest)
    assert np.abs(tangent.forward(u).outputs - network.forward(u).outputs).max() < 1e-5
    assert np.abs(tangent.forward(u).gradient() - network.forward(u).gradient()).max() < 1e-5
    rows = torch.tensor([4, 1])
    for ensemble in (tangent, network):  # some texts of a batch, under shared controls
        assert np.abs(ensemble.outputs(ensemble.rest, rows).detach().numpy() - ensemble.forward(u).outputs[[4, 1]]).max() < 1e-5


@pytest.fixture(scope="module")
def raced():
    setting = linear(2, 0)
    subject, passes = setting.subjects["bias"], []
    ensemble = of_network(subject, setting.train)

    def counted(controls, rows):
        passes.append(1.0 if rows is None else len(rows) / len(ensemble.labels))
        return ensemble.outputs(controls, rows)

    found = race(dataclasses.replace(ensemble, outputs=counted), 0.3, RULES, 0)
    return setting, ensemble, found, passes


def test_no_solver_spends_more_than_its_budget(raced):
    _, _, found, passes = raced
    assert set(found.paths) == set(SOLVERS)
    for name, path in found.paths.items():
        assert path.costs.max() <= (max(RULES.lengths) if name == "adamw" else RULES.budget)
        assert path.objectives.min() >= found.best
    looks = len(found.paths["adamw"].controls)
    kept = sum(found.paths[name].rejected + len(found.paths[name].controls) for name in ("lq", "msa"))
    assert sum(passes) == pytest.approx(kept + found.paths["lbfgs"].costs[-1] + sum(RULES.lengths) + looks, abs=1)


def test_on_a_linear_network_the_forecast_is_the_race(raced):
    setting, ensemble, found, _ = raced
    rest = at_rest(setting.subjects["bias"])
    tangent = of_tangent(linearise(setting.subjects["bias"].steered, rest, setting.train), rest)
    told, measured = _told(race(tangent, 0.3, RULES, 0), tangent, 0.3), _told(found, ensemble, 0.3)
    assert told["costs"] == measured["costs"] and told["costs"]["lq"] == [2.0] * 4
    assert np.allclose(told["stopped"]["stationarity"], measured["stopped"]["stationarity"], rtol=1e-6)


def test_objectives_along_a_path_are_the_networks(raced):
    _, ensemble, found, _ = raced
    for path in found.paths.values():
        u, value = path.controls[-1], path.objectives[-1]
        again = ensemble.mean_loss(unflatten(u, ensemble.rest)).item() + 0.15 * float(u @ u)
        assert abs(again - value) < 1e-9
