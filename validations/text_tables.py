"""A frame as text: CSV, a LaTeX table with booktabs rules, or a Markdown table."""

import pandas as pd

KINDS = ("csv", "tex", "md")
LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"} | {c: f"\\{c}" for c in "&%$#_{}"}


def written(frame: pd.DataFrame, kind: str = "md") -> str:
    """Return a frame as text of a kind: "csv" in full precision, "tex" or "md" with four digits and numbers to the right.

    What is missing is empty. Raises ValueError for another kind.
    """
    if kind not in KINDS:
        raise ValueError(f"expected a kind among {', '.join(KINDS)}, got {kind!r}")
    if kind == "csv":
        return frame.to_csv(index=False)
    shown = [[_cell(value, kind) for value in row] for row in frame.astype(object).itertuples(index=False)]
    names = [_cell(str(name), kind) for name in frame.columns]
    right = [pd.api.types.is_numeric_dtype(dtype) and not pd.api.types.is_bool_dtype(dtype) for dtype in frame.dtypes]
    if kind == "md":
        rule = ["---:" if number else "---" for number in right]
        return "".join(f"| {' | '.join(cells)} |\n" for cells in (names, rule, *shown))
    form = "".join("r" if number else "l" for number in right)
    head, *body = (f"{' & '.join(cells)} \\\\\n" for cells in (names, *shown))
    return f"\\begin{{tabular}}{{{form}}}\n\\toprule\n{head}\\midrule\n{''.join(body)}\\bottomrule\n\\end{{tabular}}\n"


def _cell(value: object, kind: str) -> str:
    """Return a value as the text of a cell in which nothing is markup."""
    if value is None or value is pd.NA or value != value:
        return ""
    text = f"{value:.4g}" if isinstance(value, float) else " ".join(str(value).split())
    if kind == "tex":
        return "".join(LATEX.get(c, c) for c in text)
    return text.replace("|", "\\|")
