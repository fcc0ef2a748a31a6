"""The report as a page for the web: typst's own HTML of the same source, drawings and look inside, no request made."""

import pathlib
import re
from collections.abc import Mapping
from urllib.parse import quote
from xml.etree import ElementTree

SVG, LINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
LOOK = pathlib.Path(__file__).with_name("web.css")
SERIF = '"Libertinus Serif", "STIX Two Text", "Times New Roman", Tinos, "Liberation Serif", serif'
_PLACE = re.compile(r'<div class="drawing" id="drawing-([^"<>]*)\.svg"></div>')


def address(name: str) -> str:
    """Return the relative address of a file that lies beside the page."""
    return f"./{quote(name)}"


def assembled(page: str, drawings: Mapping[str, bytes], alts: Mapping[str, str]) -> str:
    """Return typst's HTML with its look and with every drawing where its place is; drawings and alternative texts by name.

    A reader's browser lays the page out, so nothing stands in it that came from elsewhere: no script, no font, no address but
    that of the PDF beside it and of the sources.
    """
    style = f"<style>{LOOK.read_text(encoding='utf-8')}</style>"
    page = page.replace("</head>", f"{style}</head>", 1)
    return _PLACE.sub(lambda place: _placed(place[1], drawings[place[1]], alts[place[1]]), page)


def _placed(name: str, drawing: bytes, alt: str) -> str:
    """Return a drawing in its place, as a link to itself that enlarges it."""
    inside = inlined(drawing, name, alt)
    return f'<div class="drawing" id="drawing-{name}"><a href="#drawing-{name}" title="Enlarge">{inside}</a></div>'


def inlined(drawing: bytes, name: str, alt: str) -> str:
    """Return an SVG file as an element of a page: names of its parts are its own, it scales, and it says what it shows."""
    ElementTree.register_namespace("", SVG)
    ElementTree.register_namespace("xlink", LINK)
    root = ElementTree.fromstring(drawing)
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in (f"{{{SVG}}}metadata", f"{{{SVG}}}style"):
                parent.remove(child)
    for part in root.iter():
        for key, value in list(part.attrib.items()):
            if key == "id":
                part.set(key, f"{name}-{value}")
            elif key == f"{{{LINK}}}href" and value.startswith("#"):
                part.set(key, f"#{name}-{value[1:]}")
            elif key in ("clip-path", "style", "fill"):
                value = re.sub(r"url\(#([^)]*)\)", rf"url(#{name}-\1)", value)
                part.set(key, re.sub(r"font-family: [^;]*", f"font-family: {SERIF}".replace('"', "'"), value))
    for size in ("width", "height"):
        root.attrib.pop(size, None)
    root.attrib |= {"role": "img", "aria-label": alt}
    return ElementTree.tostring(root, encoding="unicode")
