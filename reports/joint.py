"""Several studies in one PDF: one page of what came out beside what was published, then every claim with its figure."""

import json
import pathlib
import tempfile
import tomllib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from validations.store import write_atomic

from . import document, gallery, letters, load, page, render, style, words
from .load import Results

PUBLISHED = pathlib.Path(__file__).with_name("published.toml")


def build(
    folders: Sequence[str | pathlib.Path], out: str | pathlib.Path, *, fonts: Sequence[str | pathlib.Path] = ()
) -> pathlib.Path:
    """Write the joint report of several results folders to `out` and return the path; the same results give the same bytes.

    fonts: as for the report of one study. Raises ValueError when results are incomplete or typst refuses or warns.
    """
    out = pathlib.Path(out)
    with tempfile.TemporaryDirectory(prefix="report-") as root:
        room = pathlib.Path(root)
        of_fonts = letters.folder_of_fonts(room, fonts)
        studies = [letters.readable(load.read(folder), room, of_fonts)[0] for folder in folders]
        drawn = [gallery.gallery(results) for results in studies]
        for place, shown in enumerate(drawn):
            for name, item in shown.items():
                (room / f"{_before(place)}{name}.svg").write_bytes(style.svg(item.figure))
        words_of_it = told(studies, drawn)
        (room / "document.json").write_text(json.dumps(words_of_it, ensure_ascii=False, sort_keys=True), encoding="utf-8")
        render.furnish(room, "joint.typ")
        pdf = render.set_pdf(room / "joint.typ", studies, of_fonts)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(out, pdf)
    return out


def _before(place: int) -> str:
    """Return what the names of a study's figures begin with, so that those of two studies differ."""
    return f"{place}-"


def told(studies: Sequence[Results], drawn: Sequence[Mapping[str, gallery.Drawn]]) -> dict:
    """Return the joint report's words: the lines of its first page, then every study with its claims."""
    claims = [claim for results in studies for claim in results.claims]
    return {
        "title": _title(studies),
        "confidence": words.CONFIDENCE,
        "summary": f"{words.opening(claims)} {found(claims)}".strip(),
        "lines": lines(studies),
        "studies": [_study(place, results, shown) for place, (results, shown) in enumerate(zip(studies, drawn, strict=True))],
        "seal": " ".join(results.record["seal"][:20] for results in studies),
    }


def _title(studies: Sequence[Results]) -> str:
    """Return what most of the studies' titles say before their colon, or that they stand side by side."""
    said = Counter(_parted(results)[0] for results in studies)
    common, count = said.most_common(1)[0]
    return common if 2 * count > len(studies) else "Studies of delta tuning side by side"


def _parted(results: Results) -> tuple[str, str]:
    """Return a study's title before and after its colon."""
    before, _, after = results.study["title"].partition(": ")
    return before, after or before


def found(claims: Iterable[Mapping]) -> str:
    """Return which predictions are supported and which are refuted, as sentences."""
    said = []
    for group in words.verdict_groups(list(claims)):
        if group["verdict"] in ("supported", "refuted"):
            said.append(
                f"{group['verdict'].capitalize()}: {words.listed([f'“{title}”' for title in dict.fromkeys(group['titles'])])}."
            )
    return " ".join(said)


def published() -> Mapping[str, str]:
    """Return what was published of a claim's quantity, in words, by the claim's id."""
    return tomllib.loads(PUBLISHED.read_text(encoding="utf-8"))


def lines(studies: Sequence[Results]) -> list[dict[str, Any]]:
    """Return, study by study, every claim with what was published and what each delta came to."""
    known = published()
    return [
        {
            "study": _titled(results),
            "claims": [
                {
                    "title": claim["title"],
                    "statistic": _statistic(claim),
                    "published": known.get(claim["id"], words.NOTHING),
                    "verdicts": [
                        {
                            "delta": v["label"] if len(claim["verdicts"]) > 1 else "",
                            "value": words.interval(words.stated(v)),
                            "verdict": v["verdict"],
                            "tasks": words.number(v["tasks"]),
                        }
                        for v in claim["verdicts"]
                    ],
                }
                for claim in results.claims
            ],
        }
        for results in studies
    ]


def _statistic(claim: Mapping) -> str:
    """Return what a claim's number is, of its first verdict that has one."""
    return next((v["statistic"]["label"] for v in claim["verdicts"] if v.get("statistic")), "")


def _titled(results: Results) -> str:
    study, (_, asked) = results.study, _parted(results)
    tasks, seeds = words.count(len(study["tasks"]), "task"), words.count(len(study["seeds"]), "seed")
    return f"{asked[:1].upper()}{asked[1:]} ({study['backbone']['name']}, {tasks}, {seeds})"


def _study(place: int, results: Results, shown: Mapping[str, gallery.Drawn]) -> dict:
    cited, figures = document.references(), document.figures(shown, _before(place))
    study = results.study
    return {
        "title": study["title"],
        "question": study["question"],
        "setting": " ".join(filter(None, (document.setting(study), document.about(study), document.looked(study)))),
        "opening": words.opening(results.claims),
        "claims": [document.claim_section(claim, document.figure_of(claim, figures), cited) for claim in results.claims],
        "footer": document.footer(results),
    }


def as_markdown(studies: Sequence[Results]) -> str:
    """Return what was published and what was measured as one page of Markdown, a table a study."""
    parts = ["# What was published and what was measured", words.opening([c for results in studies for c in results.claims])]
    for results, told_of in zip(studies, lines(studies), strict=True):
        rows = [
            (
                f"{claim['title']} ({v['delta']})" if v["delta"] else claim["title"],
                claim["published"],
                f"{claim['statistic']}: {v['value']}" if claim["statistic"] else v["value"],
                v["tasks"],
                words.glyphed(v["verdict"]),
            )
            for claim in told_of["claims"]
            for v in claim["verdicts"]
        ]
        head = ("Fact", "Published", f"Measured [{words.CONFIDENCE} interval over tasks]", "Tasks", "Verdict")
        parts += [f"## {page.escaped(told_of['study'])}", words.table(head, rows), page.escaped(document.footer(results)) + "."]
    parts.append(
        "Published figures are of larger models and are told as the papers' summaries tell them; averages over tasks "
        "are recalled. The page is written from the results by `costate report FOLDER FOLDER ... --page FILE.md`."
    )
    return "\n\n".join(parts) + "\n"
