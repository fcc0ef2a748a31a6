"""Plants of full tuning that shares a code: deltas on tasks that need mixtures of two signals, and all weights beside them.

What all weights move decides: only the two signals, so that any projection of the code does, or as many signals as there are.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import torch

from probes.dimension.projection import random_subspace

from ..shared.network import SYSTEMS, tensor
from ..shared.setting import Setting
from ..subspace.plants import FAINT, NEEDED, NUMBERS, OPTIONS, SIGNALS, Signalled, together
from .experiment import FULL

FEW, MANY = 8, 256  # weights
PART = 0.3  # of a delta's signal that the labels need, where each delta has its own
BASIS = np.linalg.qr(np.random.default_rng(281).standard_normal((SIGNALS, SIGNALS)))[0]  # that of `together`
# Full tuning's map stays, and the decoders have to come to it: mirrored ones reconstruct as well, so that this counts for little.
SEARCH = OPTIONS | {"joint_steps": 600, "joint_reconstruction": 0.01}
SPREAD = np.where(np.arange(SIGNALS) < NEEDED, 1.0, FAINT)


def inborn(system: int, seed: int) -> Setting:
    """Return a task beside which all weights move only the two signals that labels need."""
    return _among(system, seed, {FULL: _shared(seed)})


def wide(system: int, seed: int) -> Setting:
    """Return a task beside which all weights move every signal alike: few random directions hold little of what labels need."""
    return _among(system, seed, {FULL: BASIS / SPREAD @ _rows(MANY, SIGNALS)})


def separate(system: int, seed: int) -> Setting:
    """Return a task of which each delta knows a part of what labels need, beside a signal of its own that they do not."""
    maps: dict[str, np.ndarray] = {FULL: _shared(seed)}
    for k, (name, n) in enumerate(NUMBERS.items()):
        other = BASIS[:, NEEDED * (k + 1) : NEEDED * (k + 2)] / FAINT
        maps[name] = (PART * BASIS[:, :NEEDED] + np.sqrt(1.0 - PART**2) * other) @ _rows(n, NEEDED)
    return _among(system, seed, maps)


def _shared(seed: int) -> np.ndarray:
    """Return the map of weights that a code moves, by the projection through which they read it, as the two signals need."""
    projection = random_subspace({"z": (FEW,)}, NEEDED, seed=seed, dtype=torch.float64)
    return BASIS[:, :NEEDED] @ projection.apply(torch.eye(NEEDED, dtype=torch.float64))["z"].numpy()


def _rows(count: int, rank: int) -> np.ndarray:
    """Return orthonormal rows (rank, count)."""
    return np.linalg.qr(np.random.default_rng([353, count]).standard_normal((count, rank)))[0].T


def _among(system: int, seed: int, maps: Mapping[str, np.ndarray]) -> Setting:
    tasks = [_beside(together(task, seed), maps) for task in range(SYSTEMS)]
    return replace(tasks[system], other_tasks=tuple(tasks[:system] + tasks[system + 1 :]))


def _beside(setting: Setting, maps: Mapping[str, np.ndarray]) -> Setting:
    """Return a setting with some maps, whose networks are told apart by them so that trainings are shared."""
    subjects = {**setting.subjects, **{name: Signalled(tensor(np.ascontiguousarray(M))) for name, M in maps.items()}}
    marked = {name: replace(one, backbone=_marked(one)) for name, one in subjects.items()}
    return replace(setting, subjects=marked, options=SEARCH, other_tasks=())


def _marked(subject: Signalled) -> SimpleNamespace:
    mark = hashlib.sha256(subject.map.contiguous().numpy().tobytes()).hexdigest()
    return SimpleNamespace(device=torch.device("cpu"), fingerprint=mark)
