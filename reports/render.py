"""From a results folder to the PDF and the page for the web: words as JSON, figures as SVG, set by typst; warnings are errors."""

import json
import pathlib
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import typst

from validations.store import write_atomic

from . import letters, load, style, web
from .document import document
from .gallery import Drawn, gallery
from .load import Results

HERE = pathlib.Path(__file__).parent
SOURCE = "report.typ"


def build(folder: str | pathlib.Path, out: str | pathlib.Path, *, fonts: Sequence[str | pathlib.Path] = ()) -> pathlib.Path:
    """Write the report of the results in `folder` to `out`, beside it the same as a page for the web, and return the PDF's path.

    fonts: folders of further fonts, for letters that those of the report lack. The same results and fonts give the same bytes:
    the date is the record's own timestamp and no font of the system is used. Both files are whole before either is written.
    Raises ValueError when the results are incomplete or typst refuses or warns.
    """
    out, results = pathlib.Path(out), load.read(folder)
    with tempfile.TemporaryDirectory(prefix="report-") as root:
        room = pathlib.Path(root)
        laid = _laid(results, room, fonts)
        made, page = _pdf(laid), _page(results, laid, out.name)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(out, made)
    write_atomic(web_path(out), page.encode())
    return out


def web_path(pdf: pathlib.Path) -> pathlib.Path:
    """Return where the page for the web lies that belongs to a PDF."""
    return pdf.with_name(f"{pdf.stem}.html")


def render(results: Results, *, fonts: Sequence[str | pathlib.Path] = ()) -> bytes:
    """Return the report as PDF/A-2a and PDF/UA-1; raises ValueError with typst's first complaint."""
    with tempfile.TemporaryDirectory(prefix="report-") as root:
        return _pdf(_laid(results, pathlib.Path(root), fonts))


def render_web(results: Results, pdf: str = "report.pdf") -> str:
    """Return the report as a page for the web that links to the PDF beside it; raises ValueError with typst's complaint."""
    with tempfile.TemporaryDirectory(prefix="report-") as root:
        return _page(results, None, pdf, pathlib.Path(root))


@dataclass(frozen=True)
class _Laid:
    """A room in which the sources of an edition lie: the results as they are printed, the folders of fonts, the drawn figures."""

    room: pathlib.Path
    results: Results
    fonts: Sequence[str]
    shown: Mapping[str, Drawn]
    drawings: Mapping[str, bytes]


def _laid(results: Results, room: pathlib.Path, fonts: Sequence[str | pathlib.Path]) -> _Laid:
    """Return a room with everything that the PDF is set from."""
    folders = letters.folder_of_fonts(room, fonts)
    results, note = letters.readable(results, room, folders)
    return _furnished(results, note, room, folders)


def _furnished(results: Results, note: str, room: pathlib.Path, fonts: Sequence[str]) -> _Laid:
    """Return a room with the words as JSON, the figures as SVG and the sources beside them."""
    shown = gallery(results)
    drawings = {name: style.svg(item.figure) for name, item in shown.items()}
    text = json.dumps(document(results, shown, note), ensure_ascii=False, sort_keys=True)
    furnish(room, SOURCE)
    (room / "document.json").write_text(text, encoding="utf-8")
    for name, drawing in drawings.items():
        (room / f"{name}.svg").write_bytes(drawing)
    return _Laid(room, results, fonts, shown, drawings)


def furnish(room: pathlib.Path, source: str) -> None:
    """Put the sources of a document beside its words."""
    for name in ("lab.typ", source, "refs.bib"):
        (room / name).write_bytes((HERE / name).read_bytes())


def set_pdf(source: pathlib.Path, studies: Sequence[Results], fonts: Sequence[str]) -> bytes:
    """Return PDF/A-2a and PDF/UA-1 of a source with its words beside it, dated by the newest of the studies it tells of."""
    timestamp = max(int(results.record["provenance"].get("timestamp") or 0) for results in studies)
    return _set(source, studies, format="pdf", pdf_standards=["a-2a", "ua-1"], timestamp=timestamp, font_paths=list(fonts))


def _pdf(laid: _Laid) -> bytes:
    return set_pdf(laid.room / SOURCE, [laid.results], laid.fonts)


def _page(results: Results, laid: _Laid | None, beside: str, room: pathlib.Path | None = None) -> str:
    """Return the page for the web, from what lies ready for the PDF where the words are the same: a browser has more fonts."""
    said, note = letters.plain(results)
    if laid is None or said.said != laid.results.said:
        room = room or laid.room / "web"
        room.mkdir(exist_ok=True)
        laid = _furnished(said, note, room, ())
    inputs = {"edition": "web", "pdf": web.address(beside)}
    html = _set(laid.room / SOURCE, [laid.results], format="html", sys_inputs=inputs)
    return web.assembled(html.decode(), laid.drawings, {name: item.alt for name, item in laid.shown.items()})


def _set(source: pathlib.Path, studies: Sequence[Results], **options: Any) -> bytes:
    """Return what typst makes of a source; raises ValueError with its complaint, and for a warning but that HTML is young."""
    try:
        made, warnings = typst.compile_with_warnings(str(source), root=str(source.parent), ignore_system_fonts=True, **options)
    except typst.TypstError as error:
        hint = f" ({error.hints[0]})" if error.hints else ""
        culprit = next(filter(None, map(_culprit, studies)), "the report")
        raise ValueError(f"typst refused {culprit}: {error.message}{hint}") from None
    told = [warning.message for warning in warnings if not warning.message.startswith("html export is under active development")]
    if told:
        raise ValueError(f"expected a report without warnings, typst says: {told[0]}")
    return made


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
