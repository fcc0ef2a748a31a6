"""The loss of every delta over a plane of the code, and the region where all of them do well."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from tuning.decomposition import InCode
from tuning.practice import scores

SIDE, ROOM = 9, 1.5  # points a side of the plane, and how far it reaches beyond the outermost code
KEPT = 0.5  # of the fall of a delta's loss by training in full: where it keeps that, it does well


@dataclass(frozen=True, eq=False)
class Plane:
    """A square of a code's space around zero: `axes` (2, d) are orthonormal, and codes reach to `extent` along both."""

    axes: np.ndarray
    extent: float

    @classmethod
    def of(cls, codes: np.ndarray) -> Plane:
        """Return the plane through zero that holds most of the squared length of some codes (k, d).

        Its axes are the leading right singular vectors, its extent is ROOM times the largest coordinate. Raises ValueError for codes
        of fewer than two numbers, and for fewer than two codes.
        """
        if codes.ndim != 2 or min(codes.shape) < 2:
            raise ValueError(
                f"expected at least two codes of at least two numbers to lay a plane through, got shape {codes.shape}"
            )
        axes = np.linalg.svd(codes, full_matrices=False)[2][:2]
        return cls(axes, ROOM * float(max(np.abs(codes @ axes.T).max(), 1e-12)))

    @property
    def dimension(self) -> int:
        """Return d, the numbers of a code."""
        return self.axes.shape[1]

    @property
    def codes(self) -> np.ndarray:
        """Return the codes (SIDE, SIDE, d) of the plane's points, the second axis along the rows."""
        along = np.linspace(-self.extent, self.extent, SIDE)
        x, y = np.meshgrid(along, along)
        return np.stack([x, y], -1) @ self.axes

    def placed(self, codes: np.ndarray) -> np.ndarray:
        """Return where codes (k, d) fall on the plane, (k, 2)."""
        return codes @ self.axes.T


def over(plane: Plane, subject: InCode, batch: object, turn: np.ndarray | None = None) -> np.ndarray:
    """Return the loss (SIDE, SIDE) of a subject on a batch at every code of a plane, turned before it is read if given."""
    like, points = subject.initial["code"], plane.codes if turn is None else plane.codes @ turn.T
    return np.array([[scores(subject, {"code": torch.as_tensor(code).to(like)}, batch)[0] for code in row] for row in points])


def common(losses: Mapping[str, np.ndarray], limits: Mapping[str, tuple[float, float]]) -> tuple[float, float]:
    """Return the area where all deltas do well over that where any does, and over the whole plane.

    losses: by delta, over one plane; limits: by delta, the loss frozen and that trained in full. A delta does well where its loss
    has fallen by KEPT of the way. Yi et al. 2022 (arXiv 2210.13311) show the region, here it is counted: the Jaccard index on a grid.
    """
    well = np.stack([losses[name] <= frozen + KEPT * (full - frozen) for name, (frozen, full) in limits.items()])
    every, some = well.all(0), well.any(0)
    return float(every.sum() / max(some.sum(), 1)), float(every.mean())
