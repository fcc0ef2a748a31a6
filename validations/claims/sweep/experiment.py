"""A whole sweep over the dimension of random subspaces, as the literature runs it, and what linear theory says of it.

The head starts at zero, is trained with the delta within the subspace and counts in D, the rate is chosen for each dimension
on text of its own, and accuracy is read on other text. Beside the accuracy stands the share of full training's gain in the
penalised objective, which is what the theory speaks of; each has a threshold dimension.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from probes.curvature.hessian import hessian
from probes.curvature.spectrum import top_eigenpairs
from probes.dimension.learning_coefficient import local_learning_coefficient
from probes.dimension.projection import CORRECT, random_subspace
from probes.dimension.representation import two_nn
from theory.ensemble import ensemble_lq
from theory.kernel import gradient_components
from theory.subspace import effective_dimension, projected_block, projected_gain
from theory.subspace import threshold_dimension as well_dimension
from tuning.backbones import features
from tuning.ensembles import EnsembleRun, Subspace, Whole, foldable, outputs, train_subspaces
from tuning.subjects import READOUT_PARAMETERS, Params, Readout, Subject

from ...store import Record
from ..shared.linearisation import departure, kernel_ranks, linearise
from ..shared.setting import Experiment, Setting, own_rng, own_seed
from ..shared.subspaces import SHARE, crossing, estimate, shapes
from ..shared.training import logits, majority, shifted, taken

DIMENSIONS, SMALLEST = 8, 8
RATES = (0.05, 0.15, 0.5)  # length of the first step over the length of the linearised optimum
STEPS, BATCH, SEEDS = 96, 16, 3
DRAWS = 16
EDGE = 0.005  # of the full gain: rates that differ by less are as good as each other
MANY = 2 * CORRECT
DENSE = 2048  # numbers up to which a subspace is drawn as a QR factor; beyond, by Hadamard blocks
FORMS = ("curve", "quadratic", "accuracy")
CHAINS, BURN, SAMPLES, PART = 4, 150, 450, 24
LOCAL = 0.03  # the chains' prior: its curvature over the largest one of the loss
CLOSE = 0.05  # relative error of that curvature
STABLE = 0.4  # their step, in units of 1 / (n beta times the largest curvature)


def headed(subject):
    """Return the subject with a head at zero that is trained with the delta; a plant, which has no head apart, as it is."""
    if not isinstance(subject, Subject):
        return subject
    weight = torch.zeros_like(subject.readout.weight)
    head = dict(zip(READOUT_PARAMETERS, (weight, weight[:, 0].clone()), strict=True))
    return replace(subject, readout=Readout(*head.values()), initial=subject.initial | head)


def responding(subject) -> Params:
    """Return the numbers to which the logits respond at the start: of a subject whose head is zero, the head alone."""
    head = {name: value for name, value in subject.initial.items() if name in READOUT_PARAMETERS}
    return head or subject.initial


def _count(setting: Setting) -> int:
    return int(setting.options.get("seeds", SEEDS))


def _dimensions(setting: Setting, size: int) -> list[int]:
    """Return the dimensions of the sweep: the option's, or eight spaced evenly in log d from 8 to nine tenths of all.

    Of more than `MANY` numbers to half of all: beyond that a subspace of several tensors can no longer be drawn in blocks.
    """
    largest = 0.9 * size if size <= MANY else size / 2
    given = setting.options.get("dimensions") or np.geomspace(min(SMALLEST, size // 4), largest, DIMENSIONS)
    return sorted({min(round(d), size) for d in given})


def _subspaces(setting: Setting, subject, dimensions: Sequence[int]) -> list[list[Subspace]]:
    """Return a subspace per dimension and seed, all of them independent: rows of the fit then have errors of their own."""
    own = shapes(subject.initial)
    kind = "dense" if sum(math.prod(s) for s in own.values()) <= DENSE else "sorf"
    first = next(iter(subject.initial.values()))

    def drawn(place: int, seed: int) -> Subspace:
        made = own_seed(setting, seed, place)
        return random_subspace(own, dimensions[place], kind=kind, seed=made, dtype=first.dtype, device=first.device)

    return [[drawn(i, s) for s in range(_count(setting))] for i in range(len(dimensions))]


def predict(setting: Setting) -> Record:
    """Return the predicted curves, of the share of the gain and of held-out accuracy, and where they reach 0.9.

    The penalty is the study's share of the largest curvature. Only the numbers to which the logits respond at the start move
    in linear theory; a random subspace of all D numbers shows them as `projected_block` says. "curve": the mean over draws
    of the linearised problem solved in such subspaces, and the accuracy of its solutions on the text that sweeps are read
    on. "quadratic": the same with the loss's quadratic at the start, from the spectrum and the gradient alone. "spectrum":
    Larsen et al. 2022's quadratic well with the linearised optimum's curvatures and distance, a dimension only.
    """
    subject = headed(setting.subjects["delta"])
    free, size = responding(subject), sum(p.numel() for p in subject.initial.values())

    def response(params: Params, batch) -> Tensor:
        return subject.outputs(subject.initial | params, batch)

    test = _halves(setting)[1]
    lin, held = linearise(response, free, setting.train), linearise(response, free, test)
    kernel = lin.kernel()
    frozen = lin.curvatures(lin.y0)
    r = setting.penalty * float(frozen[0])
    full = lin.optimum(r, kernel=kernel)
    start, count = float(lin.loss.value(lin.y0).mean()), lin.G.shape[-1]
    gain, distance, dimensions = start - full.value, float(np.linalg.norm(full.z)), _dimensions(setting, size)
    rng = own_rng(setting, 109)
    shares, accuracies = [], []
    for d in dimensions:
        blocks = [projected_block(count, size, d, rng) for _ in range(_count(setting))]
        solved = [ensemble_lq(lin.G @ B, lin.y0, lin.loss, r) for B in blocks]
        shares.append(np.mean([(start - s.value) / gain for s in solved]))
        made = [held.y0 + held.G @ (B @ s.z) for B, s in zip(blocks, solved, strict=True)]
        accuracies.append(np.mean([np.mean(y.argmax(1) == held.labels) for y in made]))
    values, components = gradient_components(kernel, lin.y0, lin.loss)
    quadratic = projected_gain(values, components, size, dimensions, ridge=r, draws=DRAWS, seed=own_seed(setting, 113)).mean(0)
    best = float(np.mean((held.y0 + held.G @ full.z).argmax(1) == held.labels))
    chance = majority(test)
    fitted = lin.curvatures(full.outputs)[:size]
    moved = logits(response, shifted(free, full.z), setting.train)
    risen = (np.array(accuracies) - chance) / max(best - chance, 1e-9)
    return Record(
        {
            "r": r,
            "departure": departure(lin, full, moved),
            "parameters": size,
            "head": count,
            "distance": distance,
            "start": start,
            "gain": gain,
            "curvature": float(fitted[0]),
            "dimensions": dimensions,
            "curves": {n: np.array(v).tolist() for n, v in zip(FORMS, (shares, quadratic, accuracies), strict=True)},
            "best_accuracy": best,
            "spectrum": float(well_dimension(fitted, distance, (1 - SHARE) * gain, size, ridge=r)),
            "curve": crossing(dimensions, shares, size),
            "quadratic": crossing(dimensions, quadratic, size),
            "accuracy": crossing(dimensions, risen, size) if best > chance else None,
            **kernel_ranks(kernel),
            "effective_dimension": effective_dimension(fitted, LOCAL * float(fitted[0])),
        },
        {},
    )


def _halves(setting: Setting) -> tuple:
    """Return the held-out text in two: where rates are chosen, and where the curve is read."""
    order = torch.as_tensor(own_rng(setting, 107).permutation(len(setting.test.labels)))
    return tuple(taken(setting.test, rows) for rows in order.chunk(2))


def measure(setting: Setting, predicted: Record) -> Record:
    """Return every run of the sweep, the rates chosen, and the threshold dimension of each score with its interval.

    Beside them stand the dimensions of the trained delta's posterior and features.
    Options: dimensions, rates (the first step's length over the linearised optimum's), steps, batch, seeds, part (texts in a
    batch of the chains). Every rate is run with the first seed; the others run the chosen ones. For accuracy that is the rate
    with the best accuracy on the validation half (ties: the lower loss there), for the share of the gain the one with the
    lowest objective; `edges` names the dimensions at which a rate beyond the grid could have been better. Full-size runs
    choose theirs alike. A run that ceased to be finite scores as the start does.
    """
    subject, before = headed(setting.subjects["delta"]), predicted.values
    size = sum(p.numel() for p in subject.initial.values())
    dimensions = _dimensions(setting, size)
    rates = sorted(float(x) for x in setting.options.get("rates", RATES))
    whole = [Whole(shapes(subject.initial))] * _count(setting)
    grid = [*zip(dimensions, _subspaces(setting, subject, dimensions), strict=True), (size, whole)]
    everything = [(i, 0, k) for i in range(len(grid)) for k in range(len(rates))]
    first = _runs(setting, before, subject, grid, rates, everything)
    by_share, by_accuracy = [], []
    for i in range(len(grid)):
        own = [row for row in first if row["place"] == i]
        by_share.append(min(own, key=lambda row: row["objective"])["step"])
        by_accuracy.append(min(own, key=lambda row: (-row["validation"], row["validation_loss"]))["step"])
    kept = [(i, k) for i in range(len(grid)) for k in sorted({by_share[i], by_accuracy[i]})]
    wanted = [(i, s, k) for s in range(1, _count(setting)) for i, k in kept]
    rows = first + (_runs(setting, before, subject, grid, rates, wanted) if wanted else [])

    def chosen(steps: list[int]) -> list[list[dict]]:
        return [[row for row in rows if row["place"] == i and row["step"] == k] for i, k in enumerate(steps)]

    def means(column: str, steps: list[int]) -> list[float]:
        return [float(np.mean([row[column] for row in group])) for group in chosen(steps)]

    gain = before["start"] - means("objective", by_share)[-1]
    for row in rows:
        row["share"] = (before["start"] - row["objective"]) / gain
        i, k = row["place"], row["step"]
        row |= {"chosen_share": k == by_share[i], "chosen_accuracy": k == by_accuracy[i]}

    def fitted(column: str, steps: list[int], chance: float) -> dict:
        *parts, full = chosen(steps)
        scored = [(row["dimension"], row[column]) for group in parts for row in group]
        return estimate(*map(list, zip(*scored, strict=True)), [row[column] for row in full], chance=chance)

    best = min(chosen(by_share)[-1], key=lambda row: row["objective"])
    trained = best["params"]
    plain = [{name: value for name, value in row.items() if name not in ("params", "losses")} for row in rows]
    chance, error = majority(_halves(setting)[1]), 0.5 / math.sqrt(len(_halves(setting)[0].labels))
    return Record(
        {
            "fit": {"share": fitted("share", by_share, 0.0), "accuracy": fitted("test", by_accuracy, chance)},
            "shares": means("share", by_share),
            "accuracies": means("test", by_accuracy),
            "gaps": (np.array(means("test_loss", by_accuracy)) - means("train_loss", by_accuracy)).tolist(),
            "examples": len(setting.train.labels),
            "majority": chance,
            "edges": {
                "share": _edges(first, by_share, lambda row: row["share"], EDGE),
                "accuracy": _edges(first, by_accuracy, lambda row: row["validation"], error),
            },
            "failed": sum(not row["finite"] for row in rows),
            "gain": gain,
            "settled": _settled(best["losses"]),
            "beyond_head": _beyond_head(setting, subject, trained),
            "coefficient": _coefficient(setting, subject, trained),
            "features": _features(setting, subject, trained),
            "rows": plain,
        },
        {"losses": np.stack([row["losses"] for row in rows], axis=1)},
    )


def _runs(setting: Setting, before: dict, subject, grid: list, rates: list[float], cells: list[tuple]) -> list[dict]:
    """Return a row per cell (place in the grid, seed, place among the rates) with what its run reached."""
    validation, test = _halves(setting)
    held = {"validation": validation, "test": test, "train": setting.train}
    run = train_subspaces(
        subject,
        [grid[i][1][s] for i, s, _ in cells],
        setting.train,
        rates=[rates[k] * before["distance"] / math.sqrt(grid[i][0]) for i, _, k in cells],
        steps=int(setting.options.get("steps", STEPS)),
        penalty=before["r"],
        batch=int(setting.options.get("batch", BATCH)),
        seeds=[own_seed(setting, 191, s) for _, s, _ in cells],
        held=held,
        logits=None if isinstance(subject, Subject) else torch.func.vmap(subject.outputs),
    )
    found = {"objective": _or(run.objective, before["start"])}
    for name, batch in held.items():
        found[name] = _or(run.scores[name], _accuracy(subject, batch))
        found[f"{name}_loss"] = _or(run.held_losses[name], _loss(subject, batch))
    return [
        {"place": i, "dimension": int(grid[i][0]), "full": i == len(grid) - 1, "seed": s, "step": k, "relative_rate": rates[k]}
        | {"rate": float(run.rates[e]), "finite": bool(run.finite[e])}
        | {name: float(values[e]) for name, values in found.items()}
        | {"losses": run.losses[:, e].double().cpu().numpy()}
        | ({"params": _reached(subject, run, e)} if i == len(grid) - 1 else {})
        for e, (i, s, k) in enumerate(cells)
    ]


def _reached(subject, run: EnsembleRun, member: int) -> Params:
    """Return the parameters that a full-size run reached."""
    step = Whole(shapes(subject.initial)).apply(run.theta[member])
    return {name: z.detach() + step[name] for name, z in subject.initial.items()}


def _beyond_head(setting: Setting, subject, params: Params) -> float | None:
    """Return the median share of the logits' shift that trained parameters make through the features, not the head."""
    if not isinstance(subject, Subject):
        return None
    head = subject.initial | {name: params[name] for name in READOUT_PARAMETERS}
    whole, alone = (logits(subject.outputs, p, setting.train) for p in (params, head))
    return float(np.median(np.linalg.norm(whole - alone, axis=1) / np.maximum(np.linalg.norm(whole, axis=1), 1e-12)))


def _coefficient(setting: Setting, subject, params: Params) -> dict:
    """Return the local learning coefficient at trained parameters, under a prior of LOCAL times the largest curvature there.

    Every loss is taken less its tangent there, so that the end of a finite training with a penalty is stationary. In a
    quadratic it is half the effective dimension at that ridge. Members fold into the batch where they can.
    """
    n, params = len(setting.train.labels), {name: value.detach() for name, value in params.items()}
    nbeta, own, folded = n / math.log(n), isinstance(subject, Subject), not isinstance(subject, Subject) or foldable(subject)

    def losses(p: Params, batch) -> Tensor:
        chains = len(next(iter(p.values())))
        spread = type(batch)(*(x.expand(chains, *x.shape) for x in batch))
        made = outputs(subject, p, spread) if own else torch.func.vmap(subject.outputs)(p, spread)
        each = torch.nn.functional.cross_entropy(made.flatten(0, 1), spread.labels.flatten(), reduction="none")
        return each.view(chains, -1).mean(1)

    bend = hessian(subject.loss, params, [setting.train], allow_unused=True)
    curvature = float(top_eigenpairs(bend, 1, which="largest", tol=CLOSE, proof=False).values[0])
    found = local_learning_coefficient(
        losses if folded else subject.loss,
        params,
        [taken(setting.train, part) for part in torch.arange(n).chunk(max(1, n // int(setting.options.get("part", PART))))],
        step=STABLE / (nbeta * (1 + LOCAL) * curvature),
        gamma=nbeta * LOCAL * curvature,
        chains=CHAINS,
        draws=SAMPLES,
        burn=BURN,
        route="leading" if folded else "loop",
        stationary=True,
        seed=own_seed(setting, 193),
    )
    value = found.value if math.isfinite(found.value) else None
    chains = {"chains": list(found.chain_values), "rhat": found.rhat if value else None}
    return {"status": found.status, "value": value, "curvature": curvature} | chains


def _features(setting: Setting, subject, params: Params) -> dict | None:
    """Return the TwoNN dimension of the trained features of all texts, None for a plant and where no number is found."""
    if not isinstance(subject, Subject):
        return None
    edits = subject.edits(params)
    with torch.no_grad():
        states = torch.cat([features(subject.backbone, batch, edits) for batch in (setting.train, setting.test)])
    found = two_nn(states.double().cpu().numpy())
    if not np.isfinite(found.value):
        return None
    return {"value": float(found.value), "stderr": float(found.stderr), "status": found.status}


def _edges(first: list[dict], chosen: list[int], score: Callable[[dict], float], slack: float) -> list[int]:
    """Return the dimensions whose chosen rate ends the grid and scores more than `slack` above the rate beside it."""
    last, found = max(row["step"] for row in first), []
    for i, k in enumerate(chosen):
        scores = {row["step"]: score(row) for row in first if row["place"] == i}
        if k in (0, last) and (last == 0 or scores[k] > scores[1 if k == 0 else k - 1] + slack):
            found.append(next(row["dimension"] for row in first if row["place"] == i))
    return found


def _or(values: Tensor, failed: float) -> np.ndarray:
    """Return the values in float64, with `failed` in the place of those that are not finite."""
    made = values.double().cpu().numpy()
    return np.where(np.isfinite(made), made, failed)


def _settled(losses: np.ndarray) -> float:
    """Return how much of the fall of a run's objective fell in its last tenth of steps."""
    late = max(1, len(losses) // 10)
    return float((losses[-2 * late : -late].mean() - losses[-late:].mean()) / max(losses[0] - losses[-late:].mean(), 1e-30))


def _accuracy(subject, batch) -> float:
    return float(np.mean(logits(subject.outputs, subject.initial, batch).argmax(1) == batch.labels.cpu().numpy()))


def _loss(subject, batch) -> float:
    with torch.no_grad():
        return float(subject.loss(subject.initial, batch))


EXPERIMENT = Experiment("sweep", "a sweep of random subspaces", ("delta",), predict, measure, weight=60.0, per_delta=True)
