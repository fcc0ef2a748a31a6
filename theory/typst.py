"""Sympy expressions as typst mathematics and as spoken sentences.

Matrices are non-commuting symbols; a name such as `lambda_{t+1}` is a letter with the index t + 1.
"""

import re

import sympy as sp
from sympy.functions.elementary.complexes import transpose

gradient = sp.Function("gradient")  # gradient(L, x): the column of partial derivatives
jacobian = sp.Function("jacobian", commutative=False)  # jacobian(f(x), x): the matrix of partial derivatives
rank = sp.Function("rank", integer=True)
ones = sp.Symbol("ones", commutative=False)  # the vector of ones

_GREEK = {
    "alpha",
    "beta",
    "gamma",
    "delta",
    "epsilon",
    "theta",
    "kappa",
    "lambda",
    "mu",
    "nu",
    "pi",
    "rho",
    "sigma",
    "tau",
    "phi",
    "psi",
    "omega",
    "Gamma",
    "Delta",
    "Theta",
    "Lambda",
    "Sigma",
    "Phi",
    "Psi",
    "Omega",
}
_RELATIONS = {
    sp.Eq: ("=", "equals"),
    sp.Le: ("<=", "is at most"),
    sp.Ge: (">=", "is at least"),
    sp.Lt: ("<", "is less than"),
    sp.Gt: (">", "is greater than"),
}


def split_name(name: str) -> tuple[str, str | None]:
    """Return the letter and the index of a symbol's name: "x_{t+1}" -> ("x", "t+1"), "R" -> ("R", None)."""
    letter, _, index = name.partition("_")
    return letter, index.strip("{}") or None


def _sum_parts(expr):
    """The terms of an Add as (is negative, positive term), in their order but subtractions and numbers last."""
    parts = []
    for term in expr.args:
        if term.is_Mul and term.args[0] == -1:
            parts.append((True, sp.Mul(*term.args[1:], evaluate=False)))
        else:
            negative = term.could_extract_minus_sign()
            parts.append((negative, -term if negative else term))
    return sorted(parts, key=lambda part: (part[0], part[1].is_Number))


def _product_parts(expr):
    """Sign, numerator factors and denominator factors of a product; matrix inverses stay in the numerator."""
    negative, top, bottom = False, [], []
    for factor in expr.args:
        if factor.is_Rational and not factor.is_Integer or factor.is_Integer and factor < 0:
            negative ^= bool(factor < 0)
            p, q = abs(factor.p), factor.q
            top += [sp.Integer(p)] if p != 1 else []
            bottom += [sp.Integer(q)] if q != 1 else []
        elif factor.is_Pow and factor.is_commutative and factor.exp.could_extract_minus_sign():
            bottom.append(sp.Pow(factor.base, -factor.exp))
        else:
            top.append(factor)
    return negative, top, bottom


def typst(expr) -> str:
    """Return the typst maths of a sympy expression, without dollar signs; raises TypeError for a kind it does not know."""
    if isinstance(expr, str):
        return typst(sp.sympify(expr))
    for kind, (sign, _) in _RELATIONS.items():
        if isinstance(expr, kind):
            return f"{typst(expr.lhs)} {sign} {typst(expr.rhs)}"
    if expr is ones:
        return "bold(1)"
    if isinstance(expr, sp.MatrixBase):
        return "mat(" + "; ".join(", ".join(typst(x) for x in expr.row(i)) for i in range(expr.rows)) + ")"
    if expr.is_Symbol:
        letter, index = split_name(expr.name)
        letter = letter if len(letter) == 1 or letter in _GREEK else f'upright("{letter}")'
        return letter if index is None else f"{letter}_{_group(typst(index))}"
    if expr.is_Rational:
        return str(expr.p) if expr.q == 1 else f"{'-' if expr.p < 0 else ''}{abs(expr.p)} / {expr.q}"
    if expr.is_Add:
        out = ""
        for negative, term in _sum_parts(expr):
            out += (" - " if negative else " + ") + (_bracket(term) if negative and term.is_Add else typst(term))
        return out[3:] if out.startswith(" + ") else "-" + out[3:]
    if expr.is_Mul:
        negative, top, bottom = _product_parts(expr)
        scalars = [f for f in top if f.is_commutative and bottom]
        rest = [f for f in top if not (f.is_commutative and bottom)]
        number = " ".join(_factor(f, len(scalars)) for f in scalars) or "1"
        pieces = [f"({number}) / ({' '.join(_factor(f, len(bottom)) for f in bottom)})"] if bottom else []
        pieces += [_factor(f, len(top) + len(bottom)) for f in rest]
        return ("-" if negative else "") + " ".join(pieces or ["1"])
    if expr.is_Pow:
        if expr.is_commutative and expr.exp == sp.Rational(1, 2):
            return f"sqrt({typst(expr.base)})"
        if expr.is_commutative and expr.exp.could_extract_minus_sign():
            return f"1 / ({typst(sp.Pow(expr.base, -expr.exp))})"
        return f"{_bracket(expr.base)}^{_group(typst(expr.exp))}"
    if isinstance(expr, transpose):
        return f"{_bracket(expr.args[0])}^top"
    if isinstance(expr, sp.exp):
        return f"e^{_group(typst(expr.args[0]))}"
    if isinstance(expr, sp.Sum):
        index, low, high = expr.limits[0]
        body = typst(expr.function)
        body = f"({body})" if expr.function.is_Add else body
        return f"sum_({typst(index)} = {typst(low)})^({typst(high)}) {body}"
    if isinstance(expr, gradient | jacobian):
        return f"(partial {typst(expr.args[0])}) / (partial {typst(expr.args[1])})"
    if isinstance(expr, sp.Function):
        name = expr.func.__name__
        head = f'op("{name}")' if name == "rank" else typst(sp.Symbol(name))
        return f"{head} ({', '.join(typst(x) for x in expr.args)})"
    raise TypeError(f"no typst form for {type(expr).__name__}: {expr}")


def _group(text):
    return text if re.fullmatch(r"\w", text) else f"({text})"


def _bracket(expr):
    """The expression, in brackets where a power, a minus or a sum sign would otherwise bind only its first part."""
    return typst(expr) if _atomic(expr) else f"({typst(expr)})"


def _factor(expr, siblings):
    return f"({typst(expr)})" if siblings > 1 and (expr.is_Add or isinstance(expr, sp.Sum)) else typst(expr)


def _atomic(expr):
    return isinstance(expr, sp.exp | sp.MatrixBase) or expr.is_Symbol or (expr.is_Integer and expr >= 0)


def spoken(expr) -> str:
    """Return the expression as a plain English phrase, for readers who hear the page."""
    if isinstance(expr, str):
        return spoken(sp.sympify(expr))
    for kind, (_, word) in _RELATIONS.items():
        if isinstance(expr, kind):
            return f"{spoken(expr.lhs)} {word} {spoken(expr.rhs)}"
    if expr is ones:
        return "the vector of ones"
    if isinstance(expr, sp.MatrixBase):
        return f"a {expr.rows} by {expr.cols} matrix"
    if expr.is_Symbol:
        letter, index = split_name(expr.name)
        letter = f"capital {letter}" if len(letter) == 1 and letter.isupper() else letter
        return letter if index is None else f"{letter} sub {spoken(index)}"
    if expr.is_Rational:
        return ("minus " if expr < 0 else "") + (str(abs(expr.p)) + (f" over {expr.q}" if expr.q != 1 else ""))
    if expr.is_Add:
        words = " ".join(("minus " if negative else "plus ") + spoken(term) for negative, term in _sum_parts(expr))
        return words.removeprefix("plus ")
    if expr.is_Mul:
        negative, top, bottom = _product_parts(expr)
        words = " times ".join(_phrase(f) for f in top) or "1"
        words += " over " + " times ".join(_phrase(f) for f in bottom) if bottom else ""
        return ("minus " if negative else "") + words
    if expr.is_Pow:
        if expr.exp == -1:
            return f"the inverse of {_phrase(expr.base)}"
        return f"{_phrase(expr.base)} to the power {spoken(expr.exp)}"
    if isinstance(expr, transpose):
        return f"{_phrase(expr.args[0])} transposed"
    if isinstance(expr, sp.exp):
        return f"e to the {_phrase(expr.args[0])}"
    if isinstance(expr, sp.Sum):
        index, low, high = expr.limits[0]
        return f"the sum over {spoken(index)} from {spoken(low)} to {spoken(high)} of {_phrase(expr.function)}"
    if isinstance(expr, gradient | jacobian):
        return f"the derivative of {spoken(expr.args[0])} in {spoken(expr.args[1])}"
    if isinstance(expr, sp.Function):
        name = expr.func.__name__
        head = "the rank" if name == "rank" else spoken(sp.Symbol(name))
        return f"{head} of {' and '.join(_phrase(x) for x in expr.args)}"
    raise TypeError(f"no spoken form for {type(expr).__name__}: {expr}")


def _phrase(expr):
    return f"the quantity {spoken(expr)}," if expr.is_Add else spoken(expr)
