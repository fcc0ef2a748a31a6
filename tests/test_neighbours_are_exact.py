"""The neighbours found through float32 are those of float64, whatever the cloud's scale, clusters and ties."""

import numpy as np
import pytest

from probes.dimension.neighbours import FEW, distances, sets

DRAW = np.random.default_rng(0)
NORMAL = DRAW.standard_normal((500, 30))
CLOUDS = {
    "normal": NORMAL,
    "tiny": 1e-25 * NORMAL,
    "huge": 1e25 * NORMAL,
    "two tight clusters": np.concatenate([1e-5 * NORMAL[:250] + 1, 1e-5 * NORMAL[250:] - 1]),
    "one far point": np.concatenate([NORMAL, np.full((1, 30), 1e6)]),
    "curve": np.cos(np.linspace(0, 3, 500)[:, None] * np.arange(1, 31)),
    "few points": NORMAL[:12],
    "tree": NORMAL[:, :5],
    "smallest": 1e-160 * NORMAL,
    "largest": 1e160 * NORMAL,
    "largest, tree": 1e160 * NORMAL[:, :5],
    **{
        f"clusters {s:g} apart": np.concatenate([NORMAL[:150], NORMAL[150:] + s * (np.arange(30) == 0)])
        for s in (1e2, 1e5, 1e7, 1e9)
    },
    "many clusters": NORMAL + 1e8 * DRAW.standard_normal((10, 30))[np.arange(500) % 10],
    "clusters of clusters": NORMAL + 1e4 * np.eye(30)[np.arange(500) % 7] + 1e8 * np.eye(30)[np.arange(500) % 3],
    "pairs": np.concatenate([NORMAL[:250], NORMAL[:250] + 1e-9 * NORMAL[250:]]),
    "small blobs": np.concatenate([NORMAL[:20] + 1e-7 * draw for draw in NORMAL.reshape(25, 20, 30)]),
    "one constant column": np.concatenate([NORMAL, np.full((500, 1), 1e12)], 1),
}


def exact(x, k):
    unit = np.abs(x - x[0]).max()
    d = unit * np.sqrt((((x[:, None] - x[None]) / unit) ** 2).sum(-1))
    np.fill_diagonal(d, np.inf)
    near = np.argsort(d, axis=1)[:, :k]
    return np.take_along_axis(d, near, 1), near


@pytest.mark.parametrize("k", [2, 9, FEW + 5])
@pytest.mark.parametrize("kind", CLOUDS)
def test_neighbours_are_those_of_all_distances(kind, k):
    x = CLOUDS[kind]
    k = min(k, len(x) - 1)
    d, near = distances(x, k)
    there, wanted = exact(x, k)
    np.testing.assert_allclose(d, there, rtol=1e-9)
    assert (near == wanted).all()
    rows = np.arange(0, len(x), 3)
    assert (np.sort(sets(x, rows, k), 1) == np.sort(wanted[rows], 1)).all()


def test_ties_have_the_distances_of_either():
    """Corners of a cube: twenty neighbours at one distance, any of which will do."""
    x = np.concatenate([np.eye(20), -np.eye(20)])
    d, near = distances(x, 3)
    np.testing.assert_allclose(d, np.sqrt(2), rtol=1e-15)
    assert all(len(set(row)) == 3 and i not in row for i, row in enumerate(near))
    assert all(
        len(set(row)) == 38 and i not in row and (i + 20) % 40 not in row for i, row in enumerate(sets(x, np.arange(40), 38))
    )
