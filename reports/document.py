"""What the page says: the study's record as one JSON document in which every number is written out."""

import json
import pathlib
import re
from collections.abc import Mapping, Sequence

from . import glossary, meaning, style, words
from .figures import SHARED
from .gallery import Drawn
from .load import Results

REFERENCES = pathlib.Path(__file__).with_name("refs.bib")
PROCESSORS = pathlib.Path(__file__).with_name("processors.json")
VIEWS = {"optimization": "the optimization view", "control": "the control view"}
CONSISTENCY = (
    "In these claims training solves, in a regime that was chosen to be linear, the problem that the prediction solved. "
    "Agreement is what the theory demands of itself: it shows that the instruments and the linear regime hold, and little about "
    "tuning at the strength at which people use it. What informs is the lead over rivals, and every failure. Where tuning "
    "goes and what it gains in practice is what the predictions ask."
)
TOGETHER = 3  # lines of a table that stand on one page at least
PARTS = {"train": "texts to train on", "readout": "texts of the readout", "test": "held-out texts"}


def document(results: Results, gallery: Mapping[str, Drawn], letters: str = "") -> dict:
    """Return the page's words. `gallery` holds the drawn figures by name; figure files are called name.svg.
    letters: a sentence on letters that the fonts lack.

    Raises ValueError for a source that refs.bib lacks.
    """
    labels, cited = style.Labels.of(results.study), references()
    shown = figures(gallery)

    headlines = words.headlines(results.claims)
    limits = [c["gate"]["limit"] for c in results.claims if c.get("gate")]
    return {
        "name": results.study["name"],
        "title": results.study["title"],
        "question": results.study["question"],
        "confidence": words.CONFIDENCE,
        "setting": setting(results.study),
        "summary": " ".join([*(h["sentence"] for h in headlines), words.opening(results.claims), setting(results.study)]),
        "headlines": headlines,
        "looks": looked(results.study),
        "groups": [g for g in words.verdict_groups(results.claims) if g["verdict"] in ("supported", "refuted")],
        "meaning": meaning.meaning(results.record),
        "bargains": meaning.bargains(results.record),
        "limitations": meaning.limitations(results.record),
        "verdicts": words.verdict_rows(results.claims),
        "overviews": [s for name, s in shown.items() if name.startswith("forest") or name == "parity"],
        "natures": dict(words.NATURES),
        "calibration": error_rates(results.record.get("calibration"), shown.get("errors")),
        "limit": words.bar(limits[0]) if limits else None,
        "views": [
            {"title": title, "text": text, "claims": [claim_section(c, figure_of(c, shown), cited) for c in claims]}
            for title, text, claims in sections(results.claims)
        ],
        "about": about(results.study),
        "derivations": [d | {"source": cite(d.get("source") or "", cited)} for d in results.record["derivations"]],
        "tasks": [task_row(t) for t in results.study["tasks"]],
        "texts": [text for text in (leaks(results.study["tasks"]), shared_texts(results.study["tasks"])) if text],
        "deltas": [
            {
                "label": labels.delta(d["name"]),
                "size": words.number(d.get("size")),
                "reference": cite(d.get("reference") or "", cited),
            }
            for d in results.study["deltas"]
        ],
        "taxonomy": taxonomy(results.study.get("taxonomy")),
        "settings": glossary.settings({style.spelled(k): plain(v) for k, v in results.study.get("settings", {}).items()}),
        "words": [list(line) for line in glossary.WORDS],
        "letters-of": [{"symbol": letter, "meaning": said, "unit": unit} for letter, said, unit in glossary.LETTERS],
        "costs": costs(results.record["costs"]),
        "provenance": provenance(results),
        "processors": processors(),
        "footer": footer(results),
        "seal": results.record["seal"],
        "letters": letters,
    }


def figures(gallery: Mapping[str, Drawn], before: str = "") -> dict[str, dict]:
    """Return the words of drawn figures by name, whose files are called by it, with something before where it is given."""
    return {
        name: {"file": f"{before}{name}.svg", "caption": s.caption, "alt": s.alt, "sources": list(s.sources)}
        for name, s in gallery.items()
    }


def figure_of(claim: Mapping, shown: Mapping[str, Mapping]) -> dict | None:
    """Return a claim's figure among those shown, or the one that it shares, and whether it stands here; None without."""
    own, other = shown.get(claim["id"]), shown.get(SHARED.get(claim["id"], ""))
    return own | {"here": True} if own else other | {"here": False} if other else None


def sections(claims: Sequence[Mapping]) -> list[tuple[str, str, list[Mapping]]]:
    """Return title, text and claims of every section: the predictions of each view, then the checks of consistency."""
    predictions = [c for c in claims if c["nature"] == "prediction"]
    made = [
        (f"Predictions: {VIEWS.get(view, style.spelled(view).lower())}", "", [c for c in predictions if c["view"] == view])
        for view in dict.fromkeys(c["view"] for c in predictions)
    ]
    checks = [c for c in claims if c["nature"] == "consistency"]
    return [*made, *([(words.NATURES["consistency"], CONSISTENCY, checks)] if checks else [])]


def error_rates(calibration: Mapping | None, figure: Mapping | None) -> dict | None:
    """Return the figure and the lines of the table of error rates, or None where the record holds none."""
    if not calibration:
        return None
    lines = [
        [
            words.number(line["tasks"]),
            f"{words.number(line['coverage_low'], decimals=3)} to {words.number(line['coverage_high'], decimals=3)}",
            *(words.number(float(line[k]), decimals=3) for k in ("wrong_supported", "wrong_refuted", "skewed", "suite_wrong")),
            ", ".join(words.number(float(p), decimals=2) for p in line["suite_power"]),
        ]
        for line in calibration["lines"]
    ]
    design = {k: words.count(calibration[k], noun) for k, noun in (("claims", "claim"), ("deltas", "delta"), ("seeds", "seed"))}
    return {"figure": figure, "lines": lines, "worlds": words.number(calibration["worlds"]), **design}


def about(study: Mapping) -> str:
    """Return what verdicts are about, where the seed replicates, or where some tasks are of development; else nothing."""
    aside = [f"“{t['label']}”" for t in study["tasks"] if t["name"] in study.get("development", ())]
    if study.get("unit", "task") == "task":
        return f"Settings were chosen on {words.listed(aside)}, on which no verdict rests." if aside else ""
    names = words.listed([f"“{t['label']}”" for t in study["tasks"]])
    return f"Seeds replicate here, each with a split or a network of its own, so verdicts are about {names} and no other task."


def looked(study: Mapping) -> str:
    """Return how often verdicts were drawn, empty where that is once."""
    looks = study.get("looks", 1)
    times = "twice" if looks == 2 else f"{words.worded(looks)} times"
    said = f"Verdicts were drawn {times}, so every p-value is multiplied by {words.worded(looks)}."
    return said if looks > 1 else ""


def references() -> set[str]:
    """Return the keys of the bibliography."""
    return set(re.findall(r"^@\w+\{([^,\s]+)", REFERENCES.read_text(encoding="utf-8"), flags=re.M))


def cite(source: str, known: set[str]) -> dict:
    """Return a source as a bibliography key when it is one, else as words."""
    return {"key": source, "text": ""} if source in known else {"key": "", "text": source}


def claim_section(claim: Mapping, figure: Mapping | None, cited: set[str]) -> dict:
    """Return one claim's section. Raises ValueError for a source that refs.bib lacks."""
    unknown = [s for s in claim["sources"] if s not in cited]
    if unknown:
        raise ValueError(
            f"expected sources that reports/refs.bib lists, got {unknown[0]!r} in claim {claim['id']}: add the entry"
        )
    return {
        "id": claim["id"],
        "title": claim["title"],
        "verdicts": [
            {
                "label": sentence(v["label"], "") if len(claim["verdicts"]) > 1 else "",
                "verdict": v["verdict"],
                "why": sentence(v.get("why") or ""),
                "tested": tested(v),
                "tasks": words.number(v["tasks"]),
                "cells": words.number(v["cells"]),
                **{key.replace("_", "-"): words.p_value(v.get(key)) or words.NOTHING for key in ("p_support", "p_refute")},
            }
            for v in claim["verdicts"]
        ],
        "statement": sentence(claim["statement"]),
        "equation": claim["equation"],
        "alt": claim["equation_alt"],
        "symbols": glossary.symbols(claim),
        "derived": claim["derived"].strip().rstrip("."),
        "sources": list(claim["sources"]),
        "assumptions": [
            {"statement": sentence(a["statement"]), "count": f"{a['passed']} of {a['total']}",
             "needed": f"{100 * a['needed']:.0f} %" if a.get("needed") else words.NOTHING,
             "evidence": a.get("evidence", ""), "holds": a["holds"]}
            for a in claim.get("assumptions", ())
        ],
        "figure": figure,
        "rows": claim_rows(claim),
        "rule": sentence(claim["rule"]),
        "reason": sentence(claim["reason"]),
        "change": sentence(claim["change"]),
        "gate": gate(claim.get("gate")),
    }  # fmt: skip


def claim_rows(claim: Mapping) -> list[dict]:
    """Return the claim's table: its criteria, statistic, rivals, nulls, what is shown beside, and plants, in groups.

    `part` says which lines are not to be parted; the criteria of several deltas have their words in `head`, once.
    """
    rows = []
    several = len(claim["verdicts"]) > 1
    found = [(place, v["label"], k) for v in claim["verdicts"] for place, k in enumerate(v["criteria"])]
    for place, delta, criterion in sorted(found, key=lambda one: one[0]):
        unit = criterion.get("unit") or ""
        label = sentence(criterion["label"] if not unit or unit in criterion["label"] else f"{criterion['label']} ({unit})", "")
        rows.append({"group": "Criteria", "part": f"criterion {place}", "head": label if several else "",
                     "label": delta if several else label, "value": words.interval(criterion),
                     "support": words.region(criterion["supported"]),
                     "refute": words.region(criterion["tolerated"], outside=True), "outcome": criterion["outcome"]})  # fmt: skip
    own = claim.get("statistic")
    if own and words.interval(own) not in [row["value"] for row in rows[:1]]:
        rows.append(beside("Statistic", own))
    rows += [beside("Rivals", r) for r in claim.get("rivals", ())] + [beside("Nulls", n) for n in claim.get("nulls", ())]
    rows += [beside("Beside", a) for a in claim.get("also", ())]
    return bound(rows + [plant_row(which, c) for which, c in (claim.get("plants") or {}).items() if c])


def bound(rows: Sequence[Mapping]) -> list[dict]:
    """Return rows with the number of their bundle, which no page break divides: whole parts, at least three lines together."""
    bundles: list[list[Mapping]] = [[]]
    for part in dict.fromkeys(row["part"] for row in rows):
        if len(bundles[-1]) >= TOGETHER:
            bundles.append([])
        bundles[-1] += [row for row in rows if row["part"] == part]
    if len(bundles) > 1 and len(bundles[-1]) < TOGETHER:
        bundles[-2:] = [bundles[-2] + bundles[-1]]
    return [{**row, "bundle": place} for place, bundle in enumerate(bundles) for row in bundle]


def beside(group: str, record: Mapping) -> dict:
    """Return a line of a claim's table that has no bar of its own."""
    label, value = sentence(record["label"], ""), words.interval(record)
    return {"group": group, "part": group, "head": "", "label": label, "value": value, "support": "", "refute": "", "outcome": ""}


def plant_row(which: str, plant: Mapping) -> dict:
    """Return a plant as a line of the claim's table: its first criterion, what was expected, what came out."""
    known = "Known good" if which == "good" else "Known bad"
    met = "" if plant["expected"] == plant["verdict"] else " (unexpected)"
    said = {"group": "Plants", "part": "Plants", "head": "", "label": f"{known}: {plant['description']}"}
    found = {"support": f"expected {plant['expected']}{met}", "refute": None, "outcome": plant["verdict"]}
    return {**said, "value": words.interval(plant), **found}


def tested(verdict: Mapping) -> str:
    """Return how much evidence was tested and the suite-wide p-values, as one sentence."""
    if verdict["verdict"] == "not applicable":
        return ""
    text = f"{words.count(verdict['tasks'], 'task')}, {words.count(verdict['cells'], 'row')}".capitalize()
    levels = [f"{words.p_value(verdict.get(k))} for {name}" for k, name in (("p_support", "support"), ("p_refute", "refutation"))
              if words.p_value(verdict.get(k))]  # fmt: skip
    return text + (f"; adjusted over the study, {' and '.join(levels)}." if levels else ".")


def gate(record: Mapping | None) -> str:
    """Return how many cells lie inside the linear regime, as one sentence."""
    if not record or not record.get("total"):
        return ""
    median, limit = words.number(record.get("median"), 2), words.bar(record["limit"])
    inside = f"{record['passed']} of {record['total']} rows lie inside the linear regime"
    return f"{inside} (median η {median}, limit {limit})."


def setting(study: Mapping) -> str:
    """Return what the study ran on, as one sentence."""
    b = study["backbone"]
    seeds = ("at most " if study.get("seeds_vary") else "") + words.count(len(study["seeds"]), "seed")
    return (
        f"The frozen backbone is {b['name']} ({b['architecture']}, {words.count(b['blocks'], 'block')} of width {b['width']}, "
        f"{words.number(b['parameters'])} parameters), on {words.count(len(study['tasks']), 'task')} with "
        f"{words.count(len(study['deltas']), 'delta')} and {seeds}."
    )


def task_row(task: Mapping) -> list[str]:
    """Return one line of the task table."""
    share = [words.number(task.get(k), decimals=2) for k in ("majority", "frozen")]
    counts = [words.number(task.get(k)) for k in ("classes", "train", "test")]
    return [task["label"], task.get("family", ""), *counts, *share, str(task.get("digest", ""))[:10]]


def taxonomy(record: Mapping | None) -> dict | None:
    """Return the lines of the table of kinds of delta and its caption, or None where the record has none."""
    if record is None:
        return None
    lines = [[k["family"], k["kind"], k["numbers"], k["does"], k["peft"] or words.NOTHING] for k in record["kinds"]]
    return {"lines": lines, "counted": record["counted"]}


def leaks(tasks: Sequence[Mapping]) -> str:
    """Return the sentence on held-out texts that also stand in train, task by task, empty where none was counted."""
    named = []
    for task in tasks:
        counted = [(name.replace("_", " "), of) for name, of in (task.get("overlap") or {}).items() if of["folded"]]
        found = [f"{words.number(of['folded'])} of {words.number(of['texts'])} in {name} ({percent(of['share'])})"
                 for name, of in counted]  # fmt: skip
        named += [f"“{task['label']}”, {words.listed(found)}"] if found else []
    return f"Held-out texts that also stand in train, which training leaves out: {'; '.join(named)}." if named else ""


def shared_texts(tasks: Sequence[Mapping]) -> str:
    """Return the sentence on the largest share of its texts that a seed has in common with another, empty where there is none."""
    found = []
    for part, of in PARTS.items():
        share, label = max(((task.get("shared") or {}).get(part, 0.0), task["label"]) for task in tasks)
        found += [f"{percent(share)} of the {of} (“{label}”)"] if share else []
    return f"Seeds of one task share texts with one another: at most {words.listed(found)}." if found else ""


def percent(share: float) -> str:
    """Return a share in percent, to two significant digits."""
    return f"{words.number(100.0 * share, 2)} %"


def plain(value: object) -> str:
    """Return a setting's value in words."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return words.number(value) if isinstance(value, int) else f"{value:.6g}".replace("-", "−")
    if isinstance(value, Mapping):
        return ", ".join(f"{style.spelled(k).lower()} {plain(v)}" for k, v in value.items()) or words.NOTHING
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(plain(v) for v in value) or words.NOTHING
    return words.NOTHING if value is None else str(value)


def costs(records: Sequence[Mapping]) -> dict:
    """Return the cost table's lines and its total."""
    lines = [[r["label"], words.number(r["cells"]), words.duration(r["cpu_seconds"])] for r in records]
    total = [words.number(sum(r["cells"] for r in records)), words.duration(sum(r["cpu_seconds"] for r in records))]
    return {"lines": lines, "total": total}


def processors() -> str:
    """Return by how much another processor's arithmetic moved numbers, as `tests/processors.py --record` found it."""
    off = json.loads(PROCESSORS.read_text(encoding="utf-8"))
    half, most = (f"one part in {1 / off[name]:,.0f}" for name in ("half", "nine_in_ten"))
    measured, forecast = (f"{100 * off[f'largest_{phase}']:.2g} %" for phase in ("cells", "predicted"))
    return (
        "Run again with the same seeds and versions on the same kind of processor, a study gives the same bytes in any number of "
        "processes. Other kinds of processor add in another order, and other last digits follow. Two full-batch trainings of "
        "nano, of LoRA and of a prefix, were repeated under the arithmetic of two older kinds: half of their numbers agreed to "
        f"{half}, nine in ten to {most}; the furthest was {measured} off among those measured and {forecast} off among those "
        "forecast."
    )


def provenance(results: Results) -> list[list[str]]:
    """Return where the numbers come from, line by line."""
    p, b = results.record["provenance"], results.study["backbone"]
    changed = " with uncommitted changes" if p.get("dirty") else ""
    versions = ", ".join(f"{k} {v}" for k, v in (p.get("versions") or {}).items())
    lines = [
        ("Commit", f"{p.get('commit', '')}{changed}"),
        ("Backbone", f"{b['name']}, fingerprint {b.get('fingerprint', '')}"),
        ("Python", p.get("python", "")),
        ("Packages", versions),
        ("Processor", p.get("processor", "")),
        ("Cells", "; ".join(p.get("cells") or [])),
        ("Threads", words.number(p["threads"]) + " per process" if p.get("threads") else ""),
        ("Engine", p.get("engine", "")),
        ("Checksum", f"{results.record['seal'][:20]} of verdicts.json, which ties rows and cells"),
    ]
    return [[name, str(text)] for name, text in lines if text]


def footer(results: Results) -> str:
    """Return the foot line: commit, study, seeds."""
    p, seeds = results.record["provenance"], results.study["seeds"]
    several = f"seeds {seeds[0]}–{seeds[-1]}" if len(seeds) > 1 and list(seeds) == list(range(seeds[0], seeds[-1] + 1)) else (
        f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}")  # fmt: skip
    return f"commit {p.get('commit', '')}{' +' if p.get('dirty') else ''} · study {results.study['name']} · {several}"


def sentence(text: str, end: str = ".") -> str:
    """Return text that begins with a capital and ends with `end`."""
    text = text.strip()
    closed = text if not end or not text or text[-1] in ".!?" else text + end
    return closed[:1].upper() + closed[1:] if re.match(r"[a-z]+(-[a-z]+)*([ ,.]|$)", closed) else closed
