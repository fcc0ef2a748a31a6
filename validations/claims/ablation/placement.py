"""Where a control is worth having: one or two ports, chosen before training, against every choice trained."""

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import combinations

import numpy as np

from theory.ensemble import ensemble_lq, roots
from theory.placement import sparse_path

from ..shared.linearisation import Linearisation
from ..shared.setting import Params, Setting
from ..shared.training import cost, loss_at, penalised, steered_loss, train

PAIRS = 16
TOP = ("sparse", "gradient", "fisher")  # score single ports; two ports are their two best
SCORES = ("value", "gramian", *TOP)


def predict(setting: Setting, lin: Linearisation, ports: Sequence[str], r: float) -> dict:
    """Return the sets of one and two ports that are to be trained, what each predictor says of them, and which one it picks.

    value: the least linearised objective with controls at the set alone, over sets (the placement problem itself, solved by
    enumeration). gramian: minus log det(I + H^1/2 G_S G_S' H^1/2 / (r N)), the volume that a set can reach, H the softmax
    curvature at the reference. sparse: the order in which ports enter the group-sparse path, the convex relaxation of the
    first; its first port has the largest gradient by the optimality conditions. Rivals: gradient, minus the norm of the
    gradient at the ports; fisher, minus the trace of G_S' H G_S / N. All scores are low where a set is good. Candidates: every
    single port; `PAIRS` pairs drawn by the cell's seed; what each score takes for the best two; and the port that best
    complements the best one.
    """
    width = lin.G.shape[-1] // len(ports)
    blocks = {port: lin.G[..., k * width : (k + 1) * width] for k, port in enumerate(ports)}
    n, classes = lin.y0.shape
    S = roots(lin.loss.hessian(lin.y0) / n)
    slope = lin.loss.gradient(lin.y0) / n
    half = {port: (np.swapaxes(S, 1, 2) @ G).reshape(n * classes, -1) for port, G in blocks.items()}
    path = sparse_path(lin.G, lin.y0, lin.loss, r, np.repeat(ports, width))
    single = {
        "sparse": {port: float(k) for k, port in enumerate(path.order)},
        "gradient": {port: -float(np.sum(np.einsum("ncm,nc->m", G, slope) ** 2)) for port, G in blocks.items()},
        "fisher": {port: -float(np.sum(X**2)) for port, X in half.items()},
    }

    def value(chosen: Sequence[str]) -> float:
        return float(ensemble_lq(np.concatenate([blocks[port] for port in chosen], axis=-1), lin.y0, lin.loss, r).value)

    def scored(chosen: tuple[str, ...]) -> dict:
        X = np.hstack([half[port] for port in chosen])
        volume = np.linalg.slogdet(np.eye(len(X)) + X @ X.T / r)[1]
        sums = {name: sum(of[port] for port in chosen) for name, of in single.items()}
        return {"ports": list(chosen), "value": value(chosen), "gramian": -float(volume), **sums}

    ones = [scored((port,)) for port in ports]
    pairs = list(combinations(ports, 2))
    drawn = np.random.default_rng([setting.seed, 107]).permutation(len(pairs))[:PAIRS]
    chosen = {pairs[k] for k in drawn}
    chosen |= {tuple(sorted(sorted(ports, key=single[name].get)[:2], key=ports.index)) for name in TOP}
    first = min(ones, key=lambda row: row["value"])["ports"][0]
    both = [tuple(sorted((first, port), key=ports.index)) for port in ports if port != first]
    chosen.add(min(both, key=value))
    twos = [scored(pair) for pair in sorted(chosen, key=pairs.index)]
    entry = dict(zip(path.names, path.entry / path.prices[0], strict=True))
    return {
        "places": [*ones, *twos],
        "picks": [{name: min(group, key=lambda row, of=name: row[of])["ports"] for name in SCORES} for group in (ones, twos)],
        "entry": [float(entry[port]) for port in ports],
    }


def measure(setting: Setting, predicted: Mapping, origin: Params, r: float) -> list[dict]:
    """Return for every candidate set the penalised training loss that controls there alone reach, and the held-out loss."""
    subject = setting.subjects["bias"]
    rows = []
    for row in predicted["places"]:
        start = {port: origin[port] for port in row["ports"]}
        fitted = train(setting, penalised(partial(steered_loss, subject), setting.train, r, start), start)
        held_out = loss_at(subject.steered, fitted.params, setting.test)
        rows.append({"ports": row["ports"], "loss": float(fitted.value), "held_out": held_out, **cost(fitted)})
    return rows
