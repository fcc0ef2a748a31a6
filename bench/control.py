"""The bench "control": the lab's control solvers, reach maps and Jacobians beside what one would use instead."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import cvxpy as cp
import numpy as np
import torch
from torch import Tensor
from transformers import BertConfig, BertModel

from bench import peers
from bench.peers import LQ
from bench.timing import Contest, Peer
from probes.reach.controllability import LinearSystem, reachable
from probes.reach.linear_maps import output_map
from theory.box import condensed_box
from theory.control import riccati
from theory.linear import reach
from tuning import Backbone, Batch, PortBias, Readout, load, subject, wrap
from tuning.backbones import frame, hidden
from tuning.jacobians import layer_jacobians


def residual_system(T: int, b: int, n: int, m: int | None, generator: np.random.Generator) -> tuple[list, list]:
    """Return A_t = I + 0.1 N / sqrt(n), the steps of a residual network, and B_t random; m None: B_t = I."""
    draw = lambda *shape: generator.standard_normal(shape) / np.sqrt(n)  # noqa: E731
    A = [np.eye(n) + 0.1 * draw(b, n, n) for _ in range(T)]
    eye = np.eye(n)
    return A, [np.broadcast_to(eye, (b, n, n)) for _ in range(T)] if m is None else [draw(b, n, m) for _ in range(T)]


def _dense(T, b, n, m=None, r=0.5, seed=0) -> LQ:
    generator = np.random.default_rng(seed)
    A, B = residual_system(T, b, n, n if m is None else m, generator)
    return LQ(A, B, 0.1 * np.eye(n), r * np.eye(B[0].shape[-1]), np.eye(n), generator.standard_normal((b, n)))


def _libraries(lq: LQ, lines: dict[str, float], answer=np.asarray) -> tuple[Peer, ...]:
    """The general solvers of a batch of problems; their answers are controls (T, b, m)."""
    T = lq.sizes[0]
    made = (
        Peer("numpy loop", peers.numpy_loop(lq), answer),
        Peer("scipy Cholesky loop", peers.scipy_loop(lq), answer),
        Peer("torch batched Cholesky", peers.torch_batched(lq), answer),
        Peer("mpc.pytorch", peers.mpc_pytorch(lq), lambda u: answer(u[:T]), note="pip install --no-deps mpc"),
        Peer("PyPose", peers.pypose_lqr(lq), lambda u: answer(u[:, :T].transpose(0, 1))),
    )
    return tuple(replace(p, line=lines.get(p.name), note="" if p.run else p.note) for p in made)


def low_rank_riccati(*, T=12, b=3, n=384, p=8) -> Iterator[Contest]:
    """Compare a terminal cost on p outputs: P_t kept at rank p, against solvers that keep it dense."""
    lq = _dense(T, b, n)
    C = np.random.default_rng(1).standard_normal((p, n)) / np.sqrt(n)
    lq = replace(lq, Q=np.zeros((n, n)), Qf=C.T @ C)
    yield Contest(
        f"terminal, T={T} n=m={n} p={p} b={b}",
        "riccati lowrank",
        lambda: riccati(lq.A, lq.B, 0.0, 0.5, lq.Qf, form="lowrank").rollout(lq.x0),
        lambda made: np.stack(made.controls),
        _libraries(lq, {"numpy loop": 15.0}),
    )


def identity_riccati(*, T=12, sizes=(128, 384)) -> Iterator[Contest]:
    """Compare a control added to the whole state: the structured recursion against the general one."""
    for n in sizes:
        generator = np.random.default_rng(n)
        A, B = residual_system(T, 1, n, None, generator)
        lq = LQ(A, B, 0.1 * np.eye(n), 0.5 * np.eye(n), np.eye(n), generator.standard_normal((1, n)))
        one, eye = [a[0] for a in A], [np.eye(n)] * T
        solve = lambda one=one, eye=eye, n=n: riccati(one, eye, 0.1, 0.5, np.eye(n), form="identity")  # noqa: E731
        yield Contest(
            f"B=I, P_0, T={T} n={n}",
            "riccati identity",
            solve,
            lambda law: law.P[0],
            (Peer("numpy loop", lambda lq=lq: peers.numpy_value(lq)[0], np.asarray, line=4.0),),
        )
        yield Contest(
            f"B=I, controls, T={T} n={n}",
            "riccati identity",
            lambda solve=solve, lq=lq: solve().rollout(lq.x0[0]),
            lambda made: np.stack(made.controls)[:, None],
            (Peer("numpy loop", peers.numpy_loop(lq), np.asarray, note="gains multiplied out"),),
        )


def riccati_libraries(*, T=12, sizes=((32, 1), (32, 64), (128, 1))) -> Iterator[Contest]:
    """Compare stage and terminal cost, general B: the default form against the libraries, and one infinite-horizon equation."""
    for n, b in sizes:
        lq = _dense(T, b, n)
        yield Contest(
            f"LQ, T={T} n=m={n} b={b}",
            "riccati cholesky",
            lambda lq=lq, n=n: riccati(lq.A, lq.B, 0.1, 0.5, np.eye(n)).rollout(lq.x0),
            lambda made: np.stack(made.controls),
            _libraries(lq, {"mpc.pytorch": 1.0, "PyPose": 1.0}),
        )
        if b > 1:
            continue
        A, B = lq.A[0][0], lq.B[0][0]
        if (run := peers.dlqr(A, B, lq.Q, lq.R)) is None:
            S = lq.Qf
        else:
            S = run()[1]
            S = (S + S.T) / 2
        yield Contest(
            f"constant A and B, T={T} n=m={n}",
            "riccati cholesky",
            lambda A=A, B=B, S=S, T=T: riccati([A] * T, [B] * T, 0.1, 0.5, S),
            lambda law: law.P[0],
            (Peer("python-control dlqr", run, lambda made: made[1], note="one infinite-horizon equation"),),
        )


def reach_map(*, T=12, b=4, n=384, m=16) -> Iterator[Contest]:
    """Compare fewer controls than states: the reach map and its singular values against the Gramian."""
    A, B = residual_system(T, b, n, m, np.random.default_rng(0))
    exact = np.linalg.svd(reach(A, B), compute_uv=False)
    tA, tB = ([torch.tensor(x, dtype=torch.float32) for x in made] for made in (A, B))
    systems = [LinearSystem(tuple(a[i] for a in tA), tuple(x[i] for x in tB)) for i in range(b)]
    rank, wide = min(n, T * m), A[0].shape
    where = f"T={T} n={n} m={m} b={b}"

    def numpy_gramian():
        W = np.zeros(wide)
        for a, x in zip(A, B, strict=True):
            W = a @ W @ a.swapaxes(-1, -2) + x @ x.swapaxes(-1, -2)
        return W

    def torch_gramian():
        W = torch.zeros(wide)
        for a, x in zip(tA, tB, strict=True):
            W = a @ W @ a.mT + x @ x.mT
        return W

    amplitudes = lambda values: np.sqrt(np.maximum(np.asarray(values, float)[..., ::-1][..., :rank], 0.0))  # noqa: E731
    yield Contest(
        f"map, float64, {where}",
        "reach",
        lambda: reach(A, B),
        lambda G: G @ G.swapaxes(-1, -2),
        (Peer("batched Gramian loop", numpy_gramian, np.asarray, line=8.0, note="the map alone"),),
    )
    yield Contest(
        f"svd, float32, {where}",
        "reachable, map and svd",
        lambda: [reachable(s, rank) for s in systems],
        lambda made: np.stack([found.values for found in made]),
        (
            Peer(
                "batched Gramian loop",
                torch_gramian,
                lambda W: amplitudes(torch.linalg.eigvalsh(W)),
                tolerance=3e-2,
                note="forms W only",
            ),
            Peer("Gramian and eigvalsh", lambda: torch.linalg.eigvalsh(torch_gramian()), amplitudes, tolerance=3e-2),
        ),
        reference=exact,
        tolerance=1e-5,
    )


def random_encoder(blocks=6, width=128, heads=4, dtype=torch.float32) -> Backbone:
    """Return a random BERT, every parameter drawn from one seed."""
    torch.manual_seed(0)
    config = BertConfig(
        hidden_size=width,
        num_hidden_layers=blocks,
        num_attention_heads=heads,
        intermediate_size=4 * width,
        vocab_size=1000,
        max_position_embeddings=64,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        attn_implementation="eager",
    )
    return wrap(BertModel(config).to(dtype), name=f"random {blocks}x{width}")


def _texts(count: int, length: int) -> Batch:
    tokens = torch.randint(5, 1000, (count, length), generator=torch.Generator().manual_seed(0))
    return Batch(tokens, torch.ones(count, length, dtype=torch.bool), torch.zeros(count, dtype=torch.int64))


@dataclass(frozen=True, eq=False)
class _Steered:
    """A backbone with a readout of two classes, a control at every port and a batch of texts."""

    outputs: Callable
    controls: dict
    batch: Batch

    @classmethod
    def of(cls, backbone: Backbone, count: int, length: int) -> _Steered:
        weight = torch.randn(2, backbone.width, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        readout = Readout((weight / backbone.width**0.5).to(backbone.dtype), torch.zeros(2, dtype=backbone.dtype))
        made = subject(backbone, PortBias(), readout, 0)
        return cls(
            made.steered, {key: torch.zeros(backbone.width, dtype=backbone.dtype) for key in made.ports}, _texts(count, length)
        )

    def forward(self) -> Tensor:
        with torch.no_grad():
            return self.outputs({}, self.batch)

    def mapped(self) -> dict[str, Tensor]:
        """G by torch.func alone, {port: (N, C, d)}."""
        alone = lambda u, *example: self.outputs(u, Batch(*(x[None] for x in example)))[0]  # noqa: E731
        with torch.no_grad():
            return torch.func.vmap(torch.func.jacrev(alone), in_dims=(None, 0, 0, 0))(self.controls, *self.batch)

    def swept(self) -> list[tuple]:
        """G by one reverse sweep an output over controls that are copied for every example."""
        each = {k: v.expand(len(self.batch.tokens), -1).clone().requires_grad_() for k, v in self.controls.items()}
        y = self.outputs(each, self.batch)
        return [torch.autograd.grad(y[:, c].sum(), list(each.values()), retain_graph=True) for c in range(y.shape[1])]


def output_gradients(*, encoders: tuple[Callable[..., Backbone], ...] | None = None, count=32, length=32) -> Iterator[Contest]:
    """Compare G = dy/du for two outputs and the controls of all ports, in units of one forward pass of the same batch."""
    for encoder in encoders or (lambda dtype: load("nano", dtype=dtype), lambda dtype: random_encoder(dtype=dtype)):
        backbone = encoder(dtype=torch.float32)
        made, exact = (_Steered.of(x, count, length) for x in (backbone, encoder(dtype=torch.float64)))
        joined = lambda rows: torch.cat(list(rows.values()), -1).numpy()  # noqa: E731
        stacked = lambda rows: torch.stack([torch.cat(row, -1) for row in rows], 1).numpy()  # noqa: E731
        yield Contest(
            f"G, {backbone.name}, C=2 S={length} N={count}",
            "output_map",
            lambda made=made: output_map(made.outputs, made.controls, [made.batch]),
            lambda G: G.matrix.numpy(),
            (
                Peer("one forward pass", made.forward, np.asarray, tolerance=None, line=1 / 8),
                Peer("vmap(jacrev)", made.mapped, joined, tolerance=1e-4),
                Peer("plain reverse sweeps", made.swept, stacked, tolerance=1e-4),
            ),
            reference=stacked(exact.swept()),
            tolerance=1e-4,
        )


def token_jacobian(*, blocks=6, width=128, heads=4, count=8, length=32) -> Iterator[Contest]:
    """Compare A_t of every block at one token: the closed form, its forward pass included, against automatic differentiation."""
    for kind, name, tolerance in ((torch.float32, "float32", 1e-4), (torch.float64, "float64", 1e-10)):
        backbone, batch = random_encoder(blocks, width, heads, kind), _texts(count, length)
        run = frame(backbone, record=True)
        with torch.no_grad():
            hidden(backbone, batch, run)
        states = [run.inputs[f"{block}.attention"] for block in range(backbone.blocks)]
        layers = list(backbone.model.encoder.layer)

        def differentiated(states=states, layers=layers):
            found = []
            for layer, h in zip(layers, states, strict=True):

                def moved(x, rest, layer=layer):
                    y = layer(torch.cat([x[None], rest])[None])
                    return (y[0] if isinstance(y, tuple) else y)[0, 0]

                with torch.no_grad():
                    found.append(torch.func.vmap(torch.func.jacrev(moved))(h[:, 0], h[:, 1:]))
            return found

        yield Contest(
            f"A_t, {name}, {blocks}x{width} S={length} N={count}",
            "layer_jacobians",
            lambda backbone=backbone, batch=batch: layer_jacobians(backbone, batch),
            lambda made: torch.stack(made.A).numpy(),
            (
                Peer(
                    "vmap(jacrev) of full layer",
                    differentiated,
                    lambda made: torch.stack(made).numpy(),
                    tolerance,
                    line=20.0 if kind == torch.float32 else None,
                ),
            ),
        )


def condensed(lq: LQ) -> tuple[list, np.ndarray, np.ndarray]:
    """Return (G, M, g) of the first system with all states eliminated: z = (x_1, .., x_T) less its course without control."""
    T, _, n, m = lq.sizes
    G = [np.zeros((T, n, m)) for _ in range(T)]
    x, course = lq.x0[0], []
    for t in range(T):
        A = lq.A[t][0]
        x = A @ x
        course.append(x)
        for s in range(t):
            G[s][t] = A @ G[s][t - 1]
        G[t][t] = lq.B[t][0]
    M = np.zeros((T, n, T, n))
    for t in range(T):
        M[t, :, t] = lq.Q if t < T - 1 else lq.Qf
    M = M.reshape(T * n, T * n)
    return [x.reshape(T * n, m) for x in G], M, M @ np.concatenate(course)


def convex_solvers(*, T=12, n=32, bound=0.1) -> Iterator[Contest]:
    """Compare one small problem, free and with |u| <= bound, against general convex solvers with their usual tolerances."""
    lq = _dense(T, 1, n)
    A, B, x0 = [a[0] for a in lq.A], [b[0] for b in lq.B], lq.x0[0]
    own = {
        None: ("riccati cholesky", lambda: riccati(A, B, lq.Q, lq.R, lq.Qf).rollout(x0).controls),
        bound: ("condensed_box", lambda: condensed_box(*condensed(lq), 0.5, bound).u),
    }
    for limit, (name, run) in own.items():
        rivals = []
        for solver, tolerance in ((cp.CLARABEL, 1e-2), (cp.OSQP, 1e-2), (cp.SCS, 1e-2)):
            if solver not in cp.installed_solvers():
                rivals.append(Peer(f"cvxpy {solver}", None, np.asarray))
                continue
            rivals.append(Peer(f"cvxpy {solver}", peers.program_from_words(lq, solver, limit), np.asarray, tolerance))
            alone, controls = peers.program_compiled(lq, solver, limit)
            rivals.append(Peer(f"{solver} alone", alone, controls, tolerance, note="compiled once"))
        problem = f"LQ{'' if limit is None else f' |u|<={limit:g}'}, T={T} n=m={n}"
        yield Contest(problem, name, run, np.stack, tuple(rivals))


CASES: dict[str, Callable[..., Iterator[Contest]]] = {
    "low-rank-riccati": low_rank_riccati,
    "identity-riccati": identity_riccati,
    "riccati-libraries": riccati_libraries,
    "reach-map": reach_map,
    "output-map": output_gradients,
    "token-jacobian": token_jacobian,
    "convex-solvers": convex_solvers,
}
