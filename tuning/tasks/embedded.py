"""Embedded tasks of real text: what a sentence is about, how it is built, where in a docstring it stood.

No docstring feeds two splits, and no two sentences of a task share their first or their last five words.
Sentences that name a package or one of its modules are left out, for all classes of the task alike.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tuning.tasks import prose
from tuning.tasks.prose import Sentence, listed
from tuning.tasks.task import SIZES, Split, Task, make_task

PER_PACKAGE = 3000  # sentences read from one package before filtering, which keeps about a third
ENDS = 5  # words that must differ at either end of two sentences of one task
# Names and usual short names of the libraries: a sentence with one of them would give its source away.
LIBRARY_NAMES = frozenset(
    listed(
        "accelerate anaconda cupy cvxpy cython dask fonttools huggingface jax jinja keras matplotlib "
        "networkx numpy pandas peft pillow pyarrow pyplot python pytorch scikit scipy seaborn sklearn "
        "sympy tensorflow torch transformers np pd plt nx sns cp pil"
    )
)

TOPICS: dict[str, dict[str, tuple[str, ...]]] = {
    "library-data": {"numpy": ("numpy",), "pandas": ("pandas",), "networkx": ("networkx",)},
    "library-models": {"torch": ("torch",), "sklearn": ("sklearn",), "matplotlib": ("matplotlib",)},
    "library-tools": {
        "cvxpy": ("cvxpy",),
        "transformers": ("transformers",),
        "hub": ("huggingface_hub",),
    },
    "scipy-topic": {
        "statistics": ("scipy.stats",),
        "signals": ("scipy.signal", "scipy.ndimage", "scipy.fft"),
        "optimization": ("scipy.optimize",),
    },
    "sympy-topic": {
        "physics": ("sympy.physics",),
        "polynomials": ("sympy.polys",),
        "structures": tuple(f"sympy.{part}" for part in listed("geometry combinatorics matrices logic sets")),
        "equations": tuple(f"sympy.{part}" for part in listed("solvers integrals simplify series calculus")),
    },
    "stdlib-topic": {
        "network": tuple(
            listed("email http urllib xmlrpc mailbox smtplib ftplib imaplib poplib socketserver socket ssl ipaddress")
        ),
        "concurrency": tuple(listed("asyncio multiprocessing concurrent threading queue sched selectors subprocess contextlib")),
        "code": tuple(listed("unittest importlib inspect typing doctest pdb ast dis traceback tokenize")),
    },
}
FORM_PACKAGES = (
    *("scipy.stats", "scipy.optimize", "scipy.signal", "sympy.physics", "sympy.polys"),
    *("numpy", "pandas", "networkx", "torch", "sklearn", "matplotlib", "cvxpy"),
)
SECTIONS = ("parameters", "returns", "notes")


@dataclass(frozen=True)
class Example:
    """One labelled text (or pair) and the docstrings it came from, by which splits are kept apart."""

    text_a: str
    text_b: str | None
    label: int
    origin: tuple[str, str, int]


def origin(sentence: Sentence) -> tuple[str, str, int]:
    """Return the docstring a sentence belongs to."""
    return sentence.package, sentence.file, sentence.docstring


def give_aways(packages: Iterable[str]) -> frozenset[str]:
    """Return the words that give a task's packages away: libraries, the packages' paths, their modules."""
    found = set(LIBRARY_NAMES)
    for package in packages:
        found.update(part.lower() for part in package.split("."))
        base = prose.root(package)
        if base.is_dir():
            children = [p for p in base.iterdir() if p.suffix == ".py" or (p.is_dir() and (p / "__init__.py").exists())]
            found.update(p.stem.strip("_").lower() for p in children)
    return frozenset(found)


def distinct(labelled: Iterable[tuple[Sentence, int]], banned: frozenset[str]) -> list[tuple[Sentence, int]]:
    """Return the sentences free of give-aways, one for each opening and each ending of five words.

    An opening or ending found under two labels is dropped from both: it says nothing about the label.
    """
    kept = [(s, label, prose.words(s.text)) for s, label in labelled]
    kept = [(s, label, w) for s, label, w in kept if not banned.intersection(w)]
    owners: dict[tuple, set[int]] = defaultdict(set)
    for _, label, w in kept:
        owners["first", w[:ENDS]].add(label)
        owners["last", w[-ENDS:]].add(label)
    seen: set[tuple] = set()
    result = []
    for s, label, w in kept:
        keys = {("first", w[:ENDS]), ("last", w[-ENDS:])}
        if keys.isdisjoint(seen) and all(len(owners[key]) == 1 for key in keys):
            result.append((s, label))
        seen |= keys
    return result


def allocate(examples: Sequence[Example], classes: int, sizes: Mapping[str, int] | None, seed: int) -> dict[str, Split]:
    """Return class-balanced splits in which no docstring occurs twice.

    Docstrings are taken in the order of a seeded hash and fill test, then dev, then train, class by class.
    Without ``sizes`` the default ones shrink in proportion when the scarcest class gives less; sizes asked
    for are met or refused with ValueError.
    """
    wanted = dict(SIZES if sizes is None else sizes)
    total = sum(wanted.values())
    supply = np.bincount([e.label for e in examples], minlength=classes)
    share = min(1.0, classes * supply.min() / total) if sizes is None else 1.0
    quota = {key: int(share * n) // classes for key, n in wanted.items()}
    ranked = sorted(examples, key=lambda e: (prose.hashed(f"{seed}:{e.origin}"), e.label, e.text_a))
    home: dict[tuple, str] = {}
    filled: dict[tuple[str, int], list[Example]] = defaultdict(list)
    order = [key for key in ("test", "dev", "train") if key in quota] + [k for k in quota if k not in SIZES]
    for example in ranked:
        open_splits = [key for key in order if len(filled[key, example.label]) < quota[key]]
        key = home.get(example.origin) or (open_splits[0] if open_splits else None)
        if key is not None:
            home[example.origin] = key
            if key in open_splits:
                filled[key, example.label].append(example)
    rng = np.random.default_rng([seed, 1])
    splits = {}
    for key in wanted:
        least = min(len(filled[key, label]) for label in range(classes))
        if sizes is not None and least < quota[key]:
            raise ValueError(
                f"{wanted[key]} balanced {key} examples were asked for, the installed text gives {least * classes}: ask for fewer"
            )
        rows = [example for label in range(classes) for example in filled[key, label][:least]]
        rows = [rows[i] for i in rng.permutation(len(rows))]
        text_b = None if not rows or rows[0].text_b is None else tuple(row.text_b for row in rows)
        splits[key] = Split(tuple(row.text_a for row in rows), text_b, np.array([row.label for row in rows]))
    return splits


def misspelt(text: str, rng: np.random.Generator, rate: float = 0.3) -> str:
    """Return the text with two inner letters exchanged, or one lost, in ``rate`` of its longer words."""
    result = []
    for word in text.split():
        if len(word) > 4 and word.isalpha() and rng.random() < rate:
            i = int(rng.integers(1, len(word) - 2))
            word = word[:i] + (word[i + 1] + word[i] if rng.random() < 0.5 else word[i + 1]) + word[i + 2 :]
        result.append(word)
    return " ".join(result)


def with_typos(splits: dict[str, Split], seed: int) -> dict[str, Split]:
    """Return the splits and ``test_typo``: the test examples, in the same order, misspelt."""
    rng = np.random.default_rng([seed, 2])
    test = splits["test"]
    return {
        **splits,
        "test_typo": Split(tuple(misspelt(text, rng) for text in test.text_a), None, test.labels),
    }


def topic(name: str, sizes: Mapping[str, int] | None, seed: int) -> Task:
    """Return the task of telling from which group of packages a sentence comes."""
    groups = TOPICS[name]
    packages = [package for group in groups.values() for package in group]
    labelled = [
        (s, label)
        for label, group in enumerate(groups.values())
        for package in group
        for s in prose.sentences(package, PER_PACKAGE)
    ]
    examples = [Example(s.text, None, label, origin(s)) for s, label in distinct(labelled, give_aways(packages))]
    splits = with_typos(allocate(examples, len(groups), sizes, seed), seed)
    return make_task(name, family(name), tuple(groups), splits, provenance(packages))


def provenance(packages: Iterable[str]) -> str:
    """Return the packages and versions a task was built from, as one line."""
    versions = {package.split(".")[0]: prose.version(package) for package in packages}
    return "docstrings of " + ", ".join(f"{package} {number}" for package, number in sorted(versions.items()))


def form_sentences() -> list[Sentence]:
    """Return every harvested sentence that the tasks about form draw on."""
    return [s for package in FORM_PACKAGES for s in prose.sentences(package, PER_PACKAGE)]


def form_examples(labelled: Iterable[tuple[Sentence, int]]) -> list[Example]:
    """Return single-text examples of labelled sentences."""
    return [Example(s.text, None, label, origin(s)) for s, label in distinct(labelled, LIBRARY_NAMES)]


def section_examples(seed: int) -> list[Example]:
    """Return sentences of docstrings by the section they stood in."""
    return form_examples((s, SECTIONS.index(s.section)) for s in form_sentences() if s.section in SECTIONS)


def owner_examples(seed: int) -> list[Example]:
    """Return opening sentences of docstrings by what they document: a class or a function."""
    kinds = {"class": 0, "function": 1}
    opening = (s for s in form_sentences() if (s.paragraph, s.position) == (0, 0) and s.owner in kinds)
    return form_examples((s, kinds[s.owner]) for s in opening)


def summary_examples(seed: int) -> list[Example]:
    """Return sentences of the running text of functions: the summary that opens it, or a later one."""
    running = (s for s in form_sentences() if s.owner == "function" and s.section == "")
    return form_examples((s, int((s.paragraph, s.position) != (0, 0))) for s in running)


def exchanged(text: str, rng: np.random.Generator) -> str | None:
    """Return the text with two inner words, two to four places apart, exchanged; None where none differ."""
    tokens = text.split()
    inner = [
        (i, j)
        for i in range(1, len(tokens) - 1)
        for j in range(i + 2, min(i + 5, len(tokens) - 1))
        if tokens[i].isalpha() and tokens[j].isalpha() and tokens[i] != tokens[j]
    ]
    if not inner:
        return None
    i, j = inner[int(rng.integers(len(inner)))]
    tokens[i], tokens[j] = tokens[j], tokens[i]
    return " ".join(tokens)


def scrambled(text: str, rng: np.random.Generator, span: int = 5) -> str | None:
    """Return the text with ``span`` neighbouring inner words reordered; None where there is no such span."""
    tokens = text.split()
    starts = [i for i in range(1, len(tokens) - span) if all(t.isalpha() for t in tokens[i : i + span])]
    if not starts:
        return None
    i = starts[int(rng.integers(len(starts)))]
    old = tokens[i : i + span]
    new = [old[k] for k in rng.permutation(span)]
    if new == old:
        new = old[::-1]
    return None if new == old else " ".join([*tokens[:i], *new, *tokens[i + span :]])


def order_examples(seed: int, change: Callable[[str, np.random.Generator], str | None]) -> list[Example]:
    """Return sentences as written (0) or with their words moved by ``change`` (1); each sentence occurs once.

    The change must be possible in either case, so that length and punctuation do not tell the classes apart.
    """
    rng = np.random.default_rng([seed, 3])
    examples = []
    for s, _ in distinct(((s, 0) for s in form_sentences()), LIBRARY_NAMES):
        moved = change(s.text, rng)
        if moved is not None:
            label = int(rng.integers(2))
            examples.append(Example(moved if label else s.text, None, label, origin(s)))
    return examples


def swap_examples(seed: int) -> list[Example]:
    """Return sentences as written, or with two words exchanged."""
    return order_examples(seed, exchanged)


def scramble_examples(seed: int) -> list[Example]:
    """Return sentences as written, or with five neighbouring words in another order."""
    return order_examples(seed, scrambled)


def follower_examples(seed: int) -> list[Example]:
    """Return pairs of neighbouring sentences of one paragraph, half of them marked (1) to be parted."""
    place = {(origin(s), s.paragraph, s.position): s for s in form_sentences()}
    neighbours = [
        (first, place[where, paragraph, position + 1])
        for (where, paragraph, position), first in place.items()
        if (where, paragraph, position + 1) in place
    ]
    both = dict.fromkeys(s for pair in neighbours for s in pair)
    kept = {s for s, _ in distinct(((s, 0) for s in both), LIBRARY_NAMES)}
    rng = np.random.default_rng([seed, 4])
    examples: list[Example] = []
    used: set[Sentence] = set()
    for pair in neighbours:
        if kept.issuperset(pair) and used.isdisjoint(pair):
            examples.append(Example(pair[0].text, pair[1].text, int(rng.integers(2)), origin(pair[0])))
            used.update(pair)
    return examples


def parted(splits: Mapping[str, Split]) -> dict[str, Split]:
    """Return the splits with the second texts of class 1 passed on by one place, to wrong partners.

    Both classes keep the same supply of second sentences, and no text moves to another split.
    """
    result = {}
    for key, split in splits.items():
        text_b = list(split.text_b or ())
        moved = np.flatnonzero(split.labels == 1)
        for to, source in zip(moved, np.roll(moved, 1), strict=True):
            text_b[to] = (split.text_b or ())[source]
        result[key] = Split(split.text_a, tuple(text_b), split.labels)
    return result


FORMS: dict[str, tuple[str, tuple[str, ...], Callable[[int], list[Example]]]] = {
    "docstring-section": ("discourse", SECTIONS, section_examples),
    "class-or-function": ("discourse", ("class", "function"), owner_examples),
    "summary-or-detail": ("discourse", ("summary", "detail"), summary_examples),
    "next-sentence": ("discourse", ("follows", "elsewhere"), follower_examples),
    "word-swap": ("order", ("written", "swapped"), swap_examples),
    "word-scramble": ("order", ("written", "scrambled"), scramble_examples),
}


def form(name: str, sizes: Mapping[str, int] | None, seed: int) -> Task:
    """Return a task about a sentence's build or its place in a docstring."""
    family, classes, examples = FORMS[name]
    splits = allocate(examples(seed), len(classes), sizes, seed)
    if examples is follower_examples:
        splits = parted(splits)
    return make_task(name, family, classes, splits, provenance(FORM_PACKAGES))


def names() -> tuple[str, ...]:
    """Return the names of the embedded tasks of real text."""
    return (*TOPICS, *FORMS)


def family(name: str) -> str:
    """Return what the labels of a task of real text are about: topic, discourse or order."""
    return "topic" if name in TOPICS else FORMS[name][0]


def build(name: str, sizes: Mapping[str, int] | None, seed: int) -> Task:
    """Return an embedded task of real text, extracted now from the installed packages."""
    return topic(name, sizes, seed) if name in TOPICS else form(name, sizes, seed)


def packages(name: str) -> tuple[str, ...]:
    """Return the packages whose source a task of real text is extracted from."""
    if name in TOPICS:
        return tuple(package for group in TOPICS[name].values() for package in group)
    return FORM_PACKAGES
