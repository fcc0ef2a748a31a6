"""Which columns of a file or hub data set hold the texts and the label: named by the caller, or known by their usual names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

PARTS = ("text_a", "text_b", "label")
PAIRS = (
    ("text_a", "text_b"),
    ("text1", "text2"),
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("question", "sentence"),
    ("question", "passage"),
)
SINGLE = ("text", "sentence", "question", "content", "review", "tweet", "title")
LABELS = ("label", "labels", "label_text", "label_name", "class_name", "target", "category", "coarse_label", "fine_label")
NAMES = ("label_text", "label_name", "class_name")
UNUSED = ("idx", "id", "index", "guid", "uid", "pairID", "promptID", "__index_level_0__", "Unnamed: 0", "")
TEXTS = tuple(dict.fromkeys((*(name for pair in PAIRS for name in pair), *SINGLE)))
HOW = (
    "say which with --columns text=NAME,label=NAME, or with --text, --text-b and --label "
    '(in Python columns={"text_a": ..., "label": ...})'
)


def chosen(present: Sequence[str], columns: Mapping[str, str] | None, where: str, *, strict: bool) -> dict[str, str]:
    """Return which of the columns present plays which part: text_a, text_b where there is a second text, and label.

    What ``columns`` names is taken; the rest is found by the usual names of such data: a text or a pair of texts, and
    a label, of which one called label goes before others. ``strict`` refuses columns of other names when ``columns``
    names none. Raises ValueError, saying how to name columns, for a column that is missing or of unknown use, and
    where more than one choice is possible.
    """
    parts = dict(columns or {})
    strange = sorted(set(parts) - set(PARTS))
    if strange:
        raise ValueError(f"columns names the part {strange[0]!r}, expected text_a, text_b or label: correct it")
    for part, column in parts.items():
        if column not in present:
            raise ValueError(f"{where} has no column {column!r} for {part}, only {', '.join(present)}: {HOW}")
    if len(set(parts.values())) < len(parts):
        raise ValueError(f"columns names one column of {where} for two parts, expected one for each: correct it")
    unknown = [name for name in present if name not in (*TEXTS, *LABELS, *UNUSED)]
    if strict and columns is None and unknown:
        raise ValueError(f"{where} has the unknown column {unknown[0]!r}: drop it, or {HOW}")
    rest = [name for name in present if name not in parts.values()]
    if "text_a" not in parts:
        texts = tuple(name for name in rest if name in TEXTS)
        pair = next((pair for pair in PAIRS if set(pair) == set(texts) and "text_b" not in parts), None)
        if pair is None and len(texts) > 1:
            raise ValueError(f"{where} has the text columns {', '.join(texts)}, of which no use is certain: {HOW}")
        if not texts:
            raise ValueError(f"{where} has no column 'text_a' for text_a, only {', '.join(present)}: {HOW}")
        parts |= dict(zip(("text_a", "text_b"), pair or texts, strict=False))
    if "label" not in parts:
        labels = [name for name in rest if name in LABELS]
        if not labels:
            raise ValueError(f"{where} has no column 'label' for label, only {', '.join(present)}: {HOW}")
        if len(labels) > 1 and "label" not in labels:
            raise ValueError(f"{where} has the label columns {', '.join(labels)}, of which no use is certain: {HOW}")
        parts["label"] = "label" if "label" in labels else labels[0]
    return {part: parts[part] for part in PARTS if part in parts}


def named_beside(present: Sequence[str], parts: Mapping[str, str]) -> dict[str, str]:
    """Return the column that names the class whose number is the label, as the part `class`; none where there is no such one."""
    names = [name for name in present if name in NAMES and name not in parts.values()]
    return {"class": names[0]} if len(names) == 1 else {}
