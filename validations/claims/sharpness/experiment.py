"""Sharpness and generalisation gap of several deltas, each tuned with several penalties."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from probes.curvature.hessian import hessian
from probes.curvature.spectrum import top_eigenpairs
from theory.subspace import effective_dimension
from tuning.training import flatten

from ...store import Record
from ..shared.linearisation import linearise
from ..shared.setting import Experiment, Setting
from ..shared.training import at_start, cost, loss_at, penalised, train

SHARES = (0.3, 0.1)  # penalties over the largest Gauss-Newton curvature at the start
PRODUCTS = 8  # Hessian products spent on each largest eigenvalue


class Scaled:
    """The operator D H D for a diagonal D."""

    def __init__(self, op, diagonal: Tensor) -> None:
        self.op, self.diagonal, self.shape, self.dtype = op, diagonal, op.shape, op.dtype

    def __matmul__(self, v: Tensor) -> Tensor:
        scale = self.diagonal if v.ndim == 1 else self.diagonal[:, None]
        return scale * (self.op @ (scale * v))


def predict(setting: Setting) -> Record:
    """Return every point's penalty and what is known of it before training: its size, its effective dimension.

    A point is a delta with a penalty r, a share of its own largest Gauss-Newton curvature lambda_1, so that a rescaling of the
    delta's numbers changes no tuned function. Effective dimension: sum_i lambda_i / (lambda_i + r).
    """
    rows = []
    for name, subject in setting.subjects.items():
        origin = at_start(subject)
        lin = linearise(subject.outputs, origin, setting.train)
        curvatures = lin.curvatures(lin.y0)
        for share in SHARES:
            r = share * float(curvatures[0])
            known = {"size": int(lin.G.shape[-1]), "effective_dimension": effective_dimension(curvatures, r)}
            rows.append({"delta": name, "share": share, "r": r, **known})
    return Record({"points": rows}, {})


def sharpness(subject, params: Mapping[str, Tensor], origin: Mapping[str, Tensor], batch) -> dict[str, float]:
    """Return the sharpness of the training loss at `params` in three forms, and the distance from `origin`.

    sharpness: the Hessian's largest eigenvalue. trace: of the Gauss-Newton matrix. adaptive: the largest eigenvalue of
    |z| H |z|, each number's curvature in units of its own change z since the start, which no rescaling of the numbers alters
    (Kwon et al. 2021).
    """
    curvature = hessian(subject.loss, params, [batch], allow_unused=True)
    z = flatten(params) - flatten(origin)
    diagonal = torch.as_tensor(np.abs(z), dtype=curvature.dtype)
    lin = linearise(subject.outputs, params, batch)

    def largest(op) -> float:
        return float(top_eigenpairs(op, 1, which="largest", tol=0.05, max_products=PRODUCTS).values[0])

    return {
        "sharpness": largest(curvature),
        "adaptive": largest(Scaled(curvature, diagonal)),
        "trace": float(lin.curvatures(lin.y0).sum()),
        "norm": float(np.linalg.norm(z)),
    }


def measure(setting: Setting, predicted: Record) -> Record:
    """Return the sharpness and the generalisation gap, held-out less training loss, of every trained point.

    From the largest penalty down, each training starts where the one before it ended.
    """
    rows, at = [], {}
    for point in predicted.values["points"]:
        subject = setting.subjects[point["delta"]]
        origin = at_start(subject)
        fitted = train(setting, penalised(subject.loss, setting.train, point["r"], origin), at.get(point["delta"], origin))
        at = {point["delta"]: fitted.params}
        losses = [loss_at(subject.outputs, fitted.params, batch) for batch in (setting.train, setting.test)]
        found = sharpness(subject, fitted.params, origin, setting.train)
        rows.append({"loss": losses[0], "test_loss": losses[1], "gap": losses[1] - losses[0], **found, **cost(fitted)})
    return Record({"points": rows}, {})


EXPERIMENT = Experiment("sharpness", "sharpness of tuned deltas", (), predict, measure, weight=10.0, further=True)
