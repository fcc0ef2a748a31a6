"""Letters that the page's fonts lack: words of the results are tried before the page is set, and what fails is made visible."""

import dataclasses
import json
import pathlib
import shutil
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from typing import Any

import matplotlib
import typst

from . import style
from .load import WORD, Results, spoken

JOINING = "\u00ad\u200b\u200c\u200d\u200e\u200f\u2060"  # invisible on purpose: breaks, joins and directions of words
SPACES = {"\u0085": " ", "\u2028": " ", "\u2029": " "}
SAME = ("equation", "seal", "tied", "inputs")  # what the page does not print as words
NAMED = 12
# each word in every style of the page and of a figure, since a style may lack what another has
TRIAL = """#set document(title: "trial")
#set text(font: {fonts})
#for word in json("words.json") [#word #strong(word) #emph(word) #strong(emph(word)) #raw(word) \\ ]
#image("words.svg", alt: "words")
"""


def folder_of_fonts(room: pathlib.Path, more: Sequence[str | pathlib.Path] = ()) -> list[str]:
    """Return the folders of fonts beside those that typst ships: DejaVu Sans, which matplotlib ships, and the reader's own.

    Raises ValueError for a folder that does not exist.
    """
    for folder in more:
        if not pathlib.Path(folder).is_dir():
            raise ValueError(f"expected a folder of font files, got {str(folder)!r}, which is none: create it or leave it out")
    own = room / "fonts"
    own.mkdir()
    for path in sorted((pathlib.Path(matplotlib.get_data_path()) / "fonts" / "ttf").glob("DejaVuSans[.-]*.ttf")):
        shutil.copyfile(path, own / path.name)
    return [str(own), *(str(pathlib.Path(folder)) for folder in more)]


def readable(results: Results, room: pathlib.Path, fonts: Sequence[str]) -> tuple[Results, str]:
    """Return results of which every word can be set and drawn, and a note that names the letters which cannot.

    Such letters become their code points in brackets, [U+4E2D U+6587]; control characters, lone surrogates, private and
    unassigned code points always do, for no font says what they mean. An empty title or name becomes a word that says so.
    """

    return _readable(results, lambda words: _set(words, room, fonts))


def plain(results: Results) -> tuple[Results, str]:
    """Return results for unknown fonts, with only those code points in brackets that no font can show, and a note."""
    return _readable(results, lambda words: True)


def _readable(results: Results, fine: Callable[[Sequence[str]], bool]) -> tuple[Results, str]:
    said = _replaced(sorted({word for text in _strings(results) for word in WORD.findall(text) if not word.isascii()
                             or not word.isprintable()}), fine)  # fmt: skip
    lost = sorted({c for word, made in said.items() for c in word if c not in made and c not in SPACES})
    study = _filled(_mapped(results.record["study"], said))
    record = {k: v if k in SAME else study if k == "study" else _mapped(v, said) for k, v in results.record.items()}
    return dataclasses.replace(results, record=record, said=said), _note(lost)


def _strings(results: Results) -> Iterable[str]:
    """Yield every text of the results that may be printed: the record's and the tables'."""
    waiting: list[Any] = [{k: v for k, v in results.record.items() if k not in SAME}]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, Mapping):
            waiting += [k for k in value if k not in SAME] + [v for k, v in value.items() if k not in SAME]
        elif isinstance(value, list | tuple):
            waiting += value
    for name in results.record["tied"]["tables"]:
        frame = results.table(*name.split(".", 1)) if "." in name else results.table(name)
        for column in frame.select_dtypes(exclude="number"):
            yield from {value for value in frame[column] if isinstance(value, str)}


def _replaced(words: Sequence[str], fine: Callable[[Sequence[str]], bool]) -> dict[str, str]:
    """Return the words that cannot be set as they are, each with what stands for it."""
    said = {word: _marked(word, _meaningless) for word in words}
    lost = {c for word in _failing(list(dict.fromkeys(said.values())), fine) for c in word if not c.isascii()}
    alone = set(_failing(sorted(lost), fine))
    said = {word: _marked(word, lambda c: _meaningless(c) or c in alone) for word in words}
    joined = set(_failing(list(dict.fromkeys(said.values())), fine))  # letters that cannot be set side by side, as in ligatures
    said = {word: _marked(word, lambda c: not c.isascii() or _meaningless(c)) if made in joined else made
            for word, made in said.items()}  # fmt: skip
    return {word: made for word, made in said.items() if made != word}


def _meaningless(letter: str) -> bool:
    """Return whether no font can say what a code point means: control, surrogate, private, unassigned, hidden directions."""
    return unicodedata.category(letter)[0] == "C" and letter not in JOINING


def _marked(word: str, lost: Callable[[str], bool]) -> str:
    """Return a word with each run of lost letters as one bracket of code points."""
    word = "".join(SPACES.get(c, c) for c in word)
    runs, made = [], []
    for letter in [*word, ""]:
        if letter and lost(letter):
            runs.append(f"U+{ord(letter):04X}")
            continue
        made += [f"[{' '.join(runs)}]"] if runs else []
        made.append(letter)
        runs = []
    return "".join(made)


def _failing(words: Sequence[str], fine: Callable[[Sequence[str]], bool]) -> list[str]:
    """Return the words that cannot be set, found by halving."""
    if not words or fine(words):
        return []
    if len(words) == 1:
        return list(words)
    half = len(words) // 2
    return _failing(words[:half], fine) + _failing(words[half:], fine)


def _set(words: Sequence[str], room: pathlib.Path, fonts: Sequence[str]) -> bool:
    """Return whether typst sets these words, on the page and in a drawing, under the standards of the report."""
    families = ", ".join(f"'{name}'" for name in (style.PAGE_FONT, *style.SPARE_FONTS))
    drawn = "".join(f'<text x="9" y="{20 * k}" style="font: {look} 9px {families}">{escape(word)}</text>'
                    for k, word in enumerate(words, 1) for look in ("", "bold"))  # fmt: skip
    (room / "words.json").write_text(json.dumps(list(words)), encoding="utf-8")
    drawing = f'<svg xmlns="http://www.w3.org/2000/svg" width="99" height="99">{drawn}</svg>'
    (room / "words.svg").write_text(drawing, encoding="utf-8")
    source = TRIAL.replace("{fonts}", json.dumps([style.PAGE_FONT, *style.PAGE_SPARES]).replace("[", "(").replace("]", ")"))
    (room / "trial.typ").write_text(source, encoding="utf-8")
    try:
        typst.compile(str(room / "trial.typ"), root=str(room), format="pdf", pdf_standards=["a-2a", "ua-1"],
                      font_paths=list(fonts), ignore_system_fonts=True)  # fmt: skip
    except typst.TypstError:
        return False
    return True


def _mapped(value: Any, said: Mapping[str, str]) -> Any:
    if isinstance(value, str):
        return spoken(value, said)
    if isinstance(value, Mapping):
        return {spoken(k, said): v if k in SAME else _mapped(v, said) for k, v in value.items()}
    return [_mapped(v, said) for v in value] if isinstance(value, list | tuple) else value


def _filled(study: Mapping) -> dict:
    """Return a study whose title, tasks and deltas all have words to show."""

    def named(record: Mapping, of: str) -> dict:
        words = [record.get("label", ""), style.spelled(record["name"]), f"{of} without a name"]
        return {**record, "label": " ".join(next(text for text in words if _seen(text)).split())}

    return {
        **study,
        "title": next(text for text in (study["title"], study["name"], "A study without a title") if _seen(text)),
        "name": study["name"] if _seen(study["name"]) else "without a name",
        "tasks": [named(task, "a task") for task in study["tasks"]],
        "deltas": [named(delta, "a delta") for delta in study["deltas"]],
    }


def _seen(text: str) -> bool:
    return bool(str(text).strip(f" \t\r\n{JOINING}"))


def _note(lost: Sequence[str]) -> str:
    """Return the sentence that names the letters which the page shows as code points, empty without any."""
    if not lost:
        return ""
    names = [f"U+{ord(c):04X} ({unicodedata.name(c, 'without a name').lower()})" for c in lost[:NAMED]]
    more = f" and {len(lost) - NAMED} more" if len(lost) > NAMED else ""
    return f"Letters that no font of this report has stand as their code points in brackets: {', '.join(names)}{more}."
