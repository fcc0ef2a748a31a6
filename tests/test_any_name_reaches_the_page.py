"""Any text in titles, names and settings gives a report: shown where a font can, as code points where none can; nothing runs."""

import pathlib
import shutil
import subprocess

import known_results
import matplotlib
import pytest

from reports import letters, load, render
from reports.document import document
from reports.gallery import gallery
from validations import measurements, read_verdicts
from validations.results import write_verdicts

TEXTS = {
    "latin": "Größe, naïve Œuvre, łódź",
    "greek": "ελληνικά η²",
    "cyrillic": "русский язык",
    "hebrew": "שלום",
    "arabic": "اللغة",
    "chinese": "中文标题",
    "japanese": "感情分析の話",
    "korean": "한국어",
    "thai": "ภาษาไทย",
    "devanagari": "हिन्दी भाषा",
    "emoji": "good 🙂 👨\u200d👩\u200d👧 🏳️\u200d🌈 bad",
    "combining": "e\u0301 中\u0301 \u0301x",
    "control": "a\x00b\x07c\x1bd\x7fe\x0bf\x0cg\x1ch",
    "surrogate": "a\ud800b\udfffc",
    "private": "\ue000 \uf8ff \U0010fffd",
    "unassigned": "\ufffe \uffff \ufdd0 \U000e0041",
    "mark of order": "\ufeffstart",
    "directions": "\u202eabc\u202c \u2066x\u2069",
    "lines": "one\u2028two\u2029three\u0085four\nfive\tsix\rseven",
    "empty": "",
    "blank": " \u200b\n",
    "markup": "#panic() $ frac(a #let _x_ *b* `c` <d> @e \\ \\frac{1}{0} $x$ & < > ]]> /* // \"q\" 'r' [s] {t}",
}


def edited(folder, target, change):
    """Copy a results folder, change its record and publish it again with the tables of the first claim."""
    shutil.copytree(folder, target)
    record = read_verdicts(target)
    claims = [claim["id"] for claim in record["claims"]]
    tables = {(claim, "rows"): load.read(target).table(claim).to_dict("records") for claim in claims}
    change(record, tables)
    write_verdicts(target, record, tables=tables, cells=[])
    return target


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return known_results.write(tmp_path_factory.mktemp("one"), tasks=2, deltas=2, seeds=2, claims=["control-direction"])


def everywhere(text):
    """Put a text wherever a study's author may write one."""

    def change(record, tables):
        study = record["study"]
        study.update(title=text, question=text, name=text, settings={f"part: {text}": text})
        study["backbone"]["name"] = text
        study["tasks"][0].update(label=text, family=text, name=text, source=text)
        study["deltas"][0].update(label=text, name=text)
        record["claims"][0]["why"] = text
        for rows in tables.values():
            first = (rows[0]["task"], rows[0]["delta"])
            for row in rows:
                row["task"] = text if row["task"] == first[0] else row["task"]
                row["delta"] = text if row["delta"] == first[1] else row["delta"]

    return change


@pytest.mark.parametrize("what", TEXTS)
def test_a_report_is_made_whatever_the_names_are(folder, tmp_path, what):
    target = edited(folder, tmp_path / "named", everywhere(TEXTS[what]))
    pdf = render.render(load.read(target))
    assert pdf.startswith(b"%PDF") and b"pdfaid:part" in pdf
    assert len(measurements(target)) > 0


def readable(results, tmp_path, fonts=()):
    room = tmp_path / f"room{len(list(tmp_path.iterdir()))}"
    room.mkdir()
    return letters.readable(results, room, letters.folder_of_fonts(room, fonts))


def test_what_no_font_has_is_named_and_what_a_font_has_is_kept(folder, tmp_path):
    target = edited(folder, tmp_path / "named", everywhere("Größe 中文 \x07 שלום"))
    results, note = readable(load.read(target), tmp_path)
    shown = "Größe [U+4E2D U+6587] [U+0007] שלום"
    assert results.study["title"] == results.study["tasks"][0]["label"] == shown
    assert shown in set(results.table("control-direction")["task"])  # the names of figures and of words stay the same
    assert "U+4E2D (cjk unified ideograph-4e2d), U+6587" in note and "U+0007" in note and "Gr" not in note
    said = document(results, gallery(results), note)
    assert said["letters"] == note and said["title"] == shown
    # a folder of fonts brings what they hold: this one draws a box for every letter there is
    (tmp_path / "fonts").mkdir()
    last = pathlib.Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "LastResortHE-Regular.ttf"
    shutil.copy(last, tmp_path / "fonts")
    results, note = readable(load.read(target), tmp_path, [tmp_path / "fonts"])
    assert results.study["title"] == "Größe 中文 [U+0007] שלום" and "4E2D" not in note
    with pytest.raises(ValueError, match="expected a folder of font files"):
        render.render(load.read(folder), fonts=[tmp_path / "nowhere"])


def test_names_that_differ_stay_different_and_plain_ones_are_untouched(folder, tmp_path):
    results, note = readable(load.read(folder), tmp_path)
    assert not results.said and not note and results.claims == load.read(folder).claims
    names = ["中", "文", "中文", "文中", "x中", "中x", "\x01", "\x02", "\ud800", "\ue000"]

    def change(record, tables):
        record["study"]["tasks"] = [{**record["study"]["tasks"][0], "name": name, "label": name} for name in names]

    results, _ = readable(load.read(edited(folder, tmp_path / "many", change)), tmp_path)
    assert len({task["label"] for task in results.study["tasks"]}) == len(names)


def test_empty_titles_and_names_are_said_to_be_so(folder, tmp_path):
    results, _ = readable(load.read(edited(folder, tmp_path / "empty", everywhere(" \u200b"))), tmp_path)
    study = results.study
    assert (study["title"], study["tasks"][0]["label"], study["deltas"][0]["label"]) == (
        "A study without a title", "a task without a name", "a delta without a name",
    )  # fmt: skip


def test_markup_is_printed_and_not_run(folder, tmp_path):
    if not shutil.which("pdftotext"):
        pytest.skip("pdftotext is not installed")
    target = edited(folder, tmp_path / "named", everywhere(TEXTS["markup"]))
    (tmp_path / "r.pdf").write_bytes(render.render(load.read(target)))
    said = subprocess.run(["pdftotext", str(tmp_path / "r.pdf"), "-"], capture_output=True, check=True).stdout.decode()
    for word in ("#panic()", "*b*", "`c`", "<d>", "@e", "{1}{0}", "$x$", "]]>"):
        assert word in said
