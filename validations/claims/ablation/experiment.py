"""One control at every port, then without some of them: what zeroing them costs, with the rest kept or trained anew."""

from functools import partial
from itertools import combinations

import numpy as np
import torch

from theory.ablation import ablation
from tuning.training import fit, flatten

from ...store import Record
from ..shared.linearisation import departure, linearise, penalty
from ..shared.setting import Experiment, Params, Setting, own_rng
from ..shared.training import at_rest, cost, cross_entropy, logits, loss_at, penalised, signals, steered_loss
from . import placement

PAIRS = 12
PERMUTATIONS = 8
SHARP = 0.1  # an increase is a small difference of optimal values: the study's tolerance, times this


def _positions(subject, sets: list[list[str]]) -> list[np.ndarray]:
    """Return where the controls of each set of ports stand in the flat control."""
    start = {port: k * subject.width for k, port in enumerate(subject.ports)}
    return [np.concatenate([start[port] + np.arange(subject.width) for port in chosen]) for chosen in sets]


def _sets(setting: Setting, ports: tuple[str, ...]) -> list[list[str]]:
    """Return every single port and `PAIRS` pairs, drawn by the cell's seed, that leave at least one port."""
    pairs = [list(pair) for pair in combinations(ports, 2) if len(ports) > 2]
    drawn = np.random.default_rng([setting.seed, 105]).permutation(len(pairs))[:PAIRS]
    return [[port] for port in ports] + [pairs[k] for k in np.sort(drawn)]


def predict(setting: Setting) -> Record:
    """Return for every set of ports the increase of the penalised training loss when its controls are zeroed, and the rivals.

    `kept` and `reoptimised` are the two forms of `theory.ablation` at the linearised optimum z, the curvature taken at its
    linear outputs, so that the model is the second-order expansion of the linearised problem about its own optimum. Rivals:
    |z_S|^2; the same form in the diagonal of the curvature; the first gradient times z_S. Null: the same forms for the
    optima of permuted labels, averaged. `held_out` is the linearised increase of the held-out loss, the rest kept. Beside
    them, where the control is worth having at all (`placement.predict`).
    """
    subject, origin = setting.subjects["bias"], at_rest(setting.subjects["bias"])
    lin, test = (linearise(subject.steered, origin, batch) for batch in (setting.train, setting.test))
    r = penalty(setting, lin, subject.steered, origin)
    kernel = lin.kernel()
    best = lin.optimum(r, kernel=kernel)
    sets = _sets(setting, subject.ports)
    at = _positions(subject, sets)
    found = ablation(lin.G, best.outputs, lin.loss, r, best.z, at)
    rng = own_rng(setting, 106)
    shuffled = [lin.optimum(r, kernel=kernel, labels=rng.permutation(lin.labels)) for _ in range(PERMUTATIONS)]
    null = [ablation(lin.G, best.outputs, lin.loss, r, other.z, at) for other in shuffled]
    slope = np.einsum("ncm,nc->m", lin.G, lin.loss.gradient(lin.y0)) / len(lin.y0)
    moved = logits(subject.steered, signals(best.z, subject.ports, subject), setting.test)
    reached = cross_entropy(test.y0 + test.G @ best.z, test.labels)
    rows = [
        {
            "ports": chosen,
            "kept": float(found.kept[k]),
            "reoptimised": float(found.reoptimised[k]),
            "norm": float(best.z[where] @ best.z[where]),
            "diagonal": float(found.diagonal[k]),
            "gradient": float(abs(slope[where] @ best.z[where])),
            "permuted_kept": float(np.mean([n.kept[k] for n in null])),
            "permuted_reoptimised": float(np.mean([n.reoptimised[k] for n in null])),
            "held_out": cross_entropy(test.y0 + test.G @ _without(best.z, where), test.labels) - reached,
        }
        for k, (chosen, where) in enumerate(zip(sets, at, strict=True))
    ]
    return Record(
        {
            "r": r,
            "eta": departure(test, best, moved),
            "predicted_loss": float(best.value),
            "reference_loss": cross_entropy(lin.y0, lin.labels),
            "sets": rows,
            **placement.predict(setting, lin, subject.ports, r),
        },
        {"outputs": best.outputs},
    )


def _without(z: np.ndarray, where: np.ndarray) -> np.ndarray:
    """Return a control with some positions zeroed."""
    rest = z.copy()
    rest[where] = 0.0
    return rest


def measure(setting: Setting, predicted: Record) -> Record:
    """Return for every set what zeroing it in the trained control costs, and what is left of that once the rest is trained anew.

    All trainings are full batch on loss + (r/2)|z|^2 and end at one gradient norm: `SHARP` times the study's tolerance times
    the norm at zero. The rest starts from its trained value. Beside the training objective stands the held-out loss; beside
    the prediction, the same forms with the trained control in place of the predicted one, which is no prediction. Then the
    controls at each candidate set of ports alone, from zero and at the study's own tolerance (`placement.measure`).
    """
    subject, r, outputs = setting.subjects["bias"], predicted.values["r"], predicted.arrays["outputs"]
    origin = at_rest(subject)
    objective = penalised(partial(steered_loss, subject), setting.train, r, origin)

    def held_out(control: Params) -> float:
        return loss_at(subject.steered, control, setting.test)

    whole = fit(objective, origin, tolerance=SHARP * setting.tolerance, max_evaluations=setting.evaluations)
    goal = SHARP * setting.tolerance * whole.initial_gradient_norm
    z, lost = flatten(whole.params), held_out(whole.params)
    sets = [row["ports"] for row in predicted.values["sets"]]
    at = _positions(subject, sets)
    lin = linearise(subject.steered, origin, setting.train)
    known = ablation(lin.G, outputs, lin.loss, r, z, at)
    rows = []
    for k, chosen in enumerate(sets):
        rest = {port: v for port, v in whole.params.items() if port not in chosen}
        kept = fit(objective, rest, tolerance=1.0)  # stays where it is: the value and gradient there
        anew = fit(
            objective,
            rest,
            tolerance=min(1.0, goal / max(kept.initial_gradient_norm, 1e-30)),
            max_evaluations=setting.evaluations,
        )
        rows.append(
            {
                "ports": chosen,
                "kept": kept.value - whole.value,
                "reoptimised": anew.value - whole.value,
                "held_out_kept": held_out(rest) - lost,
                "held_out_reoptimised": held_out(anew.params) - lost,
                "norm": float(z[at[k]] @ z[at[k]]),
                "trained_kept": float(known.kept[k]),
                "trained_reoptimised": float(known.reoptimised[k]),
                **cost(anew),
            }
        )
    resolution = float(torch.finfo(subject.dtype).eps) * abs(whole.value)
    return Record(
        {
            "whole": {"value": whole.value, "held_out": lost, **cost(whole)},
            "resolution": resolution,
            "norm": float(np.linalg.norm(z)),
            "sets": rows,
            "places": placement.measure(setting, predicted.values, origin, r),
        },
        {},
    )


EXPERIMENT = Experiment("ablation", "controls at every port, without some, and at a few", ("bias",), predict, measure, weight=9.0)
