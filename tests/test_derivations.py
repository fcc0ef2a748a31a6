"""Every printed equation is one that was checked, and a false one cannot be made."""

import json

import pytest
import sympy as sp
import typst as compiler

from theory.derivations import DERIVATIONS
from theory.derive import Derivation, Step, evaluate
from theory.typst import gradient, ones, rank, spoken, typst

x, y, t = sp.symbols("x y t")
A_t, B, R = sp.symbols("A_t B R", commutative=False)


@pytest.fixture(scope="module")
def derived():
    return [make() for make in DERIVATIONS]


def test_all_four_are_derived(derived):
    assert [d.title for d in derived] == [
        "The maximum principle of a residual network",
        "Optimal feedback from the outputs",
        "A gain that all examples share",
        "A prefix is a gate",
    ]
    assert all(step.check for d in derived for step in d.steps)


def test_a_planted_false_step_raises_in_every_derivation(derived):
    """Each equation with one side's sign turned (or ones for zero, or the inequality reversed) must be refused."""
    planted = 0
    for d in derived:
        for step in d.steps:
            left, right = step.equation.lhs, step.equation.rhs
            false = sp.Eq(left, ones if right == 0 else -right, evaluate=False)
            if not isinstance(step.equation, sp.Eq):
                false = sp.Ge(left, right + 1)
            with pytest.raises(ValueError, match="is false"):
                Step(false, "planted", step.check)
            planted += 1
    assert planted == sum(len(d.steps) for d in derived) > 25


def test_a_transpose_forgotten_is_noticed():
    case = {"A": {0: sp.Matrix([[1, 2], [0, 1]])}, "B": sp.Matrix([[1, 0], [2, 1]]), "t": 0}
    Step(sp.Eq(B, sp.transpose(A_t), evaluate=False), "true", (case,))
    with pytest.raises(ValueError, match="is false"):
        Step(sp.Eq(B, A_t, evaluate=False), "false", (case,))


def test_a_step_without_a_case_is_refused():
    with pytest.raises(ValueError, match="no case"):
        Step(sp.Eq(x, x, evaluate=False), "empty", ())


def test_one_bad_case_among_good_ones_is_enough():
    good, bad = {"x": sp.Integer(2), "y": sp.Integer(4)}, {"x": sp.Integer(3), "y": sp.Integer(4)}
    Step(sp.Eq(x**2, y, evaluate=False), "true at 2", (good,))
    with pytest.raises(ValueError, match="is false"):
        Step(sp.Eq(x**2, y, evaluate=False), "not at 3", (good, bad))


def test_evaluation_of_every_kind():
    a_i, i = sp.Symbol("a_i"), sp.Symbol("i", integer=True)
    case = {
        "a": {1: sp.Integer(2), 2: sp.Integer(5)},
        "x": x,
        "L": x**3,
        "R": sp.Matrix([[1, 2], [2, 4]]),
        "c": 2,
        "B": sp.Matrix([[2, 1], [1, 1]]),
    }
    assert evaluate(sp.Sum(a_i, (i, 1, 2)), case) == 7
    assert evaluate(gradient(sp.Symbol("L"), x), case) == 3 * x**2
    free = sp.Matrix(2, 2, sp.symbols("b1:5"))
    assert evaluate(gradient(sp.Symbol("x"), B), {"x": free.det(), "B": free}) == sp.Matrix(
        [[free[3], -free[2]], [-free[1], free[0]]]
    )
    assert evaluate(rank(R), case) == 1
    assert evaluate(B * ones, case) == sp.Matrix([3, 2])
    assert evaluate(B**-1, case) == sp.Matrix([[1, -1], [-1, 2]])
    with pytest.raises(KeyError):
        evaluate(y, case)


def test_json_holds_equation_speech_and_reason(derived):
    for d in derived:
        data = json.loads(json.dumps(d.to_json()))
        assert set(data) == {"title", "source", "steps"}
        assert len(data["steps"]) == len(d.steps)
        for step in data["steps"]:
            assert set(step) == {"equation", "alt", "reason"}
            assert step["alt"][0].isupper() and step["alt"].endswith(".")
            assert not set("^_$\\{}") & set(step["alt"]), step["alt"]


PRINTED = [
    (sp.Rational(3, 4) * x, "(3 x) / (4)"),
    (x / y, "(x) / (y)"),
    (sp.Symbol("lambda_{t+1}"), "lambda_(t + 1)"),
    (-x - y, "-x - y"),
    (x - 1, "x - 1"),
    (sp.Add(1, -x, evaluate=False), "1 - x"),
    ((x + y) ** 2, "(x + y)^2"),
    (sp.sqrt(x), "sqrt(x)"),
    (x**-2, "1 / (x^2)"),
    (sp.exp(-x), "e^(-x)"),
    (sp.transpose(A_t) * B, "A_t^top B"),
    (R**-1 * (A_t + B), "R^(-1) (A_t + B)"),
    (sp.Sum(sp.Symbol("a_t"), (t, 0, sp.Symbol("T") - 1)), "sum_(t = 0)^(T - 1) a_t"),
    (sp.Matrix([[1, x], [0, y]]), "mat(1, x; 0, y)"),
    (sp.Eq(x, y, evaluate=False), "x = y"),
    (sp.Le(x, 2), "x <= 2"),
    (sp.Rational(-1, 2), "-1 / 2"),
    (sp.Function("f_t")(x), "f_t (x)"),
    (gradient(x, y), "(partial x) / (partial y)"),
    (sp.Symbol("cost"), 'upright("cost")'),
    (-2 * x, "-2 x"),
    (x * (x + y), "x (x + y)"),
]


@pytest.mark.parametrize("expression, text", PRINTED, ids=[text for _, text in PRINTED])
def test_printed_form(expression, text):
    assert typst(expression) == text
    assert spoken(expression)


def test_what_is_printed_compiles(derived):
    equations = [step["equation"] for d in derived for step in d.to_json()["steps"]] + [text for _, text in PRINTED]
    page = "#set page(height: auto)\n" + "\n".join(f"$ {e} $" for e in equations)
    assert compiler.compile(page.encode(), format="svg").startswith(b"<svg")
    with pytest.raises(Exception, match="unknown variable"):
        compiler.compile(b"$ notavariable $", format="svg")


def test_unknown_kinds_are_refused():
    with pytest.raises(TypeError, match="no typst form"):
        typst(sp.Interval(0, 1))
    with pytest.raises(TypeError, match="no spoken form"):
        spoken(sp.Interval(0, 1))


def test_derivations_are_plain_records():
    step = Step(sp.Eq(x, y, evaluate=False), "same", ({"x": y, "y": y},))
    assert Derivation("t", "s", (step,)).to_json()["steps"] == [{"equation": "x = y", "alt": "X equals y.", "reason": "same"}]
