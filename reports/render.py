"""From a results folder to the PDF: words as JSON and figures as SVG, set by typst; warnings are errors."""

import json
import pathlib
import tempfile
from collections.abc import Sequence

import typst

from validations.store import write_atomic

from . import letters, load, style
from .document import document
from .gallery import gallery
from .load import Results

HERE = pathlib.Path(__file__).parent


def build(folder: str | pathlib.Path, out: str | pathlib.Path, *, fonts: Sequence[str | pathlib.Path] = ()) -> pathlib.Path:
    """Write the report of the results in `folder` to `out`, all or nothing, and return its path.

    fonts: folders of further fonts, for letters that those of the report lack. The same results and fonts give the same bytes:
    the date is the record's own timestamp and no font of the system is used.
    Raises ValueError when the results are incomplete or typst refuses or warns.
    """
    out = pathlib.Path(out)
    pdf = render(load.read(folder), fonts=fonts)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(out, pdf)
    return out


def render(results: Results, *, fonts: Sequence[str | pathlib.Path] = ()) -> bytes:
    """Return the report as PDF/A-2a and PDF/UA-1; raises ValueError with typst's first complaint."""
    with tempfile.TemporaryDirectory(prefix="report-") as root:
        room = pathlib.Path(root)
        folders = letters.folder_of_fonts(room, fonts)
        results, note = letters.readable(results, room, folders)
        shown = gallery(results)
        text = json.dumps(document(results, shown, note), ensure_ascii=False, sort_keys=True)
        for name in ("lab.typ", "report.typ", "refs.bib"):
            (room / name).write_bytes((HERE / name).read_bytes())
        (room / "document.json").write_text(text, encoding="utf-8")
        for name, item in shown.items():
            (room / f"{name}.svg").write_bytes(style.svg(item.figure))
        try:
            pdf, warnings = typst.compile_with_warnings(
                str(room / "report.typ"),
                root=root,
                format="pdf",
                pdf_standards=["a-2a", "ua-1"],
                timestamp=int(results.record["provenance"].get("timestamp") or 0),
                font_paths=folders,
                ignore_system_fonts=True,
            )
        except typst.TypstError as error:
            hint = f" ({error.hints[0]})" if error.hints else ""
            raise ValueError(f"typst refused {_culprit(results) or 'the report'}: {error.message}{hint}") from None
    if warnings:
        raise ValueError(f"expected a report without warnings, typst says: {warnings[0].message}")
    return pdf


def _culprit(results: Results) -> str:
    """Return the place of the first equation that typst refuses on its own, empty when each is sound."""
    places = [(f"the equation of claim {c['id']}", c["equation"]) for c in results.claims]
    places += [(f"a step of {d['title']!r}", s["equation"]) for d in results.record["derivations"] for s in d["steps"]]
    for place, equation in places:
        try:
            typst.compile(f"$ {equation} $".encode(), format="pdf", ignore_system_fonts=True)
        except typst.TypstError:
            return f"{place}, {equation!r}"
    return ""


def figure_files(results: Results, folder: str | pathlib.Path) -> list[pathlib.Path]:
    """Write every figure of the report into `folder` as SVG and PNG, and return the paths."""
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    with tempfile.TemporaryDirectory(prefix="figures-") as room:
        results, _ = letters.readable(results, pathlib.Path(room), letters.folder_of_fonts(pathlib.Path(room)))
    for name, item in gallery(results).items():
        for suffix, data in ((".svg", style.svg(item.figure)), (".png", style.png(item.figure))):
            write_atomic(folder / f"{name}{suffix}", data)
            paths.append(folder / f"{name}{suffix}")
    return paths
