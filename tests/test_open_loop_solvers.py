"""Controls that all examples share: residuals of the maximum principle, the two control solvers, and what they pay."""

import numpy as np
import pytest
import torch

from probes.reach.extremal import extremality
from theory import CrossEntropy, Process, Quadratic, adjoint, ensemble_lq, ilqr, msa
from theory.open_loop import BACKWARD, FORWARD, iterated_lq, successive, sweeps_left

N, C, M, R = 12, 3, 7, 0.05


def linear(seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(N, C, M)), rng.normal(size=(N, C)), CrossEntropy(rng.integers(0, C, N))


class Counted:
    """Outputs y0 + G u + bend (a'u)^2 b, with a count of the passes that were asked for."""

    def __init__(self, G, y0, loss, bend=0.0):
        rng = np.random.default_rng(9)
        self.G, self.y0, self.loss, self.bend = G, y0, loss, bend
        self.a, self.b = rng.normal(size=M), rng.normal(size=(N, C))
        self.forwards = self.backwards = 0

    def __call__(self, u):
        self.forwards += 1
        return Seen(self, np.array(u))

    def slope(self, u):
        return self.G + 2 * self.bend * (self.a @ u) * self.b[..., None] * self.a

    def objective(self, u):
        y = self.y0 + self.G @ u + self.bend * (self.a @ u) ** 2 * self.b
        return float(self.loss.value(y).mean()) + R / 2 * float(u @ u)

    def hessian(self, u, h=1e-5):
        """The Hessian of the mean loss, by central differences of its gradient."""
        rows = [(self(u + h * e).gradient() - self(u - h * e).gradient()) / (2 * h) for e in np.eye(M)]
        return np.array(rows)


class Seen:
    def __init__(self, owner, u):
        self.owner, self.u = owner, u
        self.outputs = owner.y0 + owner.G @ u + owner.bend * (owner.a @ u) ** 2 * owner.b

    def gradient(self):
        self.owner.backwards += 1
        return np.tensordot(self.owner.loss.gradient(self.outputs), self.owner.slope(self.u), 2) / N

    def response(self):
        self.owner.backwards += C - 1
        G = self.owner.slope(self.u)
        return G - G[:, :1]  # the softmax sees contrasts only


def test_on_a_linear_network_one_iteration_is_the_optimum():
    G, y0, loss = linear()
    forward = Counted(G, y0, loss)
    found = iterated_lq(forward, np.zeros(M), loss, R, budget=50)
    best = ensemble_lq(G, y0, loss, R)
    assert len(found.objectives) == 2 and found.rejected == 0
    assert np.abs(found.controls[-1] - best.z).max() < 1e-8 and abs(found.objectives[-1] - best.value) < 1e-12
    assert found.costs[-1] == 2 * FORWARD + (C - 1) * BACKWARD


@pytest.mark.parametrize("solver", [iterated_lq, successive])
@pytest.mark.parametrize("bend", [0.0, 0.3])
def test_solvers_descend_and_their_price_is_that_of_their_passes(solver, bend):
    forward = Counted(*linear(), bend)
    found = solver(forward, np.zeros(M), forward.loss, R, budget=30)
    paid = FORWARD * forward.forwards + BACKWARD * forward.backwards
    assert paid <= 30 and np.all(np.diff(found.costs) > 0) and np.all(np.diff(found.objectives) < 0)
    assert 0 <= paid - found.costs[-1] <= max((C - 1) * BACKWARD, BACKWARD) + FORWARD * found.rejected
    for u, value in zip(found.controls, found.objectives, strict=True):
        assert abs(forward.objective(u) - value) < 1e-12


@pytest.mark.parametrize("bend", [0.0, 0.1, 0.3])
def test_both_control_solvers_end_at_an_extremal(bend):
    forward = Counted(*linear(1), bend)
    for solver, options in ((iterated_lq, {"tolerance": 1e-14}), (successive, {"tolerance": 1e-7})):
        u = solver(forward, np.zeros(M), forward.loss, R, budget=5000, **options).controls[-1]
        first, last = forward(np.zeros(M)).gradient(), forward(u).gradient() + R * u
        assert np.linalg.norm(last) < 1e-5 * np.linalg.norm(first)


def test_a_sweep_minimises_the_augmented_hamiltonian():
    """<g, v> + r/2 |v|^2 + rho/2 |v - u|^2 has slope zero at the second control of the path."""
    forward = Counted(*linear(2), 0.2)
    found = successive(forward, np.zeros(M), forward.loss, R, budget=20)
    u, g = found.controls[0], forward(found.controls[0]).gradient()
    v = found.controls[1]
    rho = -(g + R * v) @ (v - u) / ((v - u) @ (v - u))
    assert np.linalg.norm(g + R * v + rho * (v - u)) < 1e-12 and np.log2(rho / R) == pytest.approx(round(np.log2(rho / R)))


def test_sweeps_are_foretold_by_the_hessian_at_rest():
    """On the quadratic model itself: full sweeps by dense matrices, and what they leave of its fall."""
    forward = Counted(*linear(3), 0.05)
    G, y0, loss = forward.G, forward.y0, forward.loss
    H = forward.hessian(np.zeros(M))
    A = sum(g.T @ h @ g for g, h in zip(G, loss.hessian(y0), strict=True)) / N + R * np.eye(M)
    S, g = H + R * np.eye(M) - A, forward(np.zeros(M)).gradient()
    Q = lambda u: g @ u + 0.5 * u @ (A + S) @ u  # noqa: E731
    least, u, left = Q(-np.linalg.solve(A + S, g)), np.zeros(M), []
    for _ in range(M):
        u = -np.linalg.solve(A, g + S @ u)
        left.append((Q(u) - least) / -least)
    told = sweeps_left(G, y0, loss, R, lambda v: H @ v, sweeps=M)
    assert np.abs(told - left).max() < 1e-6 and 0 < told[0] < 0.5 and told[1] < 0.3 * told[0]
    assert np.all(sweeps_left(G, y0, loss, R, lambda v: (A - R * np.eye(M)) @ v)[:2] < 1e-12)  # nothing is left out
    assert np.all(np.isinf(sweeps_left(G, y0, loss, R, lambda v: -v)))  # no minimum


STEPS, STATE = 3, 4


def one_text(seed=0):
    """x_{t+1} = tanh(A_t x_t) + u_t with the cost |x_T - target|^2 / 2 + R/2 sum_t |u_t|^2: as a process, and as passes."""
    rng = np.random.default_rng(seed)
    A, target, x0 = rng.normal(size=(STEPS, STATE, STATE)), rng.normal(size=STATE), rng.normal(size=STATE)
    process = Process(
        lambda t, x, u: np.tanh(A[t] @ x) + u,
        lambda t, x, u: ((1 - np.tanh(A[t] @ x) ** 2)[:, None] * A[t], np.eye(STATE)),
        lambda x: (0.5 * float((x - target) @ (x - target)), x - target),
        R,
        STEPS,
    )

    class Rolled:
        def __init__(self, u):
            self.u = u.reshape(STEPS, STATE)
            self.outputs = adjoint(process, x0, self.u).states[-1:]

        def gradient(self):
            return (adjoint(process, x0, self.u).gradient - R * self.u).ravel()

        def response(self):
            columns, after = [], np.eye(STATE)
            for t in reversed(range(STEPS)):
                columns.insert(0, after)
                after = after @ process.jacobians(t, adjoint(process, x0, self.u).states[t], self.u[t])[0]
            return np.concatenate(columns, axis=1)[None]

    return process, x0, Rolled, Quadratic(target[None])


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_on_one_text_a_sweep_is_that_of_msa(seed):
    process, x0, forward, loss = one_text(seed)
    path = successive(forward, np.zeros(STEPS * STATE), loss, R, budget=2 + 20 * FORWARD)
    rho = path.weight
    before = path.controls[np.flatnonzero(np.diff(path.objectives))[-1]].reshape(STEPS, STATE)
    textbook = msa(process, x0, before, rho=rho, max_iterations=1)
    assert np.abs(textbook.u.ravel() - path.controls[-1]).max() < 1e-9


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_on_one_text_the_end_is_that_of_ilqr_with_feedback(seed):
    """Feedback shapes the path of a rollout, not where it ends: both stop at the same extremal."""
    process, x0, forward, loss = one_text(seed)
    path = iterated_lq(forward, np.zeros(STEPS * STATE), loss, R, budget=4000, tolerance=1e-15)
    textbook = ilqr(process, x0, path.controls[-1].reshape(STEPS, STATE), terminal=1.0)
    assert textbook.converged and np.abs(textbook.u.ravel() - path.controls[-1]).max() < 1e-5
    assert abs(textbook.adjoint.cost - path.objectives[-1]) < 1e-9


@pytest.mark.parametrize("solver", [iterated_lq, successive])
def test_a_control_must_cost_something(solver):
    forward = Counted(*linear())
    with pytest.raises(ValueError, match="positive price r"):
        solver(forward, np.zeros(M), forward.loss, 0.0, budget=5)


WIDTH = 4


def deep(seed=0):
    """A network x_{t+1} = tanh(A_t x_t) + u_t with a readout, its mean loss, and controls."""
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    A, W, x0, labels = draw(3, WIDTH, WIDTH), draw(3, WIDTH), draw(10, WIDTH), torch.arange(10) % 3

    def states(controls, rows):
        x = [x0[rows]]
        for t in range(3):
            x.append(torch.tanh(x[-1] @ A[t].T) + controls[f"{t}"])
        return x

    def loss(controls, rows):
        return torch.nn.functional.cross_entropy(states(controls, rows)[-1] @ W.T, labels[rows])

    return A, W, labels, states, loss, {f"{t}": 0.3 * draw(WIDTH) for t in range(3)}


def test_residuals_are_those_of_the_costate_recursion():
    """lambda_T by hand, lambda_t = A'diag(tanh')lambda_{t+1}, and the slope of H_t in u is their mean + r u."""
    A, W, labels, states, loss, controls = deep()
    rows, r = torch.arange(10), 0.2
    found = extremality(loss, controls, [rows[:4], rows[4:]], r)
    x = states(controls, rows)
    lam = (torch.softmax(x[-1] @ W.T, 1) - torch.nn.functional.one_hot(labels, 3)) @ W
    for t in (2, 1, 0):
        slope = lam.mean(0) + r * controls[f"{t}"]
        assert abs(float(slope.norm() - found.slope[t])) < 1e-12
        lam = (lam * (1 - torch.tanh(x[t] @ A[t].T) ** 2)) @ A[t]


def test_the_gap_is_the_height_above_the_least_hamiltonian():
    """By minimising <g, u> + r/2 |u|^2 numerically over the control of one layer, states and costates held."""
    *_, loss, controls = deep(1)
    rows, r = torch.arange(10), 0.2
    found = extremality(loss, controls, [rows], r)
    leaves = {name: value.clone().requires_grad_() for name, value in controls.items()}
    slopes = torch.autograd.grad(loss(leaves, rows), list(leaves.values()))
    for t, g in enumerate(slopes):
        H = lambda u, g=g: float(g @ u + r / 2 * u @ u)  # noqa: E731
        u = torch.zeros(WIDTH, dtype=torch.float64)
        for _ in range(400):
            u = u - 0.5 * (g + r * u)
        assert abs(H(controls[f"{t}"]) - H(u) - float(found.gap[t])) < 1e-12
    assert torch.allclose(found.stationarity, found.slope / found.rest)


def test_slopes_are_differences_of_the_objective():
    *_, loss, controls = deep(2)
    rows, r, h = torch.arange(10), 0.2, 1e-6
    found = extremality(loss, controls, [rows], r)
    price = lambda at: float(loss(at, rows)) + r / 2 * sum(float(u @ u) for u in at.values())  # noqa: E731
    for t, (name, u) in enumerate(controls.items()):
        steps = h * torch.eye(WIDTH, dtype=torch.float64)
        slope = [(price(controls | {name: u + e}) - price(controls | {name: u - e})) / (2 * h) for e in steps]
        assert abs(np.linalg.norm(slope) - float(found.slope[t])) < 1e-7


def test_at_rest_the_stationarity_is_one_and_a_free_control_is_refused():
    *_, loss, controls = deep(3)
    rest = {name: torch.zeros_like(value) for name, value in controls.items()}
    assert torch.equal(extremality(loss, rest, [torch.arange(10)], 0.2).stationarity, torch.ones(3, dtype=torch.float64))
    with pytest.raises(ValueError, match="price must be positive"):
        extremality(loss, controls, [torch.arange(10)], 0.0)
