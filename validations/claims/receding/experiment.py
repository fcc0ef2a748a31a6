"""The shared gain solved again in its own loop, before an adapter is trained; then the adapter, and other solvers of the same law."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from theory.loss import CrossEntropy
from theory.open_loop import Path
from theory.receding import Gains, Resolved, nothing, receding
from theory.shared_gain import energy_price, shared_gain
from tuning.training import flatten, unflatten

from ...store import Record
from ..feedback.experiment import along, jacobian, observe, posed
from ..shared.setting import Experiment, Params, Setting, own_rng
from ..shared.training import at_start, attention_ports, cost, train
from ..solvers.race import Rules, adamw_path, lbfgs_path, outline
from .closed import Closed

ROUNDS = 8  # re-solves of a prediction
DEALT = 4  # times that labels are dealt out
ACCURACIES = (0.5, 0.9, 0.99)  # shares of the largest fall of the objective that any solver made


def _closed(setting: Setting, r: float) -> Closed:
    subject = setting.subjects["adapter"]
    ports = attention_ports(subject)
    return Closed(subject, ports, observe(subject, ports, setting.train), setting.train, r)


def _ranks(closed: Closed) -> list[int]:
    return [len(closed.subject.initial[f"{port}.down"]) for port in closed.ports]


def _rest(closed: Closed) -> Gains:
    return nothing([closed.subject.width] * len(closed.ports), [f.shape[-1] for f in closed.seen.ensemble.phi])


def _solved(closed: Closed, rounds: int, budget: float = np.inf) -> Resolved:
    loss = CrossEntropy(closed.batch.labels.cpu().numpy())
    return receding(closed.close, closed.objective, _rest(closed), loss, closed.r, rounds=rounds, budget=budget)


def _dealt(closed: Closed, rng: np.random.Generator) -> Closed:
    """Return the same texts with their labels dealt out at random."""
    order = torch.as_tensor(rng.permutation(len(closed.batch.labels)))
    return replace(closed, batch=closed.batch._replace(labels=closed.batch.labels[order]))


def predict(setting: Setting) -> Record:
    """Return the shared gain of the linear response, and that of ROUNDS re-solves in its own loop, cut to the adapter's rank.

    r is the smallest price whose shared control stays in the linear regime (`penalty`). Beside the laws: what each makes of the
    training objective once it is installed, and what dealt labels make of the gains.
    """
    _, lin, r = posed(setting)
    closed = _closed(setting, r)
    ranks, rng = _ranks(closed), own_rng(setting, 263)
    first = shared_gain(closed.seen.ensemble, lin.loss, closed.r, energy_price(closed.seen.ensemble))
    path = _solved(closed, ROUNDS)
    laws = {"once": (first.k, first.K), "again": path.laws[-1]}
    laws |= {f"dealt{draw}": _solved(_dealt(closed, rng), ROUNDS).laws[-1] for draw in range(DEALT)}
    cut = {name: closed.cut(law, ranks) for name, law in laws.items()}
    return Record(
        {
            "r": closed.r,
            "ports": list(closed.ports),
            "start": float(path.objectives[0]),
            "again": closed.objective(cut["again"]),
            "full_rank": float(path.objectives[-1]),
            "cost": float(path.costs[-1]),
            "solved": len(path.laws) - 1,
        },
        {f"basis.{port}": B for port, B in zip(closed.ports, closed.seen.bases, strict=True)}
        | {
            f"{name}/{port}/{what}": value
            for name, law in cut.items()
            for what, values in zip("kK", law, strict=True)
            for port, value in zip(closed.ports, values, strict=True)
        },
    )


def measure(setting: Setting, predicted: Record) -> Record:
    """Return what every law makes of the objective, beside the adapter that is trained, and a race for the law at several prices.

    The adapter trains full-batch under loss + (r/2) signal energy. The race is for the least objective over affine laws of full
    rank: re-solves, L-BFGS and AdamW, all from rest, the latter two in coordinates in which the price is the square. Options:
    shares of the price r, budget in gradients, and AdamW's rates.
    """
    adapter, arrays, told = setting.subjects["adapter"], predicted.arrays, predicted.values
    ports, r = tuple(told["ports"]), told["r"]
    trace: list[float] = []

    def objective(numbers: Params) -> torch.Tensor:
        value = adapter.priced_loss(numbers, setting.train, r)
        trace.append(value.item())
        return value

    fitted = train(setting, objective, at_start(adapter))
    with torch.no_grad():
        rolled = adapter.rollout(fitted.params, setting.test)
    trained = [jacobian(adapter, fitted.params, port, rolled, setting.test) @ arrays[f"basis.{port}"] for port in ports]
    own, races = _closed(setting, r), []
    laws = {name: _unpacked(name, arrays, ports) for name in ("once", "again", *(f"dealt{draw}" for draw in range(DEALT)))}
    for share in setting.options["shares"]:
        closed = replace(own, r=share * r)
        paths = _race(closed, setting)
        races.append({"share": share} | _told(paths, closed, setting))
        if share == 1.0:
            laws["lbfgs"] = own.cut(
                own.law(unflatten(_cheapest(paths["lbfgs"], told["cost"]), own.numbers(_rest(own)))), _ranks(own)
            )
    objectives = {name: own.objective(law) for name, law in laws.items()}
    return Record(
        {
            "r": r,
            "cosines": {name: along(trained, gains) for name, (_, gains) in laws.items()},
            "objectives": objectives,
            "start": own.objective(_rest(own)),
            "value": float(fitted.value),
            "passes": {name: _passes(trace, value) for name, value in objectives.items()},
            "budget": setting.options["budget"],
            "races": races,
            **cost(fitted),
        },
        {f"trained.{port}": K for port, K in zip(ports, trained, strict=True)},
    )


def _unpacked(name: str, arrays: Mapping[str, np.ndarray], ports: Sequence[str]) -> Gains:
    k, K = (tuple(arrays[f"{name}/{port}/{what}"] for port in ports) for what in "kK")
    return k, K


def _passes(trace: Sequence[float], value: float) -> int:
    """Return the gradients after which training had come as low as a value, all of them where it never did."""
    met = np.flatnonzero(np.asarray(trace) <= value)
    return int(met[0]) + 1 if len(met) else len(trace)


def _race(closed: Closed, setting: Setting) -> dict[str, Path]:
    """Return by solver the numbers of the laws that it visited, what had been paid for each, and their objectives."""
    rates, budget, size = setting.options["rates"], int(setting.options["budget"]), len(setting.train.labels)
    solved = _solved(closed, budget, budget)
    visited = np.array([flatten(closed.numbers(law)) for law in solved.laws])
    rest = closed.numbers(solved.laws[0])
    rules = Rules(budget, setting.tolerance / 10, (budget,) * len(rates), rates, size, budget)
    return {
        "again": Path(visited, solved.costs, solved.objectives, solved.weight, solved.rejected),
        "lbfgs": lbfgs_path(closed.value, rest, rules)[0],
        "adamw": adamw_path(closed.value, rest, size, rules, setting.seed)[0],
    }


def _told(paths: Mapping[str, Path], closed: Closed, setting: Setting) -> dict[str, Any]:
    """Return a race in plain numbers: costs by solver and accuracy, what is left, and the held-out end of each path."""
    start, best = float(paths["again"].objectives[0]), min(float(path.objectives.min()) for path in paths.values())
    costs, ends = {}, {}
    for name, path in paths.items():
        places = [path.first(start - share * (start - best)) for share in ACCURACIES]
        costs[name] = [None if place is None else float(path.costs[place]) for place in places]
        last = unflatten(path.controls[int(np.argmin(path.objectives))], closed.numbers(_rest(closed)))
        ends[name] = dict(zip(("loss", "accuracy"), closed.told(last, setting.test), strict=True))
    left = {name: float((path.objectives.min() - best) / max(start - best, 1e-300)) for name, path in paths.items()}
    outlines = {name: outline(path, start, best) for name, path in paths.items()}
    rejected = paths["again"].rejected
    return {"start": start, "best": best, "costs": costs, "left": left, "ends": ends, "rejected": rejected, "paths": outlines}


def _cheapest(path: Path, budget: float) -> np.ndarray:
    """Return the numbers of the lowest objective that a solver had met for this cost."""
    within = np.flatnonzero(path.costs <= budget)
    return path.controls[within[np.argmin(path.objectives[within])]]


EXPERIMENT = Experiment(
    "receding", "the shared gain solved again", ("adapter",), predict, measure, weight=15.0, per_delta=True, by_token=True
)
