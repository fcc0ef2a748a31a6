"""A whole sweep over the dimension of random subspaces, with rates chosen for each dimension, and three predictions of it.

Two scores stand side by side: the share of full training's gain in the penalised objective, which is what the predictions are
about, and accuracy on held-out text, which is what the literature publishes. Each has its own threshold dimension.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from probes.dimension import random_subspace, threshold_dimension
from theory.ensemble import ensemble_lq
from theory.kernel import gradient_components
from theory.subspace import projected_gain
from theory.subspace import threshold_dimension as well_dimension
from tuning.ensembles import Whole, train_subspaces
from tuning.subject import Subject

from ..store import Measured
from .setting import Experiment, Linear, Setting, departure, linearise, logits, penalty, shifted

SHARE = 0.9
DIMENSIONS, SMALLEST = 8, 8
RATES = (0.02, 0.1, 0.5)    # length of the first step over the length of the linearised optimum
STEPS, BATCH, SEEDS = 60, 0, 3
DRAWS = 32
EDGE = 0.005                # of the full gain: rates that differ by less are as good as each other
DENSE = 2048                # numbers up to which a subspace is drawn as a QR factor; beyond, by Hadamard blocks


def _dimensions(setting: Setting, size: int) -> list[int]:
    """Return the dimensions of the sweep: the option's, or eight spaced evenly in log d from 8 to nine tenths of all."""
    given = setting.options.get("dimensions") or np.geomspace(min(SMALLEST, size // 4), 0.9 * size, DIMENSIONS)
    return sorted({min(round(d), size) for d in given})


def _subspaces(setting: Setting, shapes: dict, dimensions: Sequence[int]) -> list[list]:
    """Return a subspace per dimension and seed, all of them independent: rows of the fit then have errors of their own."""
    kind = "dense" if sum(math.prod(s) for s in shapes.values()) <= DENSE else "sorf"
    first = next(iter(setting.subjects["delta"].initial.values()))
    options = {"kind": kind, "dtype": first.dtype, "device": first.device}
    return [
        [random_subspace(shapes, d, seed=100_000 * setting.seed + 1000 * s + i, **options) for s in range(_seeds(setting))]
        for i, d in enumerate(dimensions)
    ]


def _seeds(setting: Setting) -> int:
    return int(setting.options.get("seeds", SEEDS))


def _shapes(setting: Setting) -> dict[str, tuple[int, ...]]:
    return {name: tuple(p.shape) for name, p in setting.subjects["delta"].initial.items()}


def _within(lin: Linear, subspace, like: dict[str, Tensor]) -> np.ndarray:
    """Return G P (N, C, d), by P' on the rows of G."""
    flat = torch.as_tensor(lin.G.reshape(-1, lin.G.shape[-1]))
    rows = dict(zip(like, flat.split([p.numel() for p in like.values()], dim=1), strict=True))
    rows = {name: part.reshape(-1, *like[name].shape) for name, part in rows.items()}
    return subspace.adjoint(rows).double().cpu().numpy().reshape(*lin.y0.shape, -1)


def crossing(dimensions: Sequence[float], shares: Sequence[float], size: int, share: float = SHARE) -> float:
    """Return the dimension at which a predicted curve reaches the share, interpolated in log2 d and rising to 1 at D.

    Below the first dimension the curve is taken as proportional to d.
    """
    d, y = np.append(dimensions, size), np.append(np.maximum.accumulate(shares), 1.0)
    if y[0] >= share:
        return float(d[0] * share / y[0])
    i = int(np.argmax(y >= share))
    place = (share - y[i - 1]) / (y[i] - y[i - 1])
    return float(2 ** (np.log2(d[i - 1]) + place * np.log2(d[i] / d[i - 1])))


def predict(setting: Setting) -> Measured:
    """Return three predictions of the share of the gain in J at each dimension and of where it reaches 0.9.

    "spectrum": Larsen et al. 2022's quadratic well with the linearised optimum's curvatures and distance, a dimension only.
    "curve": the linearised problem solved in the very subspaces that will be trained in. "quadratic": the mean over random
    subspaces of the gain in the quadratic with the frozen model's curvature and its gradient's component along each
    eigenvector. With the option regime = 0 the penalty is `penalty` times the largest curvature, whatever that does to linearity.
    """
    subject = setting.subjects["delta"]
    lin = linearise(subject.outputs, subject.initial, setting.train)
    free = Setting(**{**vars(setting), "regime": setting.regime or None})
    r = penalty(free, lin, subject.outputs, subject.initial)
    kernel = lin.kernel()
    full = lin.optimum(r, kernel=kernel)
    start, size = float(lin.loss.value(lin.y0).mean()), lin.G.shape[-1]
    gain, distance = start - full.value, float(np.linalg.norm(full.z))
    dimensions = _dimensions(setting, size)
    curve = [
        [(start - ensemble_lq(_within(lin, p, subject.initial), lin.y0, lin.loss, r).value) / gain for p in row]
        for row in _subspaces(setting, _shapes(setting), dimensions)
    ]
    values, components = gradient_components(kernel, lin.y0, lin.loss)
    drawn = projected_gain(values, components, size, dimensions, ridge=r, draws=DRAWS, seed=setting.seed)
    spectrum = lin.curvatures(full.outputs)[:size]
    moved = logits(subject.outputs, shifted(subject.initial, full.z), setting.train)
    eigenvalues = np.linalg.eigvalsh(kernel)
    mean_curve, mean_quadratic = np.mean(curve, axis=1), drawn.mean(0)
    return Measured(
        {
            "r": r,
            "eta": departure(lin, full, moved),
            "parameters": size,
            "distance": distance,
            "start": start,
            "gain": gain,
            "dimensions": dimensions,
            "curves": {"curve": mean_curve.tolist(), "quadratic": mean_quadratic.tolist()},
            "spread": {"curve": np.std(curve, axis=1).tolist(), "quadratic": drawn.std(0).tolist()},
            "spectrum": float(well_dimension(spectrum, distance, (1 - SHARE) * gain, size, ridge=r)),
            "curve": crossing(dimensions, mean_curve, size),
            "quadratic": crossing(dimensions, mean_quadratic, size),
            "participation": float(eigenvalues.sum() ** 2 / np.sum(eigenvalues**2)),
            "trace_rank": float(eigenvalues.sum() / eigenvalues.max()),
        },
        {},
    )


def _halves(setting: Setting) -> tuple:
    """Return the held-out text in two: where rates are chosen, and where the curve is read."""
    order = torch.as_tensor(np.random.default_rng([setting.seed, 107]).permutation(len(setting.test.labels)))
    halves = order.chunk(2)
    return tuple(type(setting.test)(*(x[rows.to(x.device)] for x in setting.test)) for rows in halves)


def measure(setting: Setting, predicted: Measured) -> Measured:
    """Return every run of the sweep, the rates chosen, and the threshold dimension of either score with its interval.

    Options: dimensions, rates (the first step's length over the linearised optimum's), steps, seeds, batch (0: full batches).
    For accuracy the rate of each dimension is the one with the best mean accuracy on the validation half (ties: the lower
    loss there), for the share of the gain the one with the lowest mean objective; `edges` names the dimensions at which a rate
    beyond the grid could have been better. Full-size runs choose theirs alike. A run that ceased to be finite scores as the
    frozen model does.
    """
    subject, before = setting.subjects["delta"], predicted.record
    shapes = _shapes(setting)
    dimensions, start = _dimensions(setting, sum(math.prod(s) for s in shapes.values())), _loss(subject, setting.train)
    rates = sorted(float(x) for x in setting.options.get("rates", RATES))
    steps, batch = int(setting.options.get("steps", STEPS)), int(setting.options.get("batch", BATCH))
    validation, test = _halves(setting)
    whole = Whole(shapes)
    again = _seeds(setting) if batch else 1                     # a full batch at full size leaves nothing to draw
    grid = [*zip(dimensions, _subspaces(setting, shapes, dimensions), strict=True), (whole.dimension, [whole] * again)]
    cells = [(i, s, k) for i, (_, row) in enumerate(grid) for s in range(len(row)) for k in range(len(rates))]
    sizes = np.array([grid[i][0] for i, _, _ in cells])
    run = train_subspaces(
        subject,
        [grid[i][1][s] for i, s, _ in cells],
        setting.train,
        rates=[rates[k] * before["distance"] / math.sqrt(d) for (_, _, k), d in zip(cells, sizes, strict=True)],
        steps=steps,
        penalty=before["r"],
        batch=batch or None,
        seeds=[1000 * setting.seed + s for _, s, _ in cells],
        held={"validation": validation, "test": test},
        logits=None if isinstance(subject, Subject) else torch.func.vmap(subject.outputs),
    )
    found = {
        "objective": _or(run.objective, start),
        "validation": _or(run.scores["validation"], 0.0),
        "validation_loss": _or(run.held_losses["validation"], math.inf),
        "test": _or(run.scores["test"], _accuracy(subject, test)),
        "test_loss": _or(run.held_losses["test"], _loss(subject, test)),
    }
    place = np.array(cells)
    by_share, by_accuracy = [], []
    for i in range(len(grid)):
        rows = [np.flatnonzero((place[:, 0] == i) & (place[:, 2] == k)) for k in range(len(rates))]
        by_share.append(rows[int(np.argmin([found["objective"][r].mean() for r in rows]))])
        ranks = [(-found["validation"][r].mean(), found["validation_loss"][r].mean()) for r in rows]
        by_accuracy.append(rows[ranks.index(min(ranks))])
    gains = start - found["objective"]
    share = gains / gains[by_share[-1]].mean()
    fit = {
        "share": _estimate(sizes, share, by_share, chance=0.0, confidence=0.9),
        "accuracy": _estimate(sizes, found["test"], by_accuracy, chance=_majority(test), confidence=0.9),
        "tuned": _estimate(sizes, found["test"], by_accuracy, chance=_accuracy(subject, test), confidence=0.9),
    }
    table = [
        {"dimension": int(d), "seed": s, "rate": float(run.rates[e]), "relative_rate": rates[k], "full": i == len(dimensions),
         "finite": bool(run.finite[e]), "share": float(share[e]), "chosen_share": bool(e in by_share[i]),
         "chosen_accuracy": bool(e in by_accuracy[i]), **{n: float(v[e]) for n, v in found.items() if np.isfinite(v[e])}}
        for e, ((i, s, k), d) in enumerate(zip(cells, sizes, strict=True))
    ]
    return Measured(
        {
            **{k: before[k] for k in ("eta", "spectrum", "curve", "quadratic", "participation", "trace_rank", "parameters")},
            "dimensions": dimensions,
            "curves": before["curves"],
            "shares": [float(share[rows].mean()) for rows in by_share[:-1]],
            "accuracies": [float(found["test"][rows].mean()) for rows in by_accuracy],
            "frozen": _accuracy(subject, test),
            "majority": _majority(test),
            "fit": fit,
            "edges": {
                "share": _edges(by_share, share, place, sizes, EDGE),
                "accuracy": _edges(by_accuracy, found["validation"], place, sizes, 0.0),
            },
            "failed": int((~run.finite).sum()),
            "folded": run.folded,
            "gain": float(gains[by_share[-1]].mean()),
            "settled": float(_settled(run.losses[:, by_share[-1]].double().cpu().numpy())),
            "rows": table,
        },
        {"losses": run.losses.double().cpu().numpy()},
    )


def _edges(chosen: list[np.ndarray], scores: np.ndarray, place: np.ndarray, sizes: np.ndarray, slack: float) -> list[int]:
    """Return the dimensions whose chosen rate ends the grid and scores more than `slack` above the rate beside it."""
    last, found = place[:, 2].max(), []
    for rows in chosen:
        i, _, k = place[rows[0]]
        beside = (place[:, 0] == i) & (place[:, 2] == (1 if k == 0 else k - 1))
        if k in (0, last) and (last == 0 or scores[rows].mean() > scores[beside].mean() + slack):
            found.append(int(sizes[rows[0]]))
    return found


def _or(values: Tensor, failed: float) -> np.ndarray:
    """Return the values in float64, with `failed` in the place of those that are not finite."""
    made = values.double().cpu().numpy()
    return np.where(np.isfinite(made), made, failed)


def _settled(losses: np.ndarray) -> float:
    """Return how much of the fall of full training's objective fell in its last tenth of steps; losses (steps, runs)."""
    curve = losses.mean(1)
    late = max(1, len(curve) // 10)
    return (curve[-2 * late : -late].mean() - curve[-late:].mean()) / max(curve[0] - curve[-late:].mean(), 1e-30)


def _accuracy(subject, batch) -> float:
    return float(np.mean(logits(subject.outputs, subject.initial, batch).argmax(1) == batch.labels.cpu().numpy()))


def _loss(subject, batch) -> float:
    with torch.no_grad():
        return float(subject.loss(subject.initial, batch))


def _majority(batch) -> float:
    return float(np.bincount(batch.labels.cpu().numpy()).max() / len(batch.labels))


def _estimate(sizes: np.ndarray, scores: np.ndarray, chosen: list[np.ndarray], *, chance: float, confidence: float) -> dict:
    """Return a threshold dimension as plain numbers; an end that is censored is None, and `status` says which way.

    "no gain": full training does not exceed chance, so no threshold exists.
    """
    base = scores[chosen[-1]]
    if base.mean() <= chance:
        return {"status": "no gain", "baseline": float(base.mean()), "chance": chance}
    rows = np.concatenate(chosen[:-1])
    base = np.repeat(base, 2) if len(base) == 1 else base       # one exact run: known without noise
    found = threshold_dimension(sizes[rows], scores[rows], baseline=base, chance=chance, share=SHARE, confidence=confidence)

    def plain(x: float) -> float | None:
        return float(x) if np.isfinite(x) and x > 0 else None

    return {
        "status": found.status,
        "warning": found.warning,
        "value": plain(found.value),
        "low": plain(found.interval[0]),
        "high": plain(found.interval[1]),
        "isotonic": plain(found.isotonic),
        "not_reached": found.not_reached,
        "below": found.below,
        "threshold": float(found.threshold),
        "baseline": float(base.mean()),
        "chance": chance,
    }


EXPERIMENT = Experiment("a sweep of random subspaces", ("delta",), predict, measure, weight=60.0, each=True)
