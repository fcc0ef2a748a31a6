"""How a number goes along an axis of backbones: slopes per octave within tasks, and slopes of what all tasks make together."""

from collections.abc import Callable

import numpy as np

from ...statistics import Columns, Statistic
from .members import Axis

DRAWS = 100  # of a null
LEVEL = 0.975
GROUP = ("task", "seed", "option")  # rows of one task, seed and delta: one for every member


def _on(axis: Axis, columns: Columns) -> dict[str, np.ndarray]:
    """Return the rows of the axis's members, with their place on it."""
    x = axis.octaves(columns["member"])
    kept = np.isfinite(x)
    return {name: values[kept] for name, values in columns.items()} | {"octaves": x[kept]}


def _groups(columns: Columns, *names: str) -> np.ndarray:
    """Return the group of every row, a number for each combination of the columns there are among the names."""
    labels = list(zip(*(columns[name].astype(str) for name in names if name in columns), strict=True))
    places = {label: k for k, label in enumerate(dict.fromkeys(labels))}
    return np.array([places[label] for label in labels])


def _centred(values: np.ndarray, groups: np.ndarray) -> np.ndarray:
    return values - (np.bincount(groups, values) / np.bincount(groups))[groups]


def within(axis: Axis, column: str, *given: str) -> Statistic:
    """Return the statistic "slope of a column per octave of an axis within a task and delta", other columns held constant.

    Least squares with a level of its own for every task, seed and delta, so that members a group lacks cost it nothing else. NaN
    where no task has two members.
    """

    def slope(columns: Columns) -> float:
        rows = _on(axis, columns)
        if not len(rows["octaves"]):
            return np.nan
        groups = _groups(rows, *GROUP)
        x = np.stack([_centred(rows[name].astype(float), groups) for name in ("octaves", *given)], axis=1)
        if not x[:, 0].any():
            return np.nan
        return float(np.linalg.lstsq(x, _centred(rows[column].astype(float), groups), rcond=None)[0][0])

    return slope


def together(axis: Axis, value: Callable[[Columns], float], weight: str) -> Statistic:
    """Return the statistic "slope per octave of an axis of a number that all tasks make together, a member's own".

    A member counts by the sum of the column `weight`, none where that is not positive: what nothing can be said of says nothing.
    NaN where fewer than two members count.
    """

    def slope(columns: Columns) -> float:
        rows = _on(axis, columns)
        x, y, w = [], [], []
        for place in np.unique(rows["octaves"]):
            own = {name: values[rows["octaves"] == place] for name, values in rows.items()}
            if (counted := float(np.sum(own[weight]))) > 0:
                x, y, w = [*x, place], [*y, value(own)], [*w, counted]
        if len(x) < 2:
            return np.nan
        return float(np.polyfit(x, y, 1, w=np.sqrt(w))[0])

    return slope


def falls(statistic: Statistic) -> Statistic:
    """Return a statistic with its sign turned: by how much something falls."""
    return lambda columns: -statistic(columns)


def dealt(axis: Axis, statistic: Statistic) -> Statistic:
    """Return the 97.5 % quantile of a statistic when the axis's members are dealt out at random within every task."""

    def bound(columns: Columns) -> float:
        rows, rng, found = _on(axis, columns), np.random.default_rng(0), []
        groups = _groups(rows, "task", "seed")
        names = rows["member"].astype(str)
        for _ in range(DRAWS):
            taken = names.copy()
            for group in range(groups.max() + 1):
                mine = np.unique(names[groups == group])
                swap = dict(zip(mine, rng.permutation(mine), strict=True))
                taken[groups == group] = [swap[name] for name in names[groups == group]]
            found.append(statistic(rows | {"member": taken}))
        return float(np.nanquantile(found, LEVEL))

    return bound
