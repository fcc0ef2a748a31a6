"""Generated grammar tasks: the label of every sentence is known by construction.

Train draws its nouns, verbs, adjectives and adverbs from one half of the lexicon, dev and every test set from
the other half, so that a tuned model has to carry the structure over to words it was not tuned on, and settings
are chosen for that. A family says where labels come from: a rule of grammar, a reading, a relation.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from tuning.tasks import acceptability, readings
from tuning.tasks.patterns import arguments, concord, extraction, function_words, meanings, reckoning, relations, word_forms
from tuning.tasks.task import SIZES, Split, Task, make_task
from tuning.tasks.words import Draw, Drawn, Lexicon, lexicon

MISSES = 1000  # repeated draws in a row after which a grammar counts as used up
JUDGED = ("right", "wrong")
GRAMMAR, READING, RELATION = ("grammar", "reading", "relation")  # where a label comes from

TASKS: dict[str, tuple[str, tuple[str, ...], Draw]] = {
    "agreement": (GRAMMAR, ("agrees", "disagrees"), acceptability.agreement_mixed),
    "subject-number": (READING, ("singular", "plural"), readings.subject_number),
    "negation": (READING, ("affirms", "denies"), readings.negation),
    "quantifiers": (RELATION, ("entails", "open", "contradicts"), readings.quantifiers),
    "roles": (RELATION, ("same", "exchanged"), readings.roles),
    "tense": (READING, ("past", "present", "future"), readings.tense),
    "event-order": (READING, ("in order", "reversed"), readings.event_order),
    "voice": (READING, ("active", "passive"), readings.voice),
    "tags": (READING, ("turns", "repeats"), readings.tags),
    "reflexives": (GRAMMAR, JUDGED, acceptability.reflexives),
    "determiners": (GRAMMAR, JUDGED, acceptability.determiners),
    "polarity-items": (GRAMMAR, JUDGED, acceptability.polarity_items),
    "auxiliaries": (GRAMMAR, JUDGED, acceptability.auxiliaries),
    "adverbials": (GRAMMAR, JUDGED, acceptability.adverbials),
    "correlatives": (GRAMMAR, JUDGED, acceptability.correlatives),
    "inversion": (GRAMMAR, JUDGED, acceptability.inversion),
    "pronoun-case": (GRAMMAR, JUDGED, acceptability.pronoun_case),
    "relative-pronouns": (GRAMMAR, JUDGED, acceptability.relative_pronouns),
    "coordination": (GRAMMAR, JUDGED, acceptability.coordination),
    "partitives": (GRAMMAR, JUDGED, acceptability.partitives),
    "gaps": (GRAMMAR, JUDGED, acceptability.gaps),
    **{
        name: (GRAMMAR, JUDGED, draw)
        for table in (word_forms.TASKS, concord.TASKS, arguments.TASKS, function_words.TASKS, extraction.TASKS)
        for name, draw in table.items()
    },
    **{name: (READING, *made) for name, made in meanings.TASKS.items()},
    **{name: (RELATION, *made) for name, made in (relations.TASKS | reckoning.TASKS).items()},
}


def fill(draw: Draw, words: Lexicon, n: int, seen: set, seed: list[int]) -> Drawn:
    """Return about ``n`` new examples (a whole number of drawn groups); ``seen`` grows.

    Raises ValueError when the grammar has no ``n`` different sentences.
    """
    rng = np.random.default_rng(seed)
    rows: Drawn = []
    misses = 0  # in a row: a grammar nearly used up repeats itself
    while True:
        group = draw(words, rng)
        keys = {(a, b) for a, b, _ in group}
        if len(rows) + len(group) > n:
            break
        fresh = len(keys) == len(group) and seen.isdisjoint(keys)
        misses = 0 if fresh else misses + 1
        if fresh:
            rows += group
            seen |= keys
        elif misses == MISSES:
            raise ValueError(f"the grammar gives {len(rows)} different examples here, {n} were asked for: ask for fewer")
    return rows


def shuffled(rows: Drawn, order: np.random.Generator) -> Split:
    """Return drawn examples as a split, in a seeded order."""
    rows = [rows[i] for i in order.permutation(len(rows))]
    text_b = None if rows and rows[0][1] is None else tuple(str(b) for _, b, _ in rows)
    return Split(tuple(a for a, _, _ in rows), text_b, np.array([label for *_, label in rows], dtype=np.int64))


def build(name: str, sizes: Mapping[str, int] | None, seed: int) -> Task:
    """Return a generated task: exactly balanced, no example twice, tested on words that train never uses.

    Minimal pairs stay together in one split. ``agreement`` has ``test_attractor`` as well, in which the noun
    next to the verb always misleads. Raises ValueError when more examples are asked for than the grammar has.
    """
    family, classes, draw = TASKS[name]
    wanted = dict(SIZES if sizes is None else sizes)
    if name == "agreement":
        wanted.setdefault("test_attractor", wanted.get("test", SIZES["test"]))
    seen: set = set()
    drawn = {}
    for number, key in sorted(enumerate(wanted), key=lambda entry: entry[1] == "dev"):  # last, so that dev changes no test set
        chosen = acceptability.agreement_attractor if key == "test_attractor" else draw
        drawn[key] = fill(chosen, lexicon(int(key != "train")), wanted[key], seen, [seed, 6, number])
    order = np.random.default_rng([seed, 5])
    splits = {key: shuffled(drawn[key], order) for key in wanted}
    return make_task(name, family, classes, splits, "generated: see tuning/tasks/grammar.py and the tables it names")


def names() -> tuple[str, ...]:
    """Return the names of the generated grammar tasks."""
    return tuple(TASKS)


def family(name: str) -> str:
    """Return where the labels of a generated task come from: grammar, reading or relation."""
    return TASKS[name][0]
