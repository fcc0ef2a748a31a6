"""One additive control at one port at a time: what it should cost, and what training it achieves."""

from functools import partial

import numpy as np

from theory.ensemble import ensemble_lq

from ...store import Record
from ..shared.linearisation import linearise, penalty
from ..shared.setting import Experiment, Setting
from ..shared.training import at_rest, cost, cross_entropy, loss_at, penalised, steered_loss, train


def predict(setting: Setting) -> Record:
    """Return for every port the energy that a fixed target shift needs, E* = d' (G_p G_p' + r N I)^-1 d, and its rivals.

    d raises each training example's true-class margin by one logit. Rivals: the norm of the gradient at the port, the trace
    of its kernel, and the linear-quadratic value.
    """
    subject, origin = setting.subjects["bias"], at_rest(setting.subjects["bias"])
    lin = linearise(subject.steered, origin, setting.train)
    r = penalty(setting, lin, subject.steered, origin)
    n, c, _ = lin.G.shape
    target = np.eye(c)[lin.labels] - 1.0 / c
    slope = lin.loss.gradient(lin.y0)
    rows = []
    for port in subject.ports:
        G = lin.columns(port)
        flat = G.reshape(n * c, -1)
        kernel = flat @ flat.T
        d = target.ravel()
        rows.append(
            {
                "port": port,
                "energy": float(d @ np.linalg.solve(kernel + r * n * np.eye(n * c), d)),
                "gradient_norm": float(np.linalg.norm(np.einsum("ncm,nc->m", G, slope) / n)),
                "trace": float(np.trace(kernel) / n),
                "lq_loss": float(ensemble_lq(G, lin.y0, lin.loss, r, kernel=kernel / r).value),
            }
        )
    return Record({"r": r, "ports": rows, "reference_loss": cross_entropy(lin.y0, lin.labels)}, {})


def measure(setting: Setting, predicted: Record) -> Record:
    """Return for every port the penalised training loss that one trained vector there reaches, and its held-out loss."""
    subject, r = setting.subjects["bias"], predicted.values["r"]
    rows = []
    for row in predicted.values["ports"]:
        origin = at_rest(subject, [row["port"]])
        fitted = train(setting, penalised(partial(steered_loss, subject), setting.train, r, origin), origin)
        test = loss_at(subject.steered, fitted.params, setting.test)
        rows.append({"port": row["port"], "loss": float(fitted.value), "test_loss": test, **cost(fitted)})
    return Record({"ports": rows}, {})


EXPERIMENT = Experiment("sites", "one control at each port", ("bias",), predict, measure, weight=7.0)
