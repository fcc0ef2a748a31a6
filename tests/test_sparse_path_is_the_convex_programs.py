"""The group-sparse path meets the convex program at its prices, and blocks enter where the optimality conditions say."""

import numpy as np
import pytest
from control_problems import ensemble

from theory.convex import place
from theory.placement import sparse_path

BLOCKS = ["a"] * 3 + ["b"] * 5 + ["c"] * 4


@pytest.mark.parametrize("loss", ["cross-entropy", "quadratic"])
@pytest.mark.parametrize("N", [4, 15])
def test_the_path_is_the_convex_programs(loss, N):
    """Clarabel stops at about 1e-9 in value; with the penalty 0.1 that is 1e-4 in a norm, and 1e-4 in a share's bar."""
    G, y0, cost = ensemble(0, N=N, C=3, M=12, loss=loss)
    path = sparse_path(G, y0, cost, 0.1, BLOCKS)
    for k in (1, len(path.prices) // 2, len(path.prices) - 1):
        oracle = place(G, y0, cost, 0.1, BLOCKS, path.prices[k], share=1e-3)
        assert np.allclose(path.norms[k], [oracle.norms[b] for b in path.names], atol=1e-4)
        above = path.norms[k] - 1e-3 * np.linalg.norm(path.norms[k])
        surely, perhaps = ({name for name, x in zip(path.names, above, strict=True) if x > bar} for bar in (2e-4, -2e-4))
        assert surely <= set(oracle.active) <= perhaps


@pytest.mark.parametrize("seed", [1, 2, 3, 4])
def test_the_first_block_is_that_of_the_largest_gradient_and_the_others_enter_where_theirs_meets_the_price(seed):
    """A block is in use exactly where its gradient at the optimum of the other blocks exceeds the price."""
    G, y0, cost = ensemble(seed, N=12, C=3, M=12)
    path = sparse_path(G, y0, cost, 0.1, BLOCKS, ratio=0.97)
    gradient = np.tensordot(cost.gradient(y0) / 12, G, 2)
    at = {b: [i for i, label in enumerate(BLOCKS) if label == b] for b in path.names}
    forces = {b: np.linalg.norm(gradient[at[b]]) for b in path.names}
    first = path.names.index(max(forces, key=forces.get))
    assert path.prices[0] == pytest.approx(max(forces.values())) and path.entry[first] == path.prices[1]
    assert not path.norms[0].any() and (np.diff(path.prices) < 0).all()
    for name, price in zip(path.names, path.entry, strict=True):
        others = [i for i, label in enumerate(BLOCKS) if label != name]

        def pull(price, others=others, name=name):
            rest = place(G[..., others], y0, cost, 0.1, [BLOCKS[i] for i in others], price)
            return np.linalg.norm(np.tensordot(rest.control.costate, G, 2)[at[name]]) / price

        assert pull(price / 0.97) <= 1 + 1e-3 and pull(price) >= 1 - 1e-3
    assert [path.entry[path.names.index(b)] for b in path.order] == sorted(path.entry, reverse=True)


def test_what_does_not_fit_is_refused():
    G, y0, cost = ensemble(2, N=5, C=3, M=12)
    with pytest.raises(ValueError, match="blocks needs 12 labels"):
        sparse_path(G, y0, cost, 0.1, BLOCKS[:4])
    with pytest.raises(ValueError, match="was not reached in 2 steps"):
        sparse_path(G, y0, cost, 0.1, BLOCKS, limit=2)
