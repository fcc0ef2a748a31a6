"""The solvers' race on the network's linearisation, before the network is tuned, and on the network itself."""

from typing import Any

import numpy as np
import torch

from probes.curvature.hessian import hessian
from probes.reach.extremal import extremality
from theory.open_loop import BACKWARD, FORWARD, sweeps_left
from tuning.training import unflatten

from ...store import Record
from ..shared.linearisation import departure, linearise
from ..shared.setting import Experiment, Setting
from ..shared.training import at_rest, logits, loss_at, shifted
from .ensemble import Ensemble, of_network, of_tangent
from .race import Race, Rules, outline, race

ACCURACIES = (0.5, 0.9, 0.99, 0.999)  # shares of the whole fall of the objective


def rules(setting: Setting) -> Rules:
    """Return what the race allows, from the study's solver settings and the part's options."""
    options = setting.options
    return Rules(
        budget=setting.evaluations,
        tolerance=setting.tolerance,
        lengths=options["lengths"],
        rates=options["rates"],
        batch_size=options["batch_size"],
        stop=options["stop"],
    )


def predict(setting: Setting) -> Record:
    """Return the race run on y0 + G u, from the frozen network alone, at every price r = share x its largest curvature.

    Everything that is measured later is foretold by it: what every solver pays for every share of the fall, and how far, layer by
    layer, AdamW stops from an extremal. eta: the departure of the network from linearity at the linearised optimum, on the
    training text. sweeps: what those of iterative LQ leave of the fall by `sweeps_left`, which turns into their cost: on the
    linearisation itself the first sweep is the last.
    """
    subject = setting.subjects["bias"]
    rest = at_rest(subject)
    lin = linearise(subject.steered, rest, setting.train)
    scale, ensemble, kernel, races = float(lin.curvatures(lin.y0)[0]), of_tangent(lin, rest), lin.kernel(), []
    bend = hessian(of_network(subject, setting.train).mean_loss, rest, [ensemble.rows], allow_unused=True)
    for share in setting.options["shares"]:
        r = share * scale
        control = lin.optimum(r, kernel=kernel)
        moved = logits(subject.steered, shifted(rest, control.z), setting.train)
        left = sweeps_left(
            lin.G, lin.y0, lin.loss, r, lambda v: (bend @ torch.as_tensor(v).to(bend.dtype)).double().cpu().numpy()
        )
        about = {"share": share, "r": r, "eta": departure(lin, control, moved)}
        told = _told(race(ensemble, r, rules(setting), setting.seed), ensemble, r)
        told["costs"]["lq"] = [_sweeps(left, accuracy, lin.y0.shape[1]) for accuracy in ACCURACIES]
        races.append(about | {"sweeps": [x for x in left.tolist() if np.isfinite(x)]} | told)
    return Record({"curvature": scale, "classes": int(lin.y0.shape[1]), "ports": list(rest), "races": races}, {})


def measure(setting: Setting, predicted: Record) -> Record:
    """Return the race run on the network at the same prices, with the held-out loss where each solver made each share."""
    subject, races = setting.subjects["bias"], []
    ensemble = of_network(subject, setting.train)
    for told in predicted.values["races"]:
        run = race(ensemble, told["r"], rules(setting), setting.seed)
        races.append({"share": told["share"], "r": told["r"]} | _told(run, ensemble, told["r"]) | _held_out(run, setting))
    start = loss_at(subject.steered, at_rest(subject), setting.test)
    return Record({"budget": setting.evaluations, "start_test": start, "races": races}, {})


def _told(run: Race, ensemble: Ensemble, r: float) -> dict[str, Any]:
    """Return a race in plain numbers: costs by solver and accuracy, ends, and the maximum principle's residuals by port."""
    costs = {name: [_cost(run, name, share) for share in ACCURACIES] for name in run.paths}
    fall = max(run.start - run.best, 1e-300)
    left = {name: float((path.objectives.min() - run.best) / fall) for name, path in run.paths.items()}
    residuals = {}
    for name, u in (("trained", run.trained), ("stopped", run.stopped)):
        found = extremality(ensemble.mean_loss, unflatten(u, ensemble.rest), [ensemble.rows], r)
        residuals[name] = {"stationarity": found.stationarity.tolist(), "gap": found.gap.tolist()}
    return {
        "converged": run.converged,
        "evaluations": int(run.paths["lbfgs"].costs[-1]),
        "start": run.start,
        "best": run.best,
        "costs": costs,
        "left": left,
        "rho": run.paths["msa"].weight,
        "rejected": run.paths["lq"].rejected,
        "paths": {name: outline(path, run.start, run.best) for name, path in run.paths.items()},
    } | residuals


def _sweeps(left: np.ndarray, share: float, classes: int) -> float | None:
    """Return what iterative LQ pays for a share of the fall where its sweeps leave so much of it, None where never."""
    met = np.flatnonzero(left <= 1.0 - share)
    return FORWARD + float(met[0] + 1) * ((classes - 1) * BACKWARD + FORWARD) if len(met) else None


def _cost(run: Race, name: str, share: float) -> float | None:
    """Return the gradients that a solver had paid when it had made a share of the fall, None where it never did."""
    path = run.paths[name]
    place = path.first(run.target(share))
    return None if place is None else float(path.costs[place])


def _held_out(run: Race, setting: Setting) -> dict[str, Any]:
    """Return the held-out loss of each solver's first control at each accuracy, None where it has none."""
    subject, found = setting.subjects["bias"], {}
    rest = at_rest(subject)
    for name, path in run.paths.items():
        places = [path.first(run.target(share)) for share in ACCURACIES]
        found[name] = [
            None if at is None else loss_at(subject.steered, unflatten(path.controls[at], rest), setting.test) for at in places
        ]
    return {"held_out": found}


EXPERIMENT = Experiment("solvers", "solvers of optimal control beside training", ("bias",), predict, measure, weight=6.0)
