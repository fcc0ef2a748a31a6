"""How much of a control's energy its displacement needed: the minimum-energy efficiency of trained controls."""

from functools import partial

import numpy as np

from theory.kernel import gradient_rival
from tuning.training import fit, flatten, gradient_descent

from ...store import Record
from ..shared.linearisation import departure, linearise, penalty
from ..shared.setting import Experiment, Setting, own_rng
from ..shared.training import at_rest, cost, logits, penalised, shifted, steered_loss, train

DECAYS = tuple(float(x) for x in 10.0 ** np.arange(0.0, 1.6, 0.5))
MARGINS = 10
RIDGE = 0.01
RANDOM = 8
EARLY = 8


def margin_rows(labels: np.ndarray, classes: int) -> np.ndarray:
    """Return W (K, N, C), K <= `MARGINS`: sum_ic W_kic y_ic is the mean margin of the k-th class that occurs.

    An example's margin is its true class's logit less the mean of the others'. So few outputs leave the control
    underdetermined: with as many rows as controls every efficiency would be 1.
    """
    present = [c for c in range(classes) if np.any(labels == c)][:MARGINS]
    contrast = (classes * np.eye(classes) - 1.0) / (classes - 1)
    return np.stack([(labels == c)[:, None] * contrast[c] / np.sum(labels == c) for c in present])


def efficiency(G: np.ndarray, d: np.ndarray, z: np.ndarray) -> float:
    """Return d' (G G' + eps I)^-1 d / |z|^2, the least energy that displaces the outputs by d over the energy spent.

    eps is `RIDGE` times the trace of G G'. At most 1 where the outputs are linear in the control. G (K, M), d (K,), z (M,).
    """
    kernel = G @ G.T
    return float(d @ np.linalg.solve(kernel + RIDGE * np.trace(kernel) * np.eye(len(d)), d) / (z @ z))


def predict(setting: Setting) -> Record:
    """Return the efficiency of the linearised optimum at every weight decay, of the gradient and of random controls.

    One vector per port, added for every example and token. Outputs are the class-conditional mean margins on held-out text.
    Random controls are G' xi: they lie in the row space of the training text's response, as the optima do.
    """
    subject, origin = setting.subjects["bias"], at_rest(setting.subjects["bias"])
    lin, test = (linearise(subject.steered, origin, batch) for batch in (setting.train, setting.test))
    rows = margin_rows(test.labels, test.G.shape[1])
    G = np.einsum("knc,ncm->km", rows, test.G)
    r, kernel = penalty(setting, lin, subject.steered, origin), lin.kernel()
    controls = [lin.optimum(decay * r, kernel=kernel) for decay in DECAYS]
    flat = lin.G.reshape(-1, lin.G.shape[-1])
    random = own_rng(setting, 111).standard_normal((RANDOM, len(flat))) @ flat
    gradient = gradient_rival(lin.G, lin.y0, lin.loss, r).z
    moved = logits(subject.steered, shifted(origin, controls[0].z), setting.test)
    return Record(
        {
            "r": r,
            "eta": departure(test, controls[0], moved),
            "decays": list(DECAYS),
            "efficiency": [efficiency(G, G @ control.z, control.z) for control in controls],
            "efficiency_gradient": efficiency(G, G @ gradient, gradient),
        },
        {"G": G, "gradient": gradient, "random": random, "y0": test.y0},
    )


def measure(setting: Setting, predicted: Record) -> Record:
    """Return the efficiency of the trained controls, from the displacement that the real network shows on held-out text.

    Trained from zero to convergence at every weight decay; at the smallest also by `EARLY` steps of gradient descent only;
    and without any. The gradient and the random controls are as long as displaces the margins as far as the trained control
    at the smallest decay, at first order.
    """
    subject, r, a = setting.subjects["bias"], predicted.values["r"], predicted.arrays
    origin, G = at_rest(subject), a["G"]
    rows = margin_rows(setting.test.labels.cpu().numpy(), a["y0"].shape[1])

    def shown(z: np.ndarray) -> np.ndarray:
        return np.einsum("knc,nc->k", rows, logits(subject.steered, shifted(origin, z), setting.test) - a["y0"])

    def objective(decay: float):
        return penalised(partial(steered_loss, subject), setting.train, decay * r, origin)

    levels, reached = [], []
    for decay in predicted.values["decays"]:
        fitted = train(setting, objective(decay), origin)
        z = flatten(fitted.params)
        reached.append(shown(z))
        levels.append(
            {"decay": decay, "efficiency": efficiency(G, reached[-1], z), "norm": float(np.linalg.norm(z)), **cost(fitted)}
        )

    def scaled(u: np.ndarray) -> float:
        z = np.linalg.norm(reached[0]) / np.linalg.norm(G @ u) * u
        return efficiency(G, shown(z), z)

    arms = {
        "early": gradient_descent(objective(levels[0]["decay"]), origin, tolerance=0.0, max_evaluations=EARLY),
        "free": fit(objective(0.0), origin, tolerance=setting.tolerance, max_evaluations=setting.evaluations // 2),
    }
    trained = {name: flatten(fitted.params) for name, fitted in arms.items()}
    return Record(
        {
            "r": r,
            "levels": levels,
            "gradient": scaled(a["gradient"]),
            "random": float(np.median([scaled(u) for u in a["random"]])),
            **{name: efficiency(G, shown(z), z) for name, z in trained.items()},
        },
        {},
    )


EXPERIMENT = Experiment("efficiency", "one control at four weight decays", ("bias",), predict, measure, weight=5.0)
