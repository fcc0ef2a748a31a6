"""The lab's four derivations, each step checked when the function is called."""

import sympy as sp
from sympy.functions.elementary.complexes import transpose

from theory.derive import Derivation, Step
from theory.typst import gradient, jacobian, ones, rank

_half = sp.Rational(1, 2)


def _matrices(names):
    return sp.symbols(names, commutative=False)


def _eq(left, right):
    return sp.Eq(left, right, evaluate=False)


def _add(*terms):
    return sp.Add(*terms, evaluate=False)  # keeps the order in which the terms are read


def _mul(*factors):
    return sp.Mul(*factors, evaluate=False)


def _column(name, size):
    return sp.Matrix(sp.symbols(f"{name}1:{size + 1}"))


def _rational(rows):
    return sp.Matrix(rows).applyfunc(sp.Rational)


def _vanishing(slopes, unknown):
    """The unknown (a column of symbols) that makes the slopes zero."""
    solution = sp.solve(list(slopes), list(unknown), dict=True)[0]
    return sp.Matrix([solution[x] for x in unknown])


def maximum_principle() -> Derivation:
    """Return the discrete maximum principle of a residual network: costate recursion, optimal control, back-propagation.

    x_{t+1} = x_t + f_t(x_t) + B_t u_t, cost S(x_T) + 1/2 sum u_t'R_t u_t. Checked for arbitrary smooth f_t and S
    (undefined functions), two states, three layers, controls of sizes 1, 2, 1; the last step on polynomial layers.
    Source: Pontryagin; in delta tuning arXiv 2203.06904, optimal-control view, restated.
    """
    t, T = sp.symbols("t T", integer=True)
    L, J = sp.symbols("L J")
    x, x1, u, xT = _matrices("x_t x_{t+1} u_t x_T")
    lam, lam1, lamT = _matrices("lambda_t lambda_{t+1} lambda_T")
    R, B, A, eye = _matrices("R_t B_t A_t I")
    f, S = sp.Function("f_t", commutative=False), sp.Function("S")
    running = _add(_half * transpose(u) * R * u, transpose(lam1) * _add(x, f(x), B * u, -x1))
    slope = _eq(gradient(J, u), _add(R * u, transpose(B) * lam1))

    X, case = _smooth_layers()
    cost, U, Lam = case["L"], case["u"], case["lambda"]
    every = tuple({**case, "t": k, "jacobian": lambda v, w: v.jacobian(w)} for k in range(3))
    inner = every[1:]
    costates = tuple(
        {**c, "lambda": {**dict(enumerate(Lam)), k: _vanishing([sp.diff(cost, v) for v in X[k]], Lam[k])}}
        for c in inner
        for k in [c["t"]]
    )
    last = {**case, "lambda": {3: _vanishing([sp.diff(cost, v) for v in X[3]], Lam[3])}}
    best = tuple({**c, "u": {k: _vanishing([sp.diff(cost, v) for v in U[k]], U[k])}} for k, c in enumerate(every))

    return Derivation(
        "The maximum principle of a residual network",
        "Pontryagin's principle in discrete time; the optimal-control view of delta tuning (arXiv 2203.06904), restated",
        (
            Step(
                _eq(L, _add(S(xT), sp.Sum(running, (t, 0, T - 1)))),
                "Every layer enters the cost as a constraint with its own multiplier, the costate.",
                (case,),
            ),
            Step(_eq(A, _add(eye, jacobian(f(x), x))), "Name the Jacobian of a layer, residual path included.", every),
            Step(
                _eq(gradient(L, x), _add(transpose(A) * lam1, -lam)),
                "Differentiate in a hidden state: it enters its own layer and the constraint before it.",
                inner,
            ),
            Step(
                _eq(lam, transpose(A) * lam1),
                "At a stationary point that derivative is zero, so the costate runs backwards through the layers.",
                costates,
            ),
            Step(_eq(lamT, gradient(S(xT), xT)), "In the last state only the score is left.", (last,)),
            Step(_eq(gradient(L, u), slope.rhs), "Differentiate in a control.", every),
            Step(
                _eq(u, -(R**-1) * transpose(B) * lam1),
                "At a stationary point the control is the costate, seen through the port and divided by its price.",
                best,
            ),
            Step(
                slope,
                "On any trajectory, stationary or not, the costates computed backwards give the gradient of the cost: "
                "back-propagation computes costates.",
                _polynomial_layers(),
            ),
        ),
    )


def _smooth_layers():
    """Three layers of undefined functions of two states, and the Lagrangian written out term by term."""
    sizes = (1, 2, 1)
    X, U = [_column(f"x{k}_", 2) for k in range(4)], [_column(f"u{k}_", m) for k, m in enumerate(sizes)]
    Lam = [_column(f"l{k}_", 2) for k in range(4)]
    B = [sp.Matrix([2, -1]), sp.Matrix([[1, 3], [-2, 1]]), sp.Matrix([1, 4])]
    R = [sp.Matrix([[3]]), sp.Matrix([[2, 1], [1, 5]]), sp.Matrix([[7]])]

    def layer(k):
        return lambda v: sp.Matrix([sp.Function(f"f{k}{i}")(*v) for i in range(2)])

    def score(v):
        return sp.Function("S")(*v)

    cost = score(X[3])
    for k in range(3):
        error = X[k] + layer(k)(X[k]) + B[k] * U[k] - X[k + 1]
        cost += (U[k].T * R[k] * U[k])[0] / 2 + (Lam[k + 1].T * error)[0]
    A = [sp.eye(2) + layer(k)(X[k]).jacobian(X[k]) for k in range(3)]
    return X, {
        "L": cost,
        "S": score,
        "f": {k: layer(k) for k in range(3)},
        "x": X,
        "u": U,
        "lambda": Lam,
        "B": B,
        "R": R,
        "A": A,
        "I": sp.eye(2),
        "T": 3,
    }


def _polynomial_layers():
    """Three polynomial layers unrolled: the cost as a function of the controls alone, the costates by recursion."""
    U, v = sp.symbols("u0:3"), sp.symbols("v1 v2")
    B = [sp.Matrix([2, -1]), sp.Matrix([1, 3]), sp.Matrix([1, 4])]
    R = [sp.Integer(3), sp.Integer(5), sp.Integer(7)]
    layers = [sp.Matrix([v[0] * v[1], v[0] ** 2]), sp.Matrix([v[1] ** 2, v[0] - v[1]]), sp.Matrix([v[0], v[0] * v[1]])]
    score = v[0] ** 2 + v[0] * v[1] + 3 * v[1]

    def at(expression, x):
        return expression.subs(dict(zip(v, x, strict=True)), simultaneous=True)

    X = [_rational([1, "1/2"])]
    for k in range(3):
        X.append((X[k] + at(layers[k], X[k]) + B[k] * U[k]).expand())
    cost = sum(R[k] * U[k] ** 2 / 2 for k in range(3)) + at(score, X[3])
    Lam = {3: at(sp.Matrix([sp.diff(score, w) for w in v]), X[3])}
    for k in (2, 1):
        Lam[k] = ((sp.eye(2) + at(layers[k].jacobian(v), X[k])).T * Lam[k + 1]).expand()
    return tuple({"J": cost, "u": U, "R": R, "B": B, "lambda": Lam, "t": k} for k in range(3))


def output_feedback() -> Derivation:
    """Return the optimal feedback when only c terminal outputs are scored: rank at most c - 1, no n x n matrix.

    Minimise 1/2 z'Mz + g'z + 1/2 sum_{s>=t} u_s'R_s u_s for the outputs' shift z = C x_T of a linear system started at
    x_t. Checked in exact rational arithmetic: three outputs, four states, three layers with two controls each, against
    the directly solved optimum. Source: derived.
    """
    s, t, T, c = sp.symbols("s t T c", integer=True)
    J = sp.Symbol("J")
    z, e, x, lam, W, M, g, C, eye = _matrices("z e_t x_t lambda W_t M g C I")
    Gs, us, Rs, Gt, ut, Rt, Phi, K = _matrices("G_s u_s R_s G_t u_t R_t Phi_t K_t")
    law = Rt**-1 * transpose(Gt) * _add(eye, M * W) ** -1
    case = _linear_layers()
    at = {**case, "t": 1}
    direct = {**at, "z": case["optimal shift"], "lambda": case["optimal costate"], "u": case["optimum"]}
    later = tuple({**at, "s": k} for k in (1, 2))

    return Derivation(
        "Optimal feedback from the outputs",
        "Derived; linear-quadratic control with a terminal cost on c outputs",
        (
            Step(
                _eq(z, _add(e, sp.Sum(Gs * us, (s, t, T - 1)))),
                "The terminal outputs move by what the present deviation would cause alone and by what each later control adds.",
                (at,),
            ),
            Step(_eq(e, C * Phi * x), "The first part is the present deviation, carried to the outputs.", (at,)),
            Step(
                _eq(
                    J,
                    _add(_half * transpose(z) * M * z, transpose(g) * z, sp.Sum(_half * transpose(us) * Rs * us, (s, t, T - 1))),
                ),
                "The loss to second order in the outputs, with slope g and curvature M, and the price of control.",
                (at,),
            ),
            Step(_eq(gradient(J, us), _add(Rs * us, transpose(Gs) * _add(g, M * z))), "Differentiate in one control.", later),
            Step(_eq(lam, _add(g, M * z)), "Name the slope of the loss at the shifted outputs: the output costate.", (direct,)),
            Step(
                _eq(us, -(Rs**-1) * transpose(Gs) * lam),
                "A vanishing derivative makes every control a reading of it.",
                tuple({**direct, "s": k} for k in (1, 2)),
            ),
            Step(
                _eq(W, sp.Sum(Gs * Rs**-1 * transpose(Gs), (s, t, T - 1))),
                "Name the Gramian of the outputs that is left from layer t on.",
                (at,),
            ),
            Step(_eq(z, _add(e, -W * lam)), "Put the controls into the outputs.", (direct,)),
            Step(_eq(lam, _add(eye, M * W) ** -1 * _add(g, M * e)), "Solve the last two equations for the costate.", (direct,)),
            Step(_eq(ut, -law * _add(g, M * e)), "The optimal control at layer t reads the predicted outputs only.", (direct,)),
            Step(
                _eq(K, law * M * C * Phi),
                "Its derivative in the state, with a minus sign, is the gain.",
                ({**at, "K": {1: -case["optimum"][1].jacobian(case["x"][1])}},),
            ),
            Step(
                _eq(M * ones, sp.Integer(0)),
                "The softmax curvature does not see a common shift of the outputs.",
                (_softmax_case(),),
            ),
            Step(
                sp.Le(rank(K), c - 1),
                "So the gain has rank c - 1 at most, however wide the network is.",
                ({**at, "K": {1: -case["optimum"][1].jacobian(case["x"][1])}},),
            ),
        ),
    )


def _softmax_case():
    p = [*sp.symbols("p1 p2")]
    p = sp.Matrix([*p, 1 - sum(p)])
    return {"M": sp.diag(*p) - p * p.T, "c": 3}


def _linear_layers():
    """Exact layers, the outputs simulated step by step, and the optimum from the full stationarity equations."""
    A = [
        _rational(rows)
        for rows in (
            [[1, "1/2", 0, 0], [0, 1, "1/3", 0], ["-1/2", 0, 1, 0], [0, 0, "1/4", 1]],
            [[1, 0, "1/3", 0], ["1/2", 1, 0, "1/5"], [0, "-1/4", 1, 0], [1, 0, 0, "1/2"]],
            [["1/2", 1, 0, 0], [0, "3/2", 0, "-1/3"], [0, 0, 1, 1], ["1/3", 0, "1/2", 1]],
        )
    ]
    B = [
        _rational(rows)
        for rows in ([[1, 0], [0, 1], [1, 1], [0, 2]], [[0, 1], [1, 0], [2, -1], [1, 1]], [[1, 1], [0, 1], [-1, 0], [1, 2]])
    ]
    R = [_rational(rows) for rows in ([[2, 0], [0, 1]], [[3, 1], [1, 2]], [[1, "1/2"], ["1/2", 4]])]
    C = _rational([[1, 0, 2, 0], [0, 1, "-1/2", 1], ["1/3", 1, 0, -1]])
    p = _rational(["1/2", "1/3", "1/6"])
    M, g, x = sp.diag(*p) - p * p.T, p - sp.Matrix([0, 1, 0]), _column("x", 4)
    u = {1: _column("u1_", 2), 2: _column("u2_", 2)}
    state = x
    for k in (1, 2):
        state = A[k] * state + B[k] * u[k]
    z = C * state
    cost = (z.T * M * z)[0] / 2 + (g.T * z)[0] + sum((u[k].T * R[k] * u[k])[0] / 2 for k in (1, 2))
    flat = sp.Matrix([*u[1], *u[2]])
    solution = _vanishing([sp.diff(cost, v) for v in flat], flat)
    best = dict(zip(flat, solution, strict=True))
    gram = sp.zeros(4, 4)  # the state Gramian by its own recursion
    for k in (1, 2):
        gram = A[k] * gram * A[k].T + B[k] * R[k].inv() * B[k].T
    shift = z.subs(best)
    return {
        "A": A,
        "B": B,
        "R": R,
        "C": C,
        "M": M,
        "g": g,
        "x": {1: x},
        "u": u,
        "z": z,
        "J": cost,
        "I": sp.eye(3),
        "T": 3,
        "c": 3,
        "Phi": {1: A[2] * A[1]},
        "e": {1: C * A[2] * A[1] * x},
        "G": {1: C * A[2] * B[1], 2: C * B[2]},
        "W": {1: C * gram * C.T},
        "optimal shift": shift,
        "optimal costate": g + M * shift,
        "optimum": {1: solution[:2, :], 2: solution[2:, :]},
    }


def prefix_gate() -> Derivation:
    """Return a prefix as a gated second attention: the gate identity, the fixed ratios and the confined bias.

    Attention of one query to l prefix keys with logits a_i and values p_i and n context keys with logits b_j and values
    v_j (logits q.k / sqrt(d)), any symbols. Source: He et al. 2022 (arXiv 2110.04366), Petrov et al. 2024.
    """
    i, j, k, l, n = sp.symbols("i j k l n", integer=True)  # noqa: E741 - the prefix length of the papers
    a, p, b, v = sp.symbols("a_i p_i b_j v_j")
    y, o, gate, wj, wk, alphaj, alphak = sp.symbols("y o lambda omega_j omega_k alpha_j alpha_k")

    def over(term, index, last):
        return sp.Sum(term, (index, 1, last))

    prefix, context = over(sp.exp(a), i, l), over(sp.exp(b), j, n)
    prefix_value, context_value = over(_mul(sp.exp(a), p), i, l), over(_mul(sp.exp(b), v), j, n)

    rest, added = _add(1, -gate), _mul(gate, prefix_value / prefix)

    case = _attention_case()
    pairs = tuple({**case, "j": x, "k": y} for x in (1, 2, 3) for y in (1, 2, 3) if x != y)
    own = tuple({**case, "j": x} for x in (1, 2, 3))
    return Derivation(
        "A prefix is a gate",
        "He et al. 2022 (arXiv 2110.04366); Petrov, Torr and Bibi 2024, with the scale 1/sqrt(d) inside the logits",
        (
            Step(
                _eq(y, _add(prefix_value, context_value) / _add(prefix, context)),
                "Attention of one query to the prefix and the context together.",
                (case,),
            ),
            Step(_eq(o, context_value / context), "The same query without the prefix.", (case,)),
            Step(_eq(gate, prefix / _add(prefix, context)), "The gate is the share of attention the prefix takes.", (case,)),
            Step(
                _eq(y, _add(_mul(rest, o), added)),
                "Split the sums: the frozen head is faded out by the gate, a head of width l is faded in.",
                (case,),
            ),
            Step(_eq(wj, _mul(rest, alphaj)), "Every context weight is scaled by one factor.", own),
            Step(_eq(wj / wk, alphaj / alphak), "So the prefix cannot change where in the context a head looks.", pairs),
            Step(_eq(_add(y, _mul(-1, rest, o)), added), "What it adds is a positive combination of its own l values.", (case,)),
        ),
    )


def _attention_case():
    """Two prefix and three context keys with free logits and values; softmax weights from one concatenated softmax."""
    a, p = (dict(enumerate(sp.symbols(f"{s}1:3"), 1)) for s in "ap")
    b, v = (dict(enumerate(sp.symbols(f"{s}1:4"), 1)) for s in "bv")
    logits, values = [*a.values(), *b.values()], [*p.values(), *v.values()]
    total = sum(sp.exp(x) for x in logits)
    weight = [sp.exp(x) / total for x in logits]
    alone = {j: sp.exp(x) / sum(sp.exp(w) for w in b.values()) for j, x in b.items()}
    return {
        "a": a,
        "p": p,
        "b": b,
        "v": v,
        "l": 2,
        "n": 3,
        "y": sum(w * x for w, x in zip(weight, values, strict=True)),
        "o": sum(alone[j] * v[j] for j in v),
        "lambda": weight[0] + weight[1],
        "omega": {j: weight[1 + j] for j in (1, 2, 3)},
        "alpha": alone,
    }


def shared_gain() -> Derivation:
    """Return the law of a feedback gain that all examples share: a regression of output costates on states.

    Minimise 1/N sum_i L_i(y_i) + r/2 (mean |u_i|^2) over u_i = k + K phi_i, the same k and K for all, y_i = b_i + G_i u_i with
    features of mean zero. Checked in exact rational arithmetic on three examples with two controls, two features and two outputs:
    the slopes for losses of fourth order, the law against the directly solved optimum of quadratic ones. Source: derived.
    """
    i, N = sp.symbols("i N", integer=True)
    J, E, r = sp.symbols("J E r")
    y, b, G, u, k, K, phi, lam, Sigma = _matrices("y_i b_i G_i u_i k K phi_i lambda_i Sigma")
    L, trace = sp.Symbol("L_i"), sp.Function("trace")

    def over(term):
        return _mul(1 / N, sp.Sum(term, (i, 1, N)))

    law = transpose(G) * lam
    spent = _add(transpose(k) * k, trace(K * Sigma * transpose(K)))
    case, solved = _shared_cases()
    each = tuple({**case, "i": n} for n in (1, 2, 3))
    return Derivation(
        "A gain that all examples share",
        "Derived; static feedback of an ensemble with linear response, and the price of its signals' mean energy",
        (
            Step(_eq(u, _add(k, K * phi)), "One law for all examples: each reads its own state.", each),
            Step(_eq(y, _add(b, G * _add(k, K * phi))), "Its outputs answer the signal linearly.", each),
            Step(_eq(over(phi), sp.Integer(0)), "States are counted from their mean, for which k makes up.", (case,)),
            Step(_eq(Sigma, over(phi * transpose(phi))), "Name the second moment of what is read.", (case,)),
            Step(_eq(E, over(transpose(u) * u)), "The price is the signals' mean energy.", (case,)),
            Step(_eq(E, spent), "Because states have mean zero, constant and gain are paid for apart.", (case,)),
            Step(_eq(J, _add(over(L), _half * r * spent)), "The mean loss and the price of feedback.", (case,)),
            Step(
                _eq(lam, gradient(L, y)),
                "Name the slope of an example's loss at its own outputs: its costate.",
                _free_outputs(case),
            ),
            Step(
                _eq(gradient(J, K), _add(over(law * transpose(phi)), r * K * Sigma)),
                "Differentiate in the gain: every example pulls at it along its own state.",
                (case,),
            ),
            Step(_eq(gradient(J, k), _add(over(law), r * k)), "Differentiate in the constant.", (case,)),
            Step(
                _eq(K, -(1 / r) * over(law * transpose(phi)) * Sigma**-1),
                "At the optimum the gain regresses costates on states: each example's feed-forward, as far as states tell it.",
                (solved,),
            ),
            Step(_eq(k, -(1 / r) * over(law)), "The constant carries their mean.", (solved,)),
        ),
    )


def _shared_cases():
    """Three examples with exact responses: losses of fourth order at free (k, K), and quadratic ones at their solved optimum."""
    G = dict(enumerate([_rational(x) for x in ([[1, 2], [0, 1]], [["1/2", -1], [1, 1]], [[2, 0], ["1/3", 1]])], 1))
    phi = dict(enumerate([_rational(x) for x in ([1, "1/2"], [-2, 1], [1, "-3/2"])], 1))
    b = dict(enumerate([_rational(x) for x in (["1/2", 0], [1, -1], [0, "1/3"])], 1))
    a = dict(enumerate([_rational(x) for x in ([1, 0], [0, 2], ["1/2", 1])], 1))
    k, K = _column("k", 2), sp.Matrix(2, 2, sp.symbols("K1:5"))
    u = {n: k + K * phi[n] for n in phi}
    y = {n: b[n] + G[n] * u[n] for n in phi}
    Sigma, r = sum((phi[n] * phi[n].T for n in phi), sp.zeros(2, 2)) / 3, sp.Rational(1, 5)
    energy = sum((u[n].T * u[n])[0] for n in phi) / 3

    def fixed(loss, slope):
        lam = {n: slope(y[n], a[n]) for n in phi}
        losses = {n: loss(y[n], a[n]) for n in phi}
        return {
            "G": G, "phi": phi, "b": b, "y": y, "u": u, "k": k, "K": K, "Sigma": Sigma, "r": r, "N": 3, "c": 2, "E": energy,
            "trace": lambda X: X.trace() if isinstance(X, sp.MatrixBase) else X,
            "L": losses, "lambda": lam, "J": sum(losses.values()) / 3 + r * energy / 2, "a": a, "loss": loss,
        }  # fmt: skip

    fourth = fixed(
        lambda v, w: v[0] ** 4 / 4 + v[0] * v[1] - w[1] * v[1] + v[1] ** 2,
        lambda v, w: sp.Matrix([v[0] ** 3 + v[1], v[0] - w[1] + 2 * v[1]]),
    )
    quadratic = fixed(lambda v, w: ((v - w).T * (v - w))[0] / 2, lambda v, w: v - w)
    flat = sp.Matrix([*k, *K])
    best = dict(zip(flat, _vanishing([sp.diff(quadratic["J"], x) for x in flat], flat), strict=True))
    found = {"k": k.subs(best), "K": K.subs(best), "lambda": {n: x.subs(best) for n, x in quadratic["lambda"].items()}}
    return fourth, {**quadratic, **found}


def _free_outputs(case):
    """The same losses of outputs that are symbols, so that they can be differentiated in them."""
    slopes = []
    for n, given in case["lambda"].items():
        free = _column("y", 2)
        at = dict(zip(free, case["y"][n], strict=True))
        value = case["loss"](free, case["a"][n])
        slope = sp.Matrix([sp.diff(value, x) for x in free])
        if (slope.subs(at, simultaneous=True) - given).expand() != sp.zeros(2, 1):
            raise ValueError(f"the slope of the loss of example {n} is not the one given")
        slopes.append({"i": n, "L": {n: value}, "y": {n: free}, "lambda": {n: slope}})
    return tuple(slopes)


DERIVATIONS = (maximum_principle, output_feedback, shared_gain, prefix_gate)
