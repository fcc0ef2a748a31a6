"""English sentences from packages, spans cut out of them, and templates filled with WordNet's words."""

import ast
import gzip
import html
import json
import pathlib
import random
import re
import shutil
import subprocess
import sysconfig
import zlib
from collections.abc import Iterator

import numpy as np

# source -> (Debian packages, most sentences taken, licence as the packages state it)
SOURCES = {
    "wordnet": ("wordnet-base", 200_000, "WordNet licence (permissive)"),
    "gcide": ("dict-gcide", 330_000, "GPL-3+ (1913 text: public domain)"),
    "foldoc": ("dict-foldoc", 40_000, "GFDL"),
    "jargon": ("dict-jargon dict-devil", 40_000, "public domain"),
    "fortunes": ("fortunes fortunes-min", 60_000, "BSD / public domain collection"),
    "anarchism": ("anarchism", 80_000, "GPL-2"),
    "bible": ("sword-text-web", 40_000, "public domain"),
    "games": (
        "crawl-common angband-data endless-sky-data wesnoth-1.16-httt wesnoth-1.16-did wesnoth-1.16-dm "
        "wesnoth-1.16-dw wesnoth-1.16-ei wesnoth-1.16-l wesnoth-1.16-low wesnoth-1.16-nr wesnoth-1.16-sof "
        "wesnoth-1.16-sota wesnoth-1.16-sotbe wesnoth-1.16-thot wesnoth-1.16-trow wesnoth-1.16-tsg "
        "wesnoth-1.16-ttb wesnoth-1.16-utbs",
        80_000,
        "GPL-2+ / GPL-3 / CC BY-SA",
    ),
    "handbooks": (
        "debian-handbook debian-reference-en debian-faq debian-policy developers-reference gnome-user-docs "
        "libreoffice-help-en-us git-doc python3.11-doc perl-doc octave-doc",
        120_000,
        "GPL-2+ / CC BY-SA / MPL / PSF / Artistic",
    ),
    "manpages": ("manpages manpages-dev", 30_000, "GPL-2+ and other free licences, per page"),
    "docstrings": ("", 60_000, "licences of the installed Python packages"),
}

MARKUP = re.compile(r"<(script|style|pre|code|table)\b.*?</\1>|<!--.*?-->", re.S | re.I)
BLOCK = re.compile(r"</?(?:p|li|dd|dt|div|h\d|br|td|title|note|section|item)\b[^>]*>", re.I)
SENTENCE = re.compile(r"(?<=[.!?])[\"')\]]*\s+(?=[\"'(\[]?[A-Z0-9])")
WORD = re.compile(r"[A-Za-z][A-Za-z'-]*")


def _markup(text: str) -> list[str]:
    """Return the paragraphs of HTML or XML text, tags removed."""
    blocks = BLOCK.split(MARKUP.sub(" ", text))
    return [html.unescape(re.sub(r"<[^>]*>", "", block)) for block in blocks]


def _blocks(text: str) -> list[str]:
    """Return the paragraphs of plain text: what blank lines or fortune separators part."""
    return re.split(r"\n\s*\n|\n%+\n", text)


def _manual(text: str) -> list[str]:
    """Return the running text of a man page: requests end a paragraph unless they only change the font."""
    text = re.sub(r"\\f.|\\&|\\\||\\/", "", text).replace("\\-", "-")
    text = re.sub(r"^\.(?:BR?|I|IR|RI|RB|BI|IB) (.*)$", r"\1", text, flags=re.M)
    return re.split(r"\n[.'][^\n]*", text)


def _dictionary(text: str) -> list[str]:
    """Return the definitions and quotations of a dictd file: bracketed notes, cross references and authors removed."""
    text = re.sub(r"\[[^\]]{0,300}\]|<[^>]*>|--\s?[A-Z][\w. ]*(?=\n|$)|\{\{|\}\}|[{}]", "", text)
    text = re.sub(r"^\S.*$", "\n", text, flags=re.M)
    blocks = re.split(r"\n\s*\n|\n\s+(?:\d+\.|\([a-z]\)) ", text)
    return [re.sub(r"^\s*\([A-Z][\w. &]*\)|\(\w\)", "", block.strip()) for block in blocks]


def _wordnet(text: str) -> list[str]:
    """Return the glosses and examples of a WordNet data file."""
    glosses = [line.split(" | ", 1)[1] for line in text.split("\n") if " | " in line]
    parts = [re.split(r';\s*"|"\s*;?', gloss) for gloss in glosses]
    return [part for gloss in parts for part in [*re.split(r"; ", gloss[0]), *gloss[1:]]]


def _pod(text: str) -> list[str]:
    """Return the ordinary paragraphs of Perl documentation."""
    text = re.sub(r"[A-Z]<+([^<>]*)>+", r"\1", text)
    return [block for block in text.split("\n\n") if not re.match(r"[\s=]", block)]


def _dialogue(text: str) -> list[str]:
    """Return the quoted speech and narration of game scripts (Wesnoth, Endless Sky)."""
    return re.findall(r'_ ?"([^"]{12,})"', text) + [re.sub(r"<[^>]*>", "", s) for s in re.findall(r"`([^`]{12,})`", text)]


def _docstrings(text: str) -> list[str]:
    """Return the first paragraphs of the docstrings of a Python module."""
    try:
        nodes = list(ast.walk(ast.parse(text)))
    except (SyntaxError, ValueError, RecursionError):
        return []
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    return [(ast.get_docstring(n) or "").split("\n\n")[0] for n in nodes if isinstance(n, kinds)]


def _sword(folder: pathlib.Path) -> list[str]:
    """Return the verses of a SWORD text module: .bzs rows (offset, size, full size) point to zlib blocks of .bzz."""
    verses: list[str] = []
    for index in sorted(folder.rglob("*.bzs")):
        data = index.with_suffix(".bzz").read_bytes()
        for offset, size, _ in np.frombuffer(index.read_bytes(), "<u4").reshape(-1, 3):
            verses += _markup(zlib.decompress(data[offset : offset + size]).decode("utf-8", "ignore"))
    return verses


# what a package's file is read with, by its path; the first that matches
READERS = (
    (r"wordnet/data\.", _wordnet),
    (r"\.dict\.dz$", _dictionary),
    (r"/games/fortunes/[\w-]+$|crawl/dat/(descript|database)/\w+\.txt$|angband/help/\w+\.txt$", _blocks),
    (r"wesnoth.*/data/.*\.cfg$|endless-sky/data/.*\.txt$", _dialogue),
    (r"/man/man\d/.*\.gz$", _manual),
    (r"/pod/.*\.pod$", _pod),
    (r"(anarchism|en-US|debian-faq|FAQ|debian-policy|developers-reference|debian-reference|git-doc|python3\.11|octave)"
     r"/.*(?<!contents)(?<!all)\.html$|/help/C/.*\.page$", _markup),
)  # fmt: skip
FOREIGN = re.compile(r"\.(?:de|fr|es|it|ja|pt|zh|ru|nl|pl|sv|ko)[-_.a-zA-Z]*\.html$|changelog|genindex")


def _package(name: str, work: pathlib.Path) -> pathlib.Path:
    """Return the folder a Debian package is unpacked in, fetched when it is not there."""
    folder = work / "packages" / name
    if not folder.exists():
        if shutil.which("apt-get") is None:
            raise ValueError(f"the text stage needs apt-get to fetch {name}; run it on Debian, or unpack it to {folder}")
        part = work / "packages" / "part"
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        subprocess.run(["apt-get", "download", name], cwd=part, check=True, capture_output=True)
        subprocess.run(["dpkg-deb", "-x", next(part.glob("*.deb")), part / "files"], check=True)
        (part / "files").rename(folder)
    return folder


def _paragraphs(source: str, work: pathlib.Path) -> Iterator[str]:
    """Yield every raw paragraph of one source."""
    if source == "docstrings":
        for path in sorted(pathlib.Path(sysconfig.get_paths()["purelib"]).rglob("*.py")):
            yield from _docstrings(path.read_text("utf-8", "ignore"))
        return
    for package in SOURCES[source][0].split():
        folder = _package(package, work)
        if source == "bible":
            yield from _sword(folder)
            continue
        for path in sorted(p for p in folder.rglob("*") if p.is_file() and not FOREIGN.search(p.name)):
            inside = str(path.relative_to(folder))
            reader = next((read for pattern, read in READERS if re.search(pattern, inside)), None)
            if reader:
                raw = path.read_bytes()
                yield from reader((gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw).decode("utf-8", "ignore"))


def proper(sentence: str, *, least: int = 3, most: int = 40) -> bool:
    """Return whether a line is prose: `least` to `most` words, at least 85 % of its characters in words, no code."""
    words = sentence.split()
    if not least <= len(words) <= most or re.search(r"[_{}<>\\|=@~^#*`]|\d{5}|://|\.\.\.\.", sentence):
        return False
    letters = sum(map(len, WORD.findall(sentence)))
    return letters >= 0.85 * sum(map(len, words)) and letters <= 9 * len(words) and sentence.isascii()


def _sentences(paragraph: str) -> list[str]:
    """Return the lower-case sentences of a paragraph."""
    flat = " ".join(paragraph.translate(str.maketrans("“”‘’—–", "\"\"''--")).split())
    return [s.strip(" \"'`-*").lower() for s in SENTENCE.split(flat)]


def _lexicon(work: pathlib.Path) -> dict[str, list[str]]:
    """Return the common WordNet words (tagged at least once in its corpora) by part of speech and first sense's file."""
    names = "adj adj adv tops act animal artifact attribute body cognition communication event feeling food "
    names += "group place motive object person phenomenon plant possession process quantity relation shape "
    names += "state substance time bodyverb change thinking saying competition consuming contact creation "
    names += "emotion motion perception owning social stative weather participle"
    files, words = names.split(), {}
    folder = work / "packages" / "wordnet-base" / "usr" / "share" / "wordnet"
    for part in ("noun", "verb", "adj", "adv"):
        place = dict(line.split()[:2] for line in (folder / f"data.{part}").open(encoding="utf-8") if line[0].isdigit())
        for line in (folder / f"index.{part}").open(encoding="utf-8"):
            fields = line.split()
            if line[0] == " " or not re.fullmatch(r"[a-z]{3,12}(?:_[a-z]{3,10})?", fields[0]):
                continue
            senses = int(fields[2])
            tagged = int(fields[-senses - 1])
            if tagged:
                key = files[int(place[fields[-senses]])]
                words.setdefault(key, []).extend([fields[0].replace("_", " ")] * (1 + 2 * min(tagged, 3)))
    return words


# slots are WordNet files; {verb} is any of the action verbs and its -ing form is {doing}
TEMPLATES = (
    """\
what is {a_artifact}|what is the {attribute} of {a_animal}|what does {a_person} do
who invented the {artifact}|what are {plant}s|who was the first {person} to {verb} the {object}
who is the {person} of the {group}|which {person} wrote about {feeling}|who discovered {substance}
where is the {place}|where can i find {a_artifact}|where do {animal}s live
what {place} has the most {plant}s|which country makes the most {food}|when was the {artifact} invented
when did the {event} begin|what year did the {group} {verb} the {place}|what day is the {event}
when is the next {event}|how many {person}s are in {a_group}|how many {animal}s live in the {place}
how much does {a_artifact} cost|how far is the {place}|how long does {a_event} last|how old is the {object}
how tall is the {artifact}|how do you {verb} {a_artifact}|how does {a_body} work
how can i {verb} my {artifact}|why do {animal}s {verb}|why is the {object} {adj}|what causes {state}
what is the origin of the word {artifact}|what does {abbr} stand for
what is the abbreviation for {cognition}|what is the full form of {abbr}|what kind of {animal} is {adj}
what is the name of the {person} in the {place}|what color is {a_plant}|what is another word for {adj}
name {a_animal} that lives in the {place}|what is the definition of {cognition}|i feel {adj}
i feel so {adj} and {adj} today|i am feeling {adv} {adj} about my {artifact}
i feel {feeling} whenever i think of the {event}|i was {adj} when the {person} left
i am so {adj} at my {person}|i feel like {a_adj} {person}|i started to feel {adj} about the {event}
i love my {person} and i feel {adj}|i am afraid of the {animal}|i hate being {adj}|i miss my {person}
i cannot help feeling {adj}|it makes me {adj}|please {verb} the {artifact}|can you {verb} my {artifact}
set {a_event} for {time}|remind me to {verb} the {artifact} in {a_time}|tell me about {feeling}
i need to {verb} my {possession}|what is my {possession} balance|transfer my {possession} to the {person}
find me {a_adj} {place} with {food}|how do i cook {food}|what can i make with {food} and {food}
book {a_artifact} to the {place}|play some {adj} music|turn off the {artifact}|will it rain in the {place}
how do you say {artifact} in spanish|what time is it in the {place}|i would like to order {food}
when is my {possession} due|is there traffic on the way to the {place}|my {artifact} is broken
schedule {a_event} with the {person}|i want to travel to the {place} next {time}|the {artifact} was {adj}
the {person} was {adv} {adj}|{a_adj} and {adj} {communication}|this {communication} is {adv} {adj}
the {communication} is neither {adj} nor {adj}|the {person} gives {a_adj} performance
{a_adj} story about {a_person} and {a_person}|the plot is {adj} but the {cognition} is {adj}
i have never seen such {a_adj} {communication}|the film is {adj}|it is {adv} {adj}|too {adj} to be {adj}
not {adj} enough|{adv} {adj}|{adj} {attribute}|full of {feeling}|a man is {doing} {a_artifact}
a woman is {doing} the {food}|{a_adj} {animal} is {doing} in the {place}
the {person} is not {doing} the {artifact}|two {person}s are {doing} near the {place}
there is no {person} {doing} {a_animal}|a group of {person}s is {doing}|a boy is {doing} with {a_artifact}
the {animal} is {doing} across the {object}|a person is {doing} and holding {a_artifact}
a girl in {a_adj} {artifact} is {doing}|the {person} said that the {group} would {verb} the {possession}
shares of the {group} rose after the {event}|the {group} won the {event} in the {place}
the {person} of the {place} met the {person} on {time} to discuss the {event}
scientists found {a_adj} {substance} in the {object}|police arrested {a_person} after the {event}
the company will {verb} its new {artifact} next {time}|the team lost the {event} to the {group}
they {verb} the {cognition}|he wants to {verb} the {person}|she {adv} refused to {verb}
we must {verb} the {state}|{verb} the {attribute} of the {group}
""".strip()
    .replace("\n", "|")
    .split("|")
)
VERBS = (
    "change",
    "contact",
    "motion",
    "creation",
    "consuming",
    "social",
    "saying",
    "perception",
    "competition",
)


def _templates(words: dict[str, list[str]], count: int, generator: random.Random) -> list[str]:
    """Return `count` sentences: templates filled with words drawn from the lexicon."""

    def slot(match: re.Match) -> str:
        key = match[1]
        if key == "abbr":
            return "".join(generator.choice("abcdefghilmnoprstuw") for _ in range(generator.choice((2, 3, 3, 4))))
        if key in ("verb", "doing"):
            word = generator.choice(words[generator.choice(VERBS)])
            return word if key == "verb" else re.sub(r"(?<=[^aeoy])e$", "", word.split()[0]) + "ing"
        word = generator.choice(words[key.removeprefix("a_")])
        return ("an " if word[0] in "aeiou" else "a ") + word if key.startswith("a_") else word

    filled = (re.sub(r"\{(\w+)\}", slot, generator.choice(TEMPLATES)) for _ in range(count))
    return [s + generator.choice(("", "?", " ?")) if s.startswith(("wh", "how")) else s for s in filled]


def text(work: pathlib.Path, seed: int, templates: int = 150_000, spans: int = 100_000, joined: int = 20_000) -> None:
    """Write sentences.txt (shuffled, no duplicates, one a line) and text.json (counts by source)."""
    target = work / "sentences.txt"
    if target.exists():
        return
    generator, seen, pool, counts = random.Random(seed), set(), [], {}

    def keep(source: str, lines: list[str]) -> None:
        fresh = [line for line in dict.fromkeys(lines) if line not in seen]
        seen.update(fresh)
        pool.extend(fresh)
        counts[source] = len(fresh)

    together: list[str] = []
    for source, (_, most, _) in SOURCES.items():
        paragraphs = [[s for s in _sentences(p) if proper(s)] for p in _paragraphs(source, work)]
        lines = [s for p in paragraphs for s in p]
        together += [" ".join(p[:5]) for p in paragraphs if len(p) > 1 and 40 < sum(s.count(" ") for s in p[:5]) < 90]
        keep(source, generator.sample(lines, most) if len(lines) > most else lines)
        print(f"text {source}: {counts[source]} sentences", flush=True)
    words = [s.split() for s in generator.sample(pool, min(len(pool), 2 * spans))]
    cuts = [(w, generator.randrange(max(1, len(w) - 3)), generator.randint(2, 6)) for w in words if len(w) > 5]
    cut = (" ".join(w[a : a + n]).strip(" ,.;:()\"'") for w, a, n in cuts)
    keep("spans", [s for s in cut if proper(s, least=2)][:spans])
    keep("paragraphs", generator.sample(together, min(joined, len(together))))
    keep("templates", _templates(_lexicon(work), templates, generator))
    generator.shuffle(pool)
    (work / "text.json").write_text(json.dumps(counts, indent=1), encoding="utf-8")
    target.write_text("\n".join(pool), encoding="utf-8")
    print(f"text: {len(pool)} lines, {sum(s.count(' ') + 1 for s in pool) / 1e6:.1f}M words", flush=True)
