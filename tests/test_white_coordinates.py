"""Adapters in coordinates in which what they read is white: the same function, white states, the same optimum."""

import numpy as np
import pytest
import torch
import zoo
from control_problems import relative

from tuning.deltas import Adapter
from validations.claims.feedback.plants import feedback_setting
from validations.claims.shared.setting import Setting
from validations.claims.shared.training import at_start, attention_ports, train
from validations.claims.shared.whitening import RIDGE, Whitening, train_white


def made():
    subject = zoo.subject_of(zoo.backbone_of("bert"), Adapter(3, ports=("attention",)))
    return subject, zoo.batch_of(), attention_ports(subject)


def test_an_adapter_and_its_coordinates_are_one_function():
    subject, batch, ports = made()
    white, params = Whitening.of(subject, batch, ports), zoo.moved(subject.initial)
    back = white.params(white.coordinates(params))
    assert all(relative(back[name].numpy(), value.numpy()) < 1e-9 for name, value in params.items())


@pytest.mark.parametrize("sigma", [0.0, 0.5])
def test_what_is_read_is_white_on_training_text(sigma):
    """The bottleneck's inputs D z + b with D = I have covariance I less the ridge, noise of that deviation included."""
    subject, batch, ports = made()
    white = Whitening.of(subject, batch, ports, [sigma] * len(ports))
    base = subject.rollout(at_start(subject), batch).base
    mask = batch.mask.double()
    weights = (mask / mask.sum(1, keepdim=True) / len(mask)).flatten()
    for port in ports:
        L = white.roots[port]
        z = torch.linalg.solve_triangular(L, (base[port] - white.centres[port]).flatten(0, 1).T, upper=False).T
        noise = torch.linalg.inv(L) @ torch.linalg.inv(L).T
        y = (base[port] - white.centres[port]).flatten(0, 1)
        mean = (weights @ y.square()).mean()
        covariance = z.T @ (weights[:, None] * z) + (sigma**2 + RIDGE * mean) * noise
        assert (weights @ z).abs().max() < 1e-8
        assert relative(covariance.numpy(), np.eye(len(L))) < 1e-8


def test_both_searches_end_at_the_same_optimum():
    """On a plant whose problem has one optimum value, own coordinates and white ones meet it."""
    setting = feedback_setting(0, 0)
    adapter, ports = setting.subjects["adapter"], attention_ports(setting.subjects["adapter"])
    setting = Setting(**{**vars(setting), "tolerance": 1e-5, "evaluations": 4000})
    own, white = (
        train(setting, lambda p: adapter.priced_loss(p, setting.train, 0.3), at_start(adapter)),
        train_white(setting, lambda p: adapter.priced_loss(p, setting.train, 0.3), adapter, ports),
    )
    assert own.converged and white.converged
    assert abs(own.value - white.value) < 1e-6
    reached = adapter.priced_loss(white.params, setting.train, 0.3).item()
    assert abs(reached - white.value) < 1e-12
