"""One delta trained in families of subspaces: drawn, with layer scales, found in curvature, in reach or in other tasks."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from probes.dimension.found_subspaces import FoundSubspace, gauss_newton_directions, principal_directions, reachable_directions
from probes.dimension.projection import LayerScaled, layer_scaled_subspace, random_subspace
from probes.reach.response import response
from tuning.training import flatten, unflatten

from ...store import Record
from ..shared.linearisation import Linearisation, departure, kernel_ranks, linearise, penalty
from ..shared.setting import Experiment, Params, Setting, own_seed
from ..shared.subspaces import estimate, shapes, solved_within, trained_within
from ..shared.training import at_start, cost, logits, penalised, shifted, summed, train

FOUND = (1, 2, 4, 8, 16, 32, 64)  # dimensions of subspaces that are found, cut at their rank
NEAR = (4, 16)  # dimensions at which drawn subspaces and nulls are trained beside the found ones
SHARES = tuple(float(x) for x in 0.9 * 2.0 ** -np.array([3.0, 1.5, 0.75, 0.25, 0.0]))  # further ones of drawn subspaces, over D
DRAWS = 3
DENSE = 1024  # numbers up to which a drawn subspace is a dense orthonormal one
STOPS = (2, 4, 8, 16, 32)  # evaluations after which a training's iterates are taken
ARMS = ("random", "said", "scaled", "gauss-newton", "reachable", "principal", "trajectory", "turned", "foreign")


@dataclass(frozen=True)
class Turned:
    """Random directions in the span of found ones: P Q theta with Q (k, d) orthonormal, a null for the order of the found."""

    found: FoundSubspace
    turn: Tensor

    @property
    def dimension(self) -> int:
        return self.turn.shape[1]

    def apply(self, theta: Tensor) -> Params:
        return self.found.apply(self.turn @ theta)

    def adjoint(self, tensors: Mapping[str, Tensor]) -> Tensor:
        return self.found.adjoint(tensors) @ self.turn


@dataclass(frozen=True)
class Balanced:
    """A subspace with layer scales, trained in units of length: s = sigma / unit, so that sigma and theta' move the delta as far.

    A scale's slope grows with the step it scales; where steps are short, training would stop before the scales have moved.
    """

    scaled: LayerScaled
    unit: float

    @property
    def dimension(self) -> int:
        return self.scaled.dimension

    def apply(self, theta: Tensor) -> Params:
        m = len(self.scaled.layers)
        return self.scaled.apply(torch.cat([theta[:m] / self.unit, theta[m:]]))


def _criterion(outputs: Tensor, batch) -> Tensor:
    return torch.nn.functional.cross_entropy(outputs, batch.labels)


def _objective(setting: Setting, r: float) -> Callable[[Params], Tensor]:
    subject = setting.subjects["delta"]
    return penalised(subject.loss, setting.train, r, at_start(subject))


def _curved(setting: Setting) -> FoundSubspace:
    """Return every Gauss-Newton direction of the frozen model on a setting's training text."""
    return gauss_newton_directions(
        setting.subjects["delta"].outputs, _criterion, at_start(setting.subjects["delta"]), [setting.train]
    )


def _drawn(setting: Setting, origin: Params, arm: str, unit: float) -> Iterator[tuple[int, object]]:
    """Yield (d, subspace) of random subspaces, or of those with a trained scale per layer, which d counts."""
    sizes = shapes(origin)
    size, layers = sum(p.numel() for p in origin.values()), _layers(origin)
    first = next(iter(origin.values()))
    fixed = {"kind": "dense" if size <= DENSE else "sorf", "dtype": first.dtype, "device": first.device}
    wanted = {*setting.options.get("near", NEAR), *(round(size * s) for s in setting.options.get("shares", SHARES))}
    for d in sorted(int(d) for d in wanted if 1 <= d < size):
        for draw in range(int(setting.options.get("draws", DRAWS))):
            seed = own_seed(setting, draw, d)
            if arm == "random":
                yield d, random_subspace(sizes, d, seed=seed, **fixed)
            elif d > layers:
                yield d, Balanced(layer_scaled_subspace(sizes, d, seed=seed, **fixed), unit)


def _layers(origin: Params) -> int:
    """Return how many layer scales a subspace with them has."""
    sizes = shapes(origin)
    return len(layer_scaled_subspace(sizes, sum(p.numel() for p in origin.values()), seed=0, kind="onehot").layers)


def _leading(setting: Setting, found: FoundSubspace, *further: int) -> Iterator[tuple[int, FoundSubspace]]:
    """Yield (d, subspace) of the leading directions at every dimension up to their rank."""
    wanted = {*setting.options.get("dimensions", FOUND), *further}
    for d in sorted(int(d) for d in wanted if d <= found.dimension):
        yield d, found.first(d)


def _nearby(setting: Setting, rank: int) -> list[int]:
    return [int(d) for d in setting.options.get("near", NEAR) if d <= rank]


def _runs(
    setting: Setting, curved: FoundSubspace, unit: float, points: Sequence[Params] = (), steps: Sequence[Params] = ()
) -> Iterator[tuple[str, int, object]]:
    """Yield (arm, d, subspace) of every run, made when asked for.

    curved: every Gauss-Newton direction; unit: the length of the linearised optimum; points: other tasks' deltas, from which the
    principal directions come; steps: the iterates of this task's own training.
    """
    origin, arms = at_start(setting.subjects["delta"]), setting.options.get("arms", ARMS)
    for arm in ("random", "said"):
        if arm in arms:
            yield from ((arm, d, subspace) for d, subspace in _drawn(setting, origin, arm, unit))
    # the origin is one more point without displacement, so that one other task is enough
    principal = principal_directions([*points, origin], origin=origin) if points else None
    shared = () if principal is None else (principal.dimension,)
    yield from (("gauss-newton", d, subspace) for d, subspace in _leading(setting, curved, *shared))
    if "reachable" in arms:
        found = reachable_directions(response(setting.subjects["delta"].outputs, origin, [setting.train]))
        yield from (("reachable", d, subspace) for d, subspace in _leading(setting, found))
    if principal is not None:
        yield from (("principal", d, subspace) for d, subspace in _leading(setting, principal, *shared))
    if steps:
        found = principal_directions(steps, origin=origin)
        yield from (("trajectory", d, subspace) for d, subspace in _leading(setting, found, found.dimension))
    if "turned" in arms:
        generator = torch.Generator().manual_seed(own_seed(setting, 167))
        square = torch.randn(curved.dimension, curved.dimension, generator=generator, dtype=torch.float64)
        turn = torch.linalg.qr(square)[0].to(next(iter(origin.values())))
        yield from (("turned", d, Turned(curved, turn[:, :d])) for d in _nearby(setting, curved.dimension))
    if "foreign" in arms and setting.other_tasks:
        found = _curved(setting.other_tasks[0])
        yield from (("foreign", d, found.first(d)) for d in _nearby(setting, found.dimension))


def _curve(runs: Sequence[tuple[int, float]], end: int | None) -> dict:
    """Return an arm's shares by run and its threshold dimension; at `end` numbers the whole space is reached, with share 1.

    Fewer than 3 dimensions give no threshold; one that lies beyond those tried is None.
    """
    dimensions, scores = ([float(x) for x in column] for column in zip(*runs, strict=True))
    known = ([*dimensions, float(end)], [*scores, 1.0]) if end else (dimensions, scores)
    made = {"dimensions": [int(d) for d in dimensions], "scores": scores}
    if len(set(known[0])) < 3:
        return made
    return made | {"threshold": estimate(*known, [1.0], chance=0.0), "smallest": min(known[0]), "largest": max(known[0])}


def _curves(found: Mapping[str, list[tuple[int, float]]], size: int, layers: int) -> dict[str, dict]:
    ends = {"random": size, "said": size + layers, "scaled": size + layers}
    return {arm: _curve(runs, ends.get(arm)) for arm, runs in found.items()}


def _linear_objective(lin: Linearisation, origin: Params, r: float) -> Callable[[Params], Tensor]:
    """Return the penalised objective of the linearised network, for parameters that need not be linear in what is trained."""
    first = next(iter(origin.values()))
    G, y0 = (torch.as_tensor(x, dtype=first.dtype, device=first.device) for x in (lin.G, lin.y0))
    labels = torch.as_tensor(lin.labels, device=first.device)

    def objective(params: Params) -> Tensor:
        z = torch.cat([(p - origin[name]).reshape(-1) for name, p in params.items()])
        return torch.nn.functional.cross_entropy(y0 + G @ z, labels) + 0.5 * r * z @ z

    return objective


def _elsewhere(setting: Setting, share: float) -> list[Params]:
    """Return the delta trained on every other task, with the penalty at the same share of its own largest curvature."""
    found = []
    for other in setting.other_tasks:
        subject, origin = other.subjects["delta"], at_start(other.subjects["delta"])
        lin = linearise(subject.outputs, origin, other.train)
        found.append(train(other, _objective(other, share * float(lin.curvatures(lin.y0)[0])), origin).params)
    return found


def predict(setting: Setting) -> Record:
    """Return the share of the gain that the linearised problem reaches in every subspace known before training.

    Score: the share of full training's gain in the penalised objective J. Subspaces: random ones (Li et al. 2018); those with a
    trained scale per layer ("said", Aghajanyan et al. 2021), whose scales have no slope at the start, so that to first order they
    are random ones of d - m dimensions for m scales, and "scaled", the same on the linearised network with the scales trained;
    the leading Gauss-Newton directions of the frozen model, the leading directions of its response, and the principal directions
    of the same delta trained on the study's other tasks. Nulls: random directions in the span of all Gauss-Newton directions
    ("turned"), and the leading ones of another task ("foreign"). Options: arms, dimensions, near, shares, draws.
    """
    subject, origin = setting.subjects["delta"], at_start(setting.subjects["delta"])
    lin = linearise(subject.outputs, origin, setting.train)
    r = penalty(setting, lin, subject.outputs, origin)
    full = lin.optimum(r)
    start, scale = float(lin.loss.value(lin.y0).mean()), float(lin.curvatures(lin.y0)[0])
    size, gain = lin.G.shape[-1], start - full.value
    unit, curved = float(np.linalg.norm(full.z)), _curved(setting)
    linear, closely = _linear_objective(lin, origin, r), replace(setting, tolerance=1e-3, evaluations=500)
    arms = setting.options.get("arms", ARMS)
    points = _elsewhere(setting, r / scale) if "principal" in arms else []
    found: dict[str, list[tuple[int, float]]] = {}
    for arm, d, subspace in _runs(setting, curved, unit, points):
        still = subspace.scaled.projection if isinstance(subspace, Balanced) else subspace
        found.setdefault(arm, []).append((d, (start - solved_within(lin, still, origin, r).value) / gain))
        if isinstance(subspace, Balanced) and "scaled" in arms:
            moved = trained_within(closely, linear, origin, subspace)
            found.setdefault("scaled", []).append((d, (start - float(moved.value)) / gain))
    test = linearise(subject.outputs, origin, setting.test)
    return Record(
        {
            "r": r,
            "eta": departure(test, full, logits(subject.outputs, shifted(origin, full.z), setting.test)),
            "unit": unit,
            "size": size,
            "layers": _layers(origin),
            "rank": curved.dimension,
            "participation": kernel_ranks(lin.kernel())["participation"],
            "near": _nearby(setting, size),
            "arms": _curves(found, size, _layers(origin)),
        },
        {"elsewhere": np.array([flatten(p) for p in points])} if points else {},
    )


def measure(setting: Setting, predicted: Record) -> Record:
    """Return the share of the gain that training in every subspace reaches, and each family's threshold dimension.

    "trajectory": the principal directions of this task's own full training, stopped after a few evaluations and at its end; it
    uses the outcome and is an upper reference.
    """
    p, origin = predicted.values, at_start(setting.subjects["delta"])
    objective = _objective(setting, p["r"])
    full = train(setting, objective, origin)
    start = float(objective(origin).detach())
    points = [unflatten(row, origin) for row in predicted.arrays.get("elsewhere", ())]
    steps = []
    if "trajectory" in setting.options.get("arms", ARMS):
        steps = [train(replace(setting, evaluations=n), objective, origin).params for n in STOPS if n < full.evaluations]
        steps.append(full.params)
    found: dict[str, list[tuple[int, float]]] = {}
    costs = {"full": [cost(full)]}
    for arm, d, subspace in _runs(setting, _curved(setting), p["unit"], points, steps):
        fitted = trained_within(setting, objective, origin, subspace)
        found.setdefault(arm, []).append((d, (start - float(fitted.value)) / (start - float(full.value))))
        costs.setdefault(arm, []).append(cost(fitted))
    return Record(
        {
            "arms": _curves(found, p["size"], p["layers"]),
            "costs": {arm: summed(runs) for arm, runs in costs.items()},
        },
        {},
    )


EXPERIMENT = Experiment(
    "families",
    "one delta in families of subspaces",
    ("delta",),
    predict,
    measure,
    weight=30.0,
    per_delta=True,
    needs_other_tasks=True,
)
