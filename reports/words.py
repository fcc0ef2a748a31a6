"""Numbers, intervals, rules and verdicts as they are written on the page, in the terminal and in Markdown."""

import math
import textwrap
from collections.abc import Mapping, Sequence

ORDER = ("supported", "refuted", "undecided", "not applicable")
GLYPHS = {"supported": "●", "refuted": "×", "undecided": "○", "not applicable": "◇"}
COUNTS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
NOTHING = "–"
CONFIDENCE = "95 %"  # of every interval that the record holds


def worded(n: int) -> str:
    """Return a count as a word up to twelve, in digits beyond."""
    return COUNTS[n] if n < len(COUNTS) else str(n)


def known(value: float | None) -> bool:
    """Return whether a number was recorded and is finite."""
    return isinstance(value, int | float) and math.isfinite(value)


def number(value: float | None, digits: int = 3, decimals: int | None = None) -> str:
    """Return a number with a true minus sign, to `digits` significant digits or to `decimals` decimals; a dash for none."""
    if not known(value):
        return NOTHING
    if decimals is None:
        if isinstance(value, int) or float(value).is_integer():
            decimals = 0
        else:
            decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
            if decimals > 6:
                mantissa, exponent = f"{value:.1e}".split("e")
                powers = str(int(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
                return f"{mantissa} × 10{powers}".replace("-", "−")
    text = f"{value:,.{decimals}f}".replace(",", "\u202f")
    return text.replace("-", "−") if float(text.replace("\u202f", "")) else text.lstrip("-")


def bar(value: float | None) -> str:
    """Return a threshold in the fewest digits that tell it."""
    return NOTHING if not known(value) else f"{value:.3g}".replace("-", "−")


def interval(record: Mapping | None) -> str:
    """Return "estimate [low, high]" with decimals that suit the interval's width; the estimate alone without an interval.

    An end that lies beside zero, or beside a bar of the record's own, is not written as if it lay there.
    """
    record = record or {}
    middle, low, high = (record.get(k) for k in ("estimate", "low", "high"))
    if not known(middle):
        return NOTHING
    ends = [v for v in (low, high) if known(v)]
    if not ends:
        return number(middle)
    half = max(abs(v - middle) for v in ends)
    decimals = min(max(math.ceil(-math.log10(half / 2.0)), 0), 4) if half > 0 else 3
    marks = [0.0, *(bar for key in ("supported", "tolerated") for bar in record.get(key) or () if bar is not None)]
    close = [d for d in range(decimals, decimals + 3) if not any(v != m and round(v - m, d) == 0 for v in ends for m in marks)]
    decimals = close[0] if close else decimals
    write = [number(float(v), decimals=decimals) if known(v) else sign for v, sign in ((low, "−∞"), (high, "∞"))]
    return f"{number(float(middle), decimals=decimals)} [{write[0]}, {write[1]}]"


def stated(verdict: Mapping) -> Mapping | None:
    """Return a verdict's statistic, with the interval of the criterion that judges the same number where there is one."""
    own = verdict.get("statistic")
    same = [k for k in verdict.get("criteria", ()) if own and known(own["estimate"]) and k["estimate"] == own["estimate"]]
    return {**own, **{key: same[0][key] for key in ("low", "high", "supported", "tolerated")}} if same else own


def region(ends: Sequence[float | None], *, outside: bool = False) -> str:
    """Return a region's bounds as a condition on the interval, or on its complement when `outside` is set."""
    low, high = ends
    if low is None and high is None:
        return "never" if outside else "always"
    if low is not None and high is not None:
        return f"{'outside' if outside else 'within'} [{bar(low)}, {bar(high)}]"
    if outside:
        parts = [f"below {bar(low)}" if low is not None else "", f"above {bar(high)}" if high is not None else ""]
        return " or ".join(p for p in parts if p)
    return f"above {bar(low)}" if low is not None else f"below {bar(high)}"


def p_value(value: float | None) -> str:
    """Return "p = 0.012", with "<" below one in a thousand."""
    if not known(value):
        return ""
    return "p < 0.001" if value < 0.001 else f"p = {number(float(value), decimals=3 if value < 0.1 else 2)}"


def duration(seconds: float) -> str:
    """Return a time in the unit that suits it."""
    for unit, size in (("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"


def count(n: int, noun: str) -> str:
    """Return a count with its noun, in words up to twelve."""
    return f"{worded(n)} {noun}{'' if n == 1 else 's'}"


def listed(names: Sequence[str]) -> str:
    """Return names joined by commas and a last "and"."""
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]


NATURES = {"prediction": "Predictions", "consistency": "Consistency of the linear theory"}
KINDS = {"prediction": ("prediction", "predictions"), "consistency": ("check of consistency", "checks of consistency")}


def judged(claims: Sequence[Mapping]) -> list[dict]:
    """Return every verdict, one for each claim and delta, with its claim's title and nature; predictions come first."""
    made = [
        {**v, "id": c["id"], "nature": c["nature"], "title": c["title"], "of": v["label"] if len(c["verdicts"]) > 1 else ""}
        for c in claims
        for v in c["verdicts"]
    ]
    return sorted(made, key=lambda v: list(NATURES).index(v["nature"]))


def named(verdict: Mapping) -> str:
    """Return a verdict's claim, with its delta where the claim has several."""
    return f"{verdict['title']} ({verdict['of']})" if verdict["of"] else verdict["title"]


def glyphed(word: str) -> str:
    """Return a verdict's word with its glyph."""
    return f"{GLYPHS.get(word, '?')} {word}"


def opening(claims: Sequence[Mapping]) -> str:
    """Return the sentences that count the verdicts on predictions and on consistency, and the one that counts the plants."""
    parts = []
    for nature, (one, many) in KINDS.items():
        own = [c for c in claims if c["nature"] == nature]
        verdicts = judged(own)
        if not verdicts:
            continue
        totals = [(sum(v["verdict"] == word for v in verdicts), word) for word in ORDER]
        found = listed([f"{worded(n)} {'is' if n == 1 else 'are'} {word}" for n, word in totals if n])
        about = f"{worded(len(own))} {one if len(own) == 1 else many}"
        parts.append(f"Of {count(len(verdicts), 'verdict')} on {about}, {found}.")
    plants = [c for claim in claims for c in (claim.get("plants") or {}).values() if c]
    met = sum(c["verdict"] == c["expected"] for c in plants)
    if plants and met == len(plants):
        parts.append(f"All {count(met, 'plant')} with a known answer came out as expected.")
    elif plants:
        parts.append(f"Of {count(len(plants), 'plant')} with a known answer, {worded(met)} came out as expected.")
    return " ".join(parts)


def headlines(claims: Sequence[Mapping]) -> list[dict]:
    """Return what claims have to say in a user's words: one sentence and a table, a line per delta, the measured number first."""
    made = []
    for claim in claims:
        says, verdicts = claim.get("headline"), [v for v in claim["verdicts"] if v.get("headline")]
        if not says or not any(known(v["headline"][0]["estimate"]) for v in verdicts):
            continue
        spans = [_span([(v["headline"][k]["estimate"], v["label"]) for v in verdicts], named=not k) for k in (0, 1)]
        made.append(
            {
                "title": says["title"],
                "sentence": f"{says['measured'].replace('{}', spans[0])}; {says['foretold'].replace('{}', spans[1])}.",
                "columns": ["Delta", *(one["label"][:1].upper() + one["label"][1:] for one in verdicts[0]["headline"])],
                "rows": [[v["label"] or v["delta"], *map(interval, v["headline"])] for v in verdicts],
            }
        )
    return made


def _span(values: Sequence[tuple[float | None, str]], *, named: bool) -> str:
    """Return the least and the largest of some numbers, with whose they are when `named`."""
    found = sorted(one for one in values if known(one[0]))
    ends = found[:1] if len(found) == 1 else [found[0], found[-1]]
    return " to ".join(number(float(value), decimals=1) + (f" ({label})" if named and label else "") for value, label in ends)


def verdict_groups(claims: Sequence[Mapping]) -> list[dict]:
    """Return, for each verdict on predictions that occurs, the titles of its claims in order, each once with its deltas."""
    predictions = [c for c in claims if c["nature"] == "prediction"]
    groups = [{"verdict": word, "titles": [t for c in predictions if (t := _titled(c, word))]} for word in ORDER]
    return [g for g in groups if g["titles"]]


def _titled(claim: Mapping, word: str) -> str:
    """Return a claim's title with the deltas on which its verdict is a word; empty where that is none."""
    deltas = [v["label"] for v in claim["verdicts"] if v["verdict"] == word]
    if not deltas or len(claim["verdicts"]) == 1:
        return claim["title"] if deltas else ""
    return f"{claim['title']} ({'every delta' if len(deltas) == len(claim['verdicts']) > 2 else listed(deltas)})"


def verdict_rows(claims: Sequence[Mapping]) -> list[dict]:
    """Return the verdict table, a line per claim and delta: statistic, interval, tasks, criteria with their bars, verdict."""
    return [
        {
            "id": v["id"],
            "title": v["title"],
            "nature": v["nature"],
            "delta": v["of"],
            "tasks": v["tasks"],
            "statistic": (v.get("statistic") or {}).get("label", ""),
            "value": interval(stated(v)),
            "criteria": [
                {"text": criterion_text(k), "outcome": k["outcome"], "glyph": GLYPHS.get(k["outcome"], "")}
                for k in v.get("criteria", ())
            ],
            "verdict": v["verdict"],
        }
        for v in judged(claims)
    ]


def criterion_text(criterion: Mapping) -> str:
    """Return a criterion as "label above 0.5"."""
    return f"{criterion['label']} {region(criterion['supported'])}"


def forest_value(criterion: Mapping) -> str:
    """Return a criterion's number with its interval, and its unit when that is short."""
    unit = criterion.get("unit") or ""
    return f"{interval(criterion)} {unit}".rstrip() if len(unit) <= 8 else interval(criterion)


def as_text(claims: Sequence[Mapping], width: int = 108) -> str:
    """Return the verdict table for a terminal, wrapped to `width` columns."""
    lines, nature = [], ""
    for row in verdict_rows(claims):
        if row["nature"] != nature:
            nature = row["nature"]
            statistic = f"statistic [{CONFIDENCE} interval]"
            lines += [f"{NATURES[nature]:<{width - 52}}{statistic:<27}{'tasks':<7}verdict", "─" * width]
        titles = textwrap.wrap(f"{row['title']} ({row['delta']})" if row["delta"] else row["title"], width - 54)
        lines.append(f"{titles[0]:<{width - 52}}{row['value']:<27}{row['tasks']:<7}{glyphed(row['verdict'])}")
        lines += titles[1:]
    return "\n".join(lines)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in (head, *rows)]
    return "\n".join([lines[0], "|" + "---|" * len(head), *lines[1:]])


def as_markdown(claims: Sequence[Mapping]) -> str:
    """Return the verdict tables as Markdown, predictions first, one line per claim and delta."""
    parts, found = [], verdict_rows(claims)
    for nature in dict.fromkeys(row["nature"] for row in found):
        lines = []
        for row in found:
            if row["nature"] == nature:
                criteria = "; ".join(c["text"] for c in row["criteria"]) or NOTHING
                statistic = f"{row['statistic']}: {row['value']}" if row["statistic"] else row["value"]
                title = f"{row['title']} ({row['delta']})" if row["delta"] else row["title"]
                lines.append((title, statistic, criteria, str(row["tasks"]), glyphed(row["verdict"])))
        head = (NATURES[nature], f"Statistic [{CONFIDENCE} interval]", "Supported when", "Tasks", "Verdict")
        parts.append(table(head, lines))
    return "\n\n".join(parts)
