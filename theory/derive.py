"""Derivations as steps that are checked when they are made: a false equation raises, so it cannot be printed.

An equation is a sympy relation whose matrices are non-commuting symbols and whose indices are part of the names. A case
gives every symbol an exact value (rational matrices, free symbols, or undefined functions); both sides of the printed
equation are evaluated in it and must agree exactly.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import sympy as sp
from sympy.functions.elementary.complexes import transpose

from theory.typst import gradient, ones, rank, split_name, spoken, typst


@dataclass(frozen=True, eq=False)
class Step:
    """One checked equation, the sentence that justifies it, and the exact cases it was checked in.

    Raises ValueError at construction when there is no case, or when some case makes the two sides differ.
    """

    equation: sp.core.relational.Relational
    reason: str
    check: tuple[Mapping, ...]

    def __post_init__(self):
        if not self.check:
            raise ValueError(f"the step {self.equation} has no case to be checked in; give at least one")
        for case in self.check:
            left, right = evaluate(self.equation.lhs, case), evaluate(self.equation.rhs, case)
            if not _agree(self.equation.func, left, right):
                raise ValueError(f"the step {self.equation} is false: the sides are {left} and {right}")


@dataclass(frozen=True, eq=False)
class Derivation:
    """A title, where the result comes from, and its checked steps in order."""

    title: str
    source: str
    steps: tuple[Step, ...]

    def to_json(self) -> dict:
        """Return {title, source, steps: [{equation, alt, reason}]}: typst maths and a spoken sentence of the checked object."""
        steps = [{"equation": typst(s.equation), "alt": _sentence(s.equation), "reason": s.reason} for s in self.steps]
        return {"title": self.title, "source": self.source, "steps": steps}


def _sentence(equation):
    text = spoken(equation).replace(",,", ",").rstrip(",")
    return text[0].upper() + text[1:] + "."


def _agree(relation, left, right) -> bool:
    if isinstance(left, sp.MatrixBase) and isinstance(right, sp.MatrixBase) and left.shape != right.shape:
        return False
    if relation is not sp.Eq:
        return bool(relation(left, right))
    if right == 0 and isinstance(left, sp.MatrixBase):
        right = sp.zeros(*left.shape)
    difference = left - right
    parts = list(difference) if isinstance(difference, sp.MatrixBase) else [difference]
    return all(sp.expand(x) == 0 or sp.simplify(sp.together(x)) == 0 for x in parts)


def evaluate(expr, case: Mapping):
    """Return the value of an expression in a case; a 1 x 1 matrix counts as its entry.

    case: letter -> value, or letter -> {index: value} for indexed letters, function name -> callable, index -> integer.
    Raises KeyError for a symbol the case does not give.
    """
    if expr is ones:
        return sp.ones(case["c"], 1)
    if expr.is_Symbol:
        return _lookup(expr.name, case)
    if expr.is_Number:
        return expr
    if isinstance(expr, sp.Sum):
        index, low, high = expr.limits[0]
        span = range(int(evaluate(low, case)), int(evaluate(high, case)) + 1)
        return _total([evaluate(expr.function, {**case, index.name: k}) for k in span])
    if isinstance(expr, gradient):
        value, x = (evaluate(a, case) for a in expr.args)
        if isinstance(x, sp.MatrixBase) and x.cols > 1 < x.rows:  # of a number in a matrix: the matrix of its slopes
            return x.applyfunc(lambda entry: sp.diff(value, entry))
        return _entry(sp.Matrix([sp.diff(value, xi) for xi in (x if isinstance(x, sp.MatrixBase) else [x])]))
    values = [evaluate(a, case) for a in expr.args]
    if expr.is_Add:
        return _total(values)
    if expr.is_Mul:
        product = values[0]
        for value in values[1:]:
            product = _entry(product * value)
        return product
    if expr.is_Pow:
        base, exponent = values
        return base.inv() if isinstance(base, sp.MatrixBase) and exponent == -1 else base**exponent
    if isinstance(expr, transpose):
        return values[0].T if isinstance(values[0], sp.MatrixBase) else values[0]
    if isinstance(expr, rank):
        return sp.Integer(sp.Matrix(values[0]).rank())
    if isinstance(expr, sp.exp):
        return sp.exp(values[0])
    return _lookup(expr.func.__name__, case)(*values)


def _lookup(name, case):
    letter, index = split_name(name)
    value = case[letter]
    if index is not None:
        at = sp.sympify(index).subs({k: v for k, v in case.items() if isinstance(v, int)})
        value = value[int(at)]
    return value if isinstance(value, Callable) and not isinstance(value, sp.Basic) else _entry(sp.sympify(value))


def _entry(x):
    return x[0, 0] if isinstance(x, sp.MatrixBase) and x.shape == (1, 1) else x


def _total(values):
    total = values[0]
    for value in values[1:]:
        total = total + value
    return total
