"""Disturbances at the attention ports: what noise costs, what the worst one does, what training against it gains."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from theory.control import output_lq
from theory.game import game
from theory.linear import root
from theory.loss import CrossEntropy
from tuning.training import fit

from ...store import Record
from ..shared.linearisation import Linearisation, linearise, off, penalty
from ..shared.regime import ETA_LIMIT
from ..shared.setting import Experiment, Params, Setting, own_rng
from ..shared.training import at_rest, at_start, attention_ports, cost, cross_entropy, first, logits, loss_at, train

# disturbances are scaled to a median eta of `ETA_LIMIT` on the training text, or to less:
SHIFT = 1.0  # root mean square shift of the class contrasts under noise, in logits
ATTACK = 10.0  # median shift under the worst disturbance, in logits
SCALES = (0.25, 0.5, 1.0)  # of the levels found so
SMALL = 0.1  # of the radius, where a finite disturbance measures the gain of the linearised loop
STEPS = 8  # of projected gradient ascent
RANK = 6  # leading disturbance directions of the whole text, from which the random ones are drawn
DRAWS = 64
BAND = (0.6, 1.05)  # of attained over predicted


def predict(setting: Setting) -> Record:
    """Return what the frozen network says about disturbances w_t added to the sublayer outputs at the attention ports.

    With G_i = dy_i/dw: the price of unit noise 1/2 mean_i tr(M_i G_i G_i'), M the softmax curvature at the logits that the
    shared LQ control is predicted to reach, and the same with the loop closed by each example's LQ law; the gain
    gamma_i = sigma_max(E' G_i), E a basis of the class contrasts, with its direction; and the gain gamma*_i of the disturbance
    game with the curvature at the frozen logits, the running cost r and full information. Also the levels of noise and of
    attack, the largest with median eta <= `ETA_LIMIT` that shift the logits no further than `SHIFT` and `ATTACK` by prediction.
    """
    subject = setting.subjects["prefix"]
    ports = attention_ports(subject)
    origin = at_rest(subject, ports)
    lin, test = (linearise(subject.steered, origin, batch) for batch in (setting.train, setting.test))
    r = penalty(setting, lin, subject.steered, origin)
    expected = test.y0 + test.G @ lin.optimum(r).z
    contrasts = lin.loss.basis(lin.y0.shape[1])
    _, gains, worst = np.linalg.svd(contrasts.T @ lin.G, full_matrices=False)
    noise = own_rng(setting, 106).standard_normal(worst[:, 0].shape)
    level = _level(setting, subject, ports, lin, noise, SHIFT / float(np.sqrt(np.mean(np.sum(gains**2, axis=1)))))
    radius = _level(setting, subject, ports, lin, worst[:, 0], ATTACK / float(np.median(gains[:, 0])))
    response = contrasts.T @ test.G
    gamma, direction = np.linalg.svd(response, full_matrices=False)[1:]
    players = int(setting.options.get("players", 24))
    curvature = contrasts.T @ test.loss.hessian(test.y0) @ contrasts
    scaled = np.swapaxes(root(curvature), 1, 2) @ response
    stacked = np.linalg.svd(response.reshape(-1, response.shape[-1]), full_matrices=False)[2][:RANK]
    quiet = own_rng(setting, 110).standard_normal(direction[:, 0].shape)
    etas = [_departure(subject, ports, test, s * radius * direction[:, 0], setting.test) for s in SCALES]
    return Record(
        {
            "r": r,
            "ports": list(ports),
            "eta": etas[-1],
            "scales": [s * level for s in SCALES],
            "eta_scales": [_departure(subject, ports, test, s * level * quiet, setting.test) for s in SCALES],
            "price_prefix": _price(response, contrasts, expected, test.loss),
            "price_adapter": _regulated(test, ports, expected, r),
            "radii": [s * radius for s in SCALES],
            "eta_radii": etas,
            "game": float(np.mean([_game(f, len(ports), r) for f in scaled[:players]])),
            "open": float(np.mean(np.linalg.norm(scaled[:players], 2, axis=(1, 2)))),
            "reference_loss": cross_entropy(test.y0, test.labels),
        },
        {
            "response": response.astype(np.float32),
            "gamma": gamma[:, 0],
            "frobenius": np.linalg.norm(response, axis=(1, 2)),
            "ports_apart": np.sqrt(sum(np.linalg.norm(f, 2, axis=(1, 2)) ** 2 for f in np.split(response, len(ports), axis=2))),
            "layered": _layered(setting, ports, contrasts, players // 2),
            "gamma_mean": np.full(len(gamma), np.linalg.norm(response.mean(0), 2)),
            "direction": direction[:, 0].astype(np.float32),
            "stacked": stacked.astype(np.float32),
            "weight": root(curvature)[:players],
        },
    )


def measure(setting: Setting, predicted: Record) -> Record:
    """Return what noise costs the trained prefix and adapter, what ascent finds against them, and what adversarial training gains.

    The gain is that of the adapter's loop before and after. Nothing noisy is looked at before the predictions.
    """
    record: dict = {"r": predicted.values["r"]}
    trained = {}
    for name in ("prefix", "adapter"):
        subject = setting.subjects[name]
        fitted = train(
            setting,
            lambda p, s=subject: s.priced_loss(p, setting.train, record["r"]),
            at_start(subject),
        )
        trained[name] = fitted.params
        record[name] = {**cost(fitted), **_noise(setting, predicted, name, fitted.params)}
    record["attacks"] = _attacks(setting, predicted, trained)
    record["gain"] = _gains(setting, predicted, trained["adapter"])
    return Record(record, {})


def _split(w: Tensor, ports: tuple[str, ...]) -> Params:
    """Return a flat disturbance (..., M) as one vector per port."""
    return dict(zip(ports, w.tensor_split(len(ports), dim=-1), strict=True))


def _price(response: np.ndarray, contrasts: np.ndarray, outputs: np.ndarray, loss: CrossEntropy) -> float:
    """Return 1/2 mean_i tr(G_i' M_i G_i), the loss that noise of unit variance costs; response = E' G."""
    M = contrasts.T @ loss.hessian(outputs) @ contrasts
    return float(0.5 * np.mean(np.einsum("nam,nab,nbm->n", response, M, response)))


def _regulated(lin: Linearisation, ports: tuple[str, ...], outputs: np.ndarray, r: float) -> float:
    """Return the price of unit noise when every example's own LQ law acts at each port after the noise.

    The law feeds back M times the output deviation e, so the loop closes in outputs: w_t reaches them through
    (I - G_T-1 L_T-1 M) ... (I - G_t L_t M) G_t, L_t the law of the regulator.
    """
    G, M = [lin.columns(port) for port in ports], lin.loss.hessian(outputs)
    regulator = output_lq(G, M, lin.loss.gradient(outputs), r)
    through, total = np.eye(M.shape[-1]), 0.0
    for t in reversed(range(len(G))):
        through = through @ (np.eye(M.shape[-1]) - G[t] @ regulator.law(t) @ M)
        total += 0.5 * np.mean(np.einsum("nam,nab,nbm->n", through @ G[t], M, through @ G[t]))
    return float(total)


def _game(scaled: np.ndarray, count: int, r: float) -> float:
    """Return gamma* of the game of one example in output coordinates.

    x_t is the deviation of the weighted contrasts that the disturbances up to and including w_t make if control stopped, so
    the control at port t sees w_t: x_{t+1} = x_t + D_t u_t + D_{t+1} w_{t+1}, D_t = (F_t F_t')^1/2 for F_t = S' E' G_t. Controls
    and disturbances outside the row space of F_t only cost, so the reduction to C - 1 numbers each is exact.
    """
    D = [root(f @ f.T) for f in np.split(scaled, count, axis=1)]
    D = [np.pad(d, ((0, 0), (0, len(scaled) - d.shape[1]))) for d in D]
    still, identity = np.zeros_like(D[0]), np.eye(len(scaled))
    return game([identity] * (count + 1), [still, *D], [*D, still], 0.0, r, 1.0).gamma


def _layered(setting: Setting, ports: tuple[str, ...], contrasts: np.ndarray, count: int) -> np.ndarray:
    """Return the bound by the product of layer norms for the first `count` held-out examples.

    With a_t the norm of the frozen map from the residual sum at port t to that at the next, all tokens free, and a_T-1 of the
    map from the last to the contrasts: (sum_t (a_T-1 ... a_t)^2 n)^1/2, n the tokens that share the disturbance. Norms by ascent.
    """
    subject, batch = setting.subjects["adapter"], first(setting.test, count)
    frozen = at_start(subject)
    real = batch.mask.to(subject.dtype)[..., None]
    readout = torch.as_tensor(contrasts, dtype=subject.dtype)
    start = _random(setting, subject, len(real), real.shape[1] * subject.width)

    def norm(port: str, following: str | None) -> np.ndarray:
        def features(w: Tensor) -> Tensor:
            rolled = subject.rollout(frozen, batch, {port: w.unflatten(1, (-1, subject.width)) * real})
            if following is None:
                return rolled.outputs @ readout
            return ((rolled.inputs[following] + rolled.base[following]) * real).flatten(1)

        return worst_case(features, start, SMALL, STEPS)[1].double().cpu().numpy() / SMALL

    norms = np.stack([norm(*pair) for pair in zip(ports, (*ports[1:], None), strict=True)])
    through = np.cumprod(norms[::-1], axis=0)
    return np.sqrt(np.sum(through**2, axis=0) * real.sum((1, 2)).double().cpu().numpy())


def _level(setting: Setting, subject, ports: tuple[str, ...], lin: Linearisation, w: np.ndarray, limit: float) -> float:
    """Return the size at which disturbances of the profile w (N, M) depart by eta = ETA_LIMIT from the linear model on the training
    text, or `limit` if that is less."""
    level = limit
    for _ in range(4):  # eta is nearly proportional to the size
        eta = _departure(subject, ports, lin, level * w, setting.train)
        level = min(limit, level * ETA_LIMIT / max(eta, 1e-12))
    return level


def _departure(subject, ports: tuple[str, ...], lin: Linearisation, w: np.ndarray, batch) -> float:
    """Return the median over examples of |y(w) - y(0) - G w| / |G w| on the frozen network, w (N, M) a vector per example."""
    pushes = _split(torch.as_tensor(w, dtype=subject.dtype), ports)
    return off(logits(subject.steered, pushes, batch) - lin.y0, np.einsum("ncm,nm->nc", lin.G, w))


def _noise(setting: Setting, predicted: Record, name: str, params: Params) -> dict:
    """Return the predicted and the observed price of noise for one trained delta, observed per level.

    Predictions, before anything noisy: "open", the frozen network's response with the curvature at the trained logits, and
    "closed", the response of the tuned network, the delta's feedback included. Observed: the mean change of the held-out loss
    over antithetic pairs, divided by the variance of the noise; both deltas meet the same noise. "one_port": the same with noise
    at the first port only, times the number of ports.
    """
    subject, ports = setting.subjects[name], tuple(predicted.values["ports"])

    def outputs(w: Params, batch) -> Tensor:
        return subject.disturbed(w, params, batch)

    lin = linearise(outputs, at_rest(subject, ports), setting.test)
    contrasts, quiet = lin.loss.basis(lin.y0.shape[1]), lin.loss.value(lin.y0)
    rng = own_rng(setting, 107)
    order = rng.permutation(len(lin.labels))
    draws = rng.standard_normal((int(setting.options.get("draws", 6)), len(lin.labels), lin.G.shape[-1]))
    alone = np.arange(draws.shape[-1]) < subject.width

    def met(noise: np.ndarray, level: float) -> tuple[float, list[float]]:
        total, etas = 0.0, []
        for sign in (1.0, -1.0):
            w = sign * level * noise
            y = logits(outputs, _split(torch.as_tensor(w, dtype=subject.dtype), ports), setting.test)
            total += 0.5 * float(np.mean(lin.loss.value(y) - quiet)) / level**2
            etas.append(off(y - lin.y0, np.einsum("ncm,nm->nc", lin.G, w)))
        return total, etas

    scales = predicted.values["scales"]
    found = [[met(noise, level) for noise in draws] for level in scales]
    lone = [met(noise * alone, scales[1])[0] for noise in draws]
    response = predicted.arrays["response"].astype(float)
    return {
        "loss": float(quiet.mean()),
        "open": _price(response, contrasts, lin.y0, lin.loss),
        "open_permuted": _price(response[order], contrasts, lin.y0, lin.loss),
        "closed": _price(contrasts.T @ lin.G, contrasts, lin.y0, lin.loss),
        "observed": [float(np.mean([value for value, _ in pairs])) for pairs in found],
        "eta": [float(np.median([e for _, etas in pairs for e in etas])) for pairs in found],
        "one_port": len(ports) * float(np.mean(lone)),
    }


def worst_case(features: Callable[[Tensor], Tensor], start: Tensor, radius: float, steps: int) -> tuple[Tensor, Tensor]:
    """Return the w (N, M) with |w_i| <= radius that ascent finds to make |z_i(w) - z_i(0)| largest, and those lengths (N,).

    Projected gradient ascent from `start` scaled to the sphere, w <- P(w + radius g / |g|), the best point met is kept. On a
    linear z this is a power iteration on Z'Z with a shift. features: w -> z (N, K), examples apart.
    """
    with torch.no_grad():
        still = features(torch.zeros_like(start))
    w, best, length = radius * _unit(start), start, torch.full_like(start[:, 0], -1.0)
    for _ in range(steps + 1):
        at = w.detach().requires_grad_()
        size = (features(at) - still).square().sum(1)
        (slope,) = torch.autograd.grad(size.sum(), at)
        better = size.detach() > length
        best, length = torch.where(better[:, None], at.detach(), best), torch.where(better, size.detach(), length)
        w = _within(at.detach() + radius * _unit(slope), radius)
    return best, length.sqrt()


def _unit(w: Tensor) -> Tensor:
    return w / w.norm(dim=1, keepdim=True).clamp_min(1e-30)


def _within(w: Tensor, radius: float) -> Tensor:
    return w * (radius / w.norm(dim=1, keepdim=True).clamp_min(1e-30)).clamp_max(1.0)


def _random(setting: Setting, subject, count: int, size: int) -> Tensor:
    """Return seeded random starts: the ascent is not told the predicted directions."""
    return torch.as_tensor(own_rng(setting, 108).standard_normal((count, size)), dtype=subject.dtype)


def _attacks(setting: Setting, predicted: Record, trained: dict[str, Params]) -> list[dict]:
    """Return for each radius how far the attacked prefix moves its class contrasts against the bounds that the frozen network
    gives, the share of that in the band, and which way the attacks point; at the smallest radius also for the adapter."""
    a, ports = predicted.arrays, tuple(predicted.values["ports"])
    count = int(setting.options.get("attacked", 48))
    response, direction = a["response"][:count].astype(float), a["direction"][:count].astype(float)
    batch, count = first(setting.test, count), len(response)
    loss = CrossEntropy(batch.labels.cpu().numpy())
    basis = loss.basis(response.shape[1] + 1)
    rng = own_rng(setting, 109)
    order = rng.permutation(count)
    random = rng.standard_normal((DRAWS, count, len(a["stacked"])))
    random = np.abs(np.einsum("pnk,nk->pn", random, direction @ a["stacked"].T)) / np.linalg.norm(random, axis=2)

    def attacked(name: str, radius: float) -> tuple[np.ndarray, np.ndarray]:
        subject, params = setting.subjects[name], {k: v.detach() for k, v in trained[name].items()}
        contrasts = torch.as_tensor(basis, dtype=subject.dtype)
        found, length = worst_case(
            lambda w: subject.disturbed(_split(w, ports), params, batch) @ contrasts,
            _random(setting, subject, *direction.shape),
            radius,
            STEPS,
        )
        return found.double().cpu().numpy(), length.double().cpu().numpy() / radius

    rows = []
    for radius, eta in zip(predicted.values["radii"], predicted.values["eta_radii"], strict=True):
        found, length = attacked("prefix", radius)
        tightness = {n: length / a[n][:count] for n in ("gamma", "frobenius", "ports_apart", "gamma_mean")}
        tightness["gamma_permuted"] = length / a["gamma"][:count][order]
        tightness["layered"] = length[: len(a["layered"])] / a["layered"][:count]
        rows.append(
            {
                "radius": radius,
                "eta": eta,
                **{f"tightness_{n}": float(np.median(t)) for n, t in tightness.items()},
                **{f"within_{n}": float(np.mean((t >= BAND[0]) & (t <= BAND[1]))) for n, t in tightness.items()},
                "largest": float(np.max(tightness["gamma"])),
                "cosine": float(np.mean(_cosines(found, direction))),
                "cosine_random": float(np.quantile(random.mean(1), 0.975)),
                "cosine_shared": float(np.mean(_cosines(found, a["stacked"][:1].astype(float)))),
            }
        )
    length = attacked("adapter", predicted.values["radii"][0])[1]
    rows[0]["tightness_adapter"] = float(np.median(length / a["gamma"][:count]))
    return rows


def _cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.abs(np.sum(a * b, axis=1)) / np.maximum(np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1), 1e-30)


def _gains(setting: Setting, predicted: Record, params: Params) -> dict:
    """Return the gain of the loop that the adapter closes, before and after adversarial training, and after the same training
    under random disturbances.

    The gain of an example is the largest |(S'E' dy, r^1/2 du)| / |w|, du the change of the adapter's signals (the energy's
    norm), S S' the curvature at the frozen logits, as in the game; found by ascent from a random start.
    """
    subject, r, ports = setting.subjects["adapter"], predicted.values["r"], tuple(predicted.values["ports"])
    radius, weight = predicted.values["radii"][-1], predicted.arrays["weight"]
    batch = first(setting.test, len(weight))
    basis = CrossEntropy(batch.labels.cpu().numpy()).basis(weight.shape[1] + 1)
    outward = torch.as_tensor(basis @ weight, dtype=subject.dtype)
    share = batch.mask.to(subject.dtype) / batch.mask.sum(1, keepdim=True)
    size = predicted.arrays["direction"].shape[1]

    def gain(p: Params) -> float:
        def features(w: Tensor) -> Tensor:
            rolled = subject.rollout(p, batch, _split(w, ports))
            signals = torch.stack([u * (r * share).sqrt()[..., None] for u in rolled.signals.values()], dim=1)
            return torch.cat([torch.einsum("nc,nca->na", rolled.outputs, outward), signals.flatten(1)], dim=1)

        small = SMALL * radius
        return float(worst_case(features, _random(setting, subject, len(weight), size), small, STEPS)[1].mean()) / small

    def against(push: Callable[[Params], Tensor]) -> Params:
        def objective(p: Params) -> Tensor:
            return subject.priced_loss(p, setting.train, r, _split(push({k: v.detach() for k, v in p.items()}), ports))

        budget = int(setting.options.get("rounds", 25))
        return fit(objective, params, tolerance=setting.tolerance, max_evaluations=budget).params

    def worst(p: Params) -> Tensor:
        w = torch.zeros(len(setting.train.labels), size, dtype=subject.dtype)
        for _ in range(int(setting.options.get("steps", 2))):
            at = w.requires_grad_()
            loss = torch.nn.functional.cross_entropy(subject.disturbed(_split(at, ports), p, setting.train), setting.train.labels)
            w = _within(w.detach() + radius * _unit(torch.autograd.grad(loss, at)[0]), radius)
        return w.detach()

    leading = torch.as_tensor(predicted.arrays["stacked"], dtype=subject.dtype)
    chance = radius * _unit(_random(setting, subject, len(setting.train.labels), len(leading)) @ leading)
    robust, random = against(worst), against(lambda p: chance)
    return {
        "trained": gain(params),
        "robust": gain(robust),
        "random": gain(random),
        "loss": loss_at(subject.outputs, params, setting.test),
        "loss_robust": loss_at(subject.outputs, robust, setting.test),
    }


EXPERIMENT = Experiment(
    "disturbance", "disturbed prefix and adapter", ("prefix", "adapter"), predict, measure, weight=8.0, by_token=True
)
