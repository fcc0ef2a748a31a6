"""The page for the web says what the PDF says, asks nothing of a network, runs nothing, and shows names in any script."""

import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser

import known_results
import pytest
from test_any_name_reaches_the_page import TEXTS, edited, everywhere

from costate import main
from reports import load, render, web
from reports.document import document
from reports.letters import JOINING

VOID = {"meta", "br", "img", "link", "input", "hr", "col"}


class Page(HTMLParser):
    """A page's elements with their attributes, the text outside style and drawings, and what is not closed in its order."""

    def __init__(self, page):
        super().__init__(convert_charrefs=True)
        self.elements, self.open, self.wrong, self.said = [], [], [], []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)

    def handle_data(self, data):
        if "style" not in self.open:
            self.said.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.said).split())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return known_results.write(tmp_path_factory.mktemp("one"), tasks=2, deltas=2, seeds=2, claims=["control-direction"])


@pytest.fixture(scope="module")
def page(folder):
    return render.render_web(load.read(folder))


def test_it_is_one_file_that_asks_for_nothing_and_runs_nothing(page):
    read = Page(page)
    assert not read.wrong and not read.open
    assert {"html", "head", "style", "svg", "table", "math"} <= {tag for tag, _ in read.elements}
    assert not {tag for tag, _ in read.elements} & {"script", "iframe", "object", "embed", "link", "base", "form"}
    for tag, attributes in read.elements:
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "srcset", "data", "poster"):
            assert attributes.get(name, "data:").startswith("data:"), tag
        if tag in ("use", "image"):
            assert (attributes.get("xlink:href") or attributes.get("href")).startswith(("#", "data:"))
    assert "@import" not in page and not re.findall(r"url\((?!#)", page)
    assert ("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}) in read.elements


def test_its_names_are_its_own_and_every_address_inside_leads_somewhere(page):
    read = Page(page)
    ids = [attributes["id"] for _, attributes in read.elements if attributes.get("id")]
    assert len(ids) == len(set(ids))
    inside = [
        a.get("href") or a.get("xlink:href") for _, a in read.elements if (a.get("href") or a.get("xlink:href") or "")[:1] == "#"
    ]
    clips = re.findall(r"url\(#([^)]*)\)", page)
    assert inside and clips and {address[1:] for address in inside} | set(clips) <= set(ids)
    outside = {a["href"] for tag, a in read.elements if tag == "a" and not a["href"].startswith("#")}
    assert "./report.pdf" in outside and all(address.startswith(("./", "https://doi.org/")) for address in outside)


def test_it_says_every_sentence_of_the_document(folder, page):
    said, text = document(load.read(folder), {}), Page(page).text
    (claim,) = [claim for view in said["views"] for claim in view["claims"]]
    sentences = [said["title"], said["question"], claim["statement"], claim["rule"], claim["reason"], claim["change"]]
    sentences += [part["text"] for part in (*said["meaning"], *said["limitations"])] + [word[1] for word in said["words"]]
    squeezed = re.sub(r"\s", "", text)
    assert len(sentences) > 40 and not [one for one in sentences if re.sub(r"\s", "", one) not in squeezed]
    for verdict in claim["verdicts"]:
        assert verdict["label"] in text and verdict["verdict"] in text


SHOWN = list(TEXTS)[: list(TEXTS).index("combining") + 1]
ODD = ["control", "surrogate", "private", "unassigned", "directions", "lines"]


def squeezed(text):
    return re.sub(rf"[\s{JOINING}]", "", text)


@pytest.mark.parametrize("names", [SHOWN, ODD, ["mark of order"], ["empty"], ["markup"]], ids=" ".join)
def test_names_in_any_script_stand_as_they_are_and_as_no_markup(folder, tmp_path, names):
    """Letters that the PDF lacks fonts for are a browser's to show; only what no font shows stands in brackets."""
    text = " ".join(TEXTS[name] for name in names)
    read = Page(render.render_web(load.read(edited(folder, tmp_path / "named", everywhere(text)))))
    assert not read.wrong and not read.open and "d" not in {tag for tag, _ in read.elements}
    said = squeezed(read.text)
    assert ("U+" in said) == (names in (ODD, ["mark of order"]))
    if names in (SHOWN, ["markup"]):
        assert squeezed(text) in said


def test_a_name_cannot_enter_as_markup(folder, tmp_path):
    hostile = (
        '</title></style><script>alert(1)</script><img src=x onerror=alert(1)> " onclick="alert(1)" &lt;b&gt; ]]> <!-- url(x)'
    )
    read = Page(render.render_web(load.read(edited(folder, tmp_path / "named", everywhere(hostile)))))
    assert not read.wrong and not read.open
    assert not {tag for tag, _ in read.elements} & {"script", "img"}
    assert not [name for _, attributes in read.elements for name in attributes if name.startswith("on")]
    assert "<script>alert(1)</script>" in read.text and "&lt;b&gt;" in read.text


def test_a_hostile_name_of_the_pdf_is_an_address(folder):
    page = render.render_web(load.read(folder), 'a" onclick="x(1)?#%.pdf')
    assert {a["href"] for tag, a in Page(page).elements if tag == "a" and a["href"].startswith("./")} == {
        "./a%22%20onclick%3D%22x%281%29%3F%23%25.pdf"
    }
    assert web.address("javascript:x.pdf") == "./javascript%3Ax.pdf"


def test_the_command_writes_it_beside_the_pdf_with_the_same_bytes_in_another_process(folder, tmp_path, capsys):
    out = tmp_path / "there.pdf"
    assert main(["report", str(folder), "--out", str(out)]) == 0
    assert capsys.readouterr().out.split() == [str(tmp_path / "there.html"), str(out)]
    first = (tmp_path / "there.html").read_bytes()
    shutil.copytree(folder, tmp_path / "copy")
    line = [sys.executable, "-m", "costate", "report", str(tmp_path / "copy"), "--out", str(tmp_path / "again" / "there.pdf")]
    subprocess.run(line, check=True, capture_output=True)
    assert (tmp_path / "again" / "there.html").read_bytes() == first
    assert "./there.pdf" in first.decode()
