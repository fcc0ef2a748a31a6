"""Open loop against closed loop at the same ports under the same running cost: bias, prefix, adapter."""

from functools import partial

import numpy as np
import torch

from theory.control import output_lq
from theory.ensemble import ensemble_lq

from ...statistics import cosine
from ...store import Record
from ..shared.laws import means
from ..shared.linearisation import Linearisation, departure, linearise, off, penalty
from ..shared.setting import Experiment, Setting, own_rng
from ..shared.training import (
    at_rest,
    at_start,
    attention_ports,
    cost,
    cross_entropy,
    l2,
    logits,
    loss_at,
    penalised,
    signals,
    steered_loss,
    train,
)


def gains(lin: Linearisation, ports: tuple[str, ...], r: float, outputs: np.ndarray, rank: int) -> dict[str, np.ndarray]:
    """Return each port's LQ gain, its gradient rival, and the observed subspace they are compared in.

    K_t = (1/r) G_t' (I + M W_t)^-1 M G_t averaged over examples, W_t = (1/r) sum_{s >= t} G_s G_s', M the softmax curvature;
    the rival applies one gradient step, (1/r) G_t' M G_t. With B = I every state is controllable, so the controllable and
    observable subspace is the span of the leading right singular vectors of the stacked G_t.
    """
    G = [lin.columns(port) for port in ports]
    M = lin.loss.hessian(outputs)
    regulator = output_lq(G, M, lin.loss.gradient(outputs), r)
    found = {}
    for t, port in enumerate(ports):
        basis = np.linalg.svd(G[t].reshape(-1, G[t].shape[-1]), full_matrices=False)[2][:rank].T
        seen = G[t] @ basis
        found[f"basis.{port}"] = basis
        found[f"gain.{port}"] = np.mean(basis.T @ regulator.gain(t, seen), axis=0)
        found[f"step.{port}"] = np.mean(seen.transpose(0, 2, 1) @ M @ seen, axis=0) / r
    return found


def predict(setting: Setting) -> Record:
    """Return J*_shared, J*_feedback and the LQ gains at the attention ports, from the frozen model alone.

    Shared: one vector per port for every example (ensemble LQ). Feedback: u_it = k_t + K_t phi_t(h_it) with phi the leading
    whitened principal directions of the pooled port state, as many as the adapter's bottleneck; whitening makes the mean
    energy of u equal to |k|^2 + |K|^2, so both are ensemble LQ problems with the same running cost. The value J is
    cross-entropy plus (r/2) mean energy, evaluated on held-out text. eta is the larger of the two laws' own departures from
    linearity, each law acting in the real network; that of another delta says nothing about either.
    """
    subject = setting.subjects["bias"]
    ports = attention_ports(subject)
    origin = at_rest(subject, ports)
    lin, test = (linearise(subject.steered, origin, batch) for batch in (setting.train, setting.test))
    r = penalty(setting, lin, subject.steered, origin)
    shared = lin.optimum(r)
    with torch.no_grad():
        states = [
            {p: means(s.base[p], b.mask) for p in ports}
            for s, b in ((subject.rollout(subject.initial, b), b) for b in (setting.train, setting.test))
        ]
    width = int(setting.options.get("bottleneck", 4))
    features = {p: _whitened(states[0][p], states[1][p], width) for p in ports}
    fit_features, test_features = ({p: pair[k] for p, pair in features.items()} for k in (0, 1))
    G = _feedback_response(lin, ports, fit_features)
    G_test = _feedback_response(test, ports, test_features)
    feedback = ensemble_lq(G, lin.y0, lin.loss, r)
    own = _own_signals(feedback.z, ports, width, test_features)
    laws = gains(lin, ports, r, lin.y0, int(setting.options.get("rank", 6)))
    value_shared = cross_entropy(test.y0 + test.G @ shared.z, test.labels) + 0.5 * r * float(shared.z @ shared.z)
    energy_test = sum(np.mean(np.sum(u**2, axis=1)) for u in own.values())
    value_feedback = cross_entropy(test.y0 + G_test @ feedback.z, test.labels) + 0.5 * r * float(energy_test)
    moved = logits(subject.steered, signals(shared.z, ports, subject), setting.test)
    closed = logits(subject.steered, {p: torch.as_tensor(u, dtype=subject.dtype) for p, u in own.items()}, setting.test)
    etas = {
        "eta_shared": departure(test, shared, moved),
        "eta_feedback": off(closed - test.y0, sum(np.einsum("ncd,nd->nc", test.columns(p), u) for p, u in own.items())),
    }
    directions = {port: _task_direction(lin, port) for port in ports}
    return Record(
        {
            "r": r,
            "ports": list(ports),
            "eta": max(etas.values()),
            **etas,
            "value_shared": value_shared,
            "value_feedback": value_feedback,
            "gap": value_shared - value_feedback,
            "gap_train": float(shared.value - feedback.value),
            "reference_loss": cross_entropy(test.y0, test.labels),
        },
        {
            **laws,
            **{f"direction.{port}": g for port, g in directions.items()},
            "open": _sensitivity(test, directions),
        },
    )


def _feedback_response(lin: Linearisation, ports: tuple[str, ...], features: dict[str, np.ndarray]) -> np.ndarray:
    """Return dy_i / d(k, K) = G_it (x) phi_t(h_i), shape (N, C, sum_t (1 + q) d)."""
    blocks = [np.einsum("nq,ncd->ncqd", features[p], lin.columns(p)).reshape(*lin.G.shape[:2], -1) for p in ports]
    return np.concatenate(blocks, axis=-1)


def _own_signals(z: np.ndarray, ports: tuple[str, ...], width: int, features: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return each example's signal at each port, u_i = k + K phi_i, shape (N, d)."""
    return {p: features[p] @ own.reshape(1 + width, -1) for p, own in zip(ports, np.split(z, len(ports)), strict=True)}


def _task_direction(lin: Linearisation, port: str) -> np.ndarray:
    """Return the unit mean gradient of the training loss with respect to the control at a port."""
    g = np.einsum("ncm,nc->m", lin.columns(port), lin.loss.gradient(lin.y0))
    return g / max(np.linalg.norm(g), 1e-30)


def _sensitivity(response: Linearisation, directions: dict[str, np.ndarray]) -> np.ndarray:
    """Return for each port the mean over examples of |dy/ds|, for class contrasts y and states s off the task's direction."""
    found = []
    for port, g in directions.items():
        block = response.columns(port)
        block = block - block.mean(1, keepdims=True)
        found.append(np.mean(np.linalg.norm(block - (block @ g)[..., None] * g, axis=(1, 2))))
    return np.array(found)


def _whitened(train: np.ndarray, test: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (1, leading principal directions) of the states, whitened on the training states: mean phi phi' = identity."""
    mean = train.mean(0)
    _, s, vt = np.linalg.svd(train - mean, full_matrices=False)
    map_ = vt[:count].T * (np.sqrt(len(train)) / s[:count])
    return tuple(np.hstack([np.ones((len(x), 1)), (x - mean) @ map_]) for x in (train, test))


def measure(setting: Setting, predicted: Record) -> Record:
    """Return what the trained bias, prefix and adapter reach under loss + (r/2) signal energy, and the adapter's own gain."""
    r, ports = predicted.values["r"], tuple(predicted.values["ports"])
    record: dict = {"r": r, "eta": predicted.values["eta"], "predicted": predicted.values["gap"]}
    bias = setting.subjects["bias"]
    origin = at_rest(bias, ports)
    fitted = train(setting, penalised(partial(steered_loss, bias), setting.train, r, origin), origin)
    spent = float(l2(fitted.params, origin))
    record["bias"] = {
        "value": loss_at(bias.steered, fitted.params, setting.test) + 0.5 * r * spent,
        "energy": spent,
        **cost(fitted),
    }
    trained = {}
    for name in ("prefix", "adapter"):
        subject = setting.subjects[name]
        fitted = train(
            setting,
            lambda p, s=subject: s.priced_loss(p, setting.train, r),
            at_start(subject),
        )
        with torch.no_grad():
            energy = float(subject.energy(fitted.params, setting.test))
        loss = loss_at(subject.outputs, fitted.params, setting.test)
        record[name] = {"value": loss + 0.5 * r * energy, "energy": energy, "loss": loss, **cost(fitted)}
        trained[name] = fitted.params
    adapter = setting.subjects["adapter"]
    with torch.no_grad():
        rolled = adapter.rollout(trained["adapter"], setting.test)
    a = predicted.arrays
    rng = own_rng(setting, 103)
    own, lq, step, rotated = [], [], [], []
    for port in ports:
        basis = a[f"basis.{port}"]
        own_gain = adapter.gain(trained["adapter"], port, rolled.base[port], setting.test.mask)
        gain = basis.T @ own_gain.detach().double().cpu().numpy() @ basis
        own.append(gain)
        lq.append(-a[f"gain.{port}"])
        step.append(-a[f"step.{port}"])
        turns = [_haar(len(gain), rng) for _ in range(64)]
        rotated.append([q @ gain @ q.T for q in turns])
    record["cosine"] = cosine(np.stack(own), np.stack(lq))
    record["cosine_gradient"] = cosine(np.stack(own), np.stack(step))
    null = [cosine(np.stack([r_[k] for r_ in rotated]), np.stack(lq)) for k in range(64)]
    record["cosine_rotated"] = float(np.quantile(null, 0.975))
    closed = linearise(lambda z, b: adapter.disturbed(z, trained["adapter"], b), origin, setting.test)
    directions = {port: a[f"direction.{port}"] for port in ports}
    record["sensitivity"] = float(np.mean(_sensitivity(closed, directions) / a["open"]))
    return Record(record, {})


def _haar(n: int, rng: np.random.Generator) -> np.ndarray:
    q, upper = np.linalg.qr(rng.standard_normal((n, n)))
    return q * np.sign(np.diag(upper))


EXPERIMENT = Experiment(
    "loop",
    "bias, prefix and adapter at the same ports",
    ("bias", "prefix", "adapter"),
    predict,
    measure,
    weight=6.0,
    by_token=True,
)
