"""Generated grammar tasks: the label of every sentence is known by construction.

Train draws its nouns, verbs, adjectives and adverbs from one half of the lexicon, dev and every test set from
the other half, so that a tuned model has to carry the structure over to words it was not tuned on, and settings
are chosen for that.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from tuning.tasks import acceptability, readings
from tuning.tasks.task import SIZES, Split, Task, make_task
from tuning.tasks.words import Draw, Drawn, Lexicon, lexicon

MISSES = 1000  # repeated draws in a row after which a grammar counts as used up
JUDGED = ("right", "wrong")

TASKS: dict[str, tuple[tuple[str, ...], Draw]] = {
    "agreement": (("agrees", "disagrees"), acceptability.agreement_mixed),
    "subject-number": (("singular", "plural"), readings.subject_number),
    "negation": (("affirms", "denies"), readings.negation),
    "quantifiers": (("entails", "open", "contradicts"), readings.quantifiers),
    "roles": (("same", "exchanged"), readings.roles),
    "tense": (("past", "present", "future"), readings.tense),
    "event-order": (("in order", "reversed"), readings.event_order),
    "voice": (("active", "passive"), readings.voice),
    "tags": (("turns", "repeats"), readings.tags),
    "reflexives": (JUDGED, acceptability.reflexives),
    "determiners": (JUDGED, acceptability.determiners),
    "polarity-items": (JUDGED, acceptability.polarity_items),
    "auxiliaries": (JUDGED, acceptability.auxiliaries),
    "adverbials": (JUDGED, acceptability.adverbials),
    "correlatives": (JUDGED, acceptability.correlatives),
    "inversion": (JUDGED, acceptability.inversion),
    "pronoun-case": (JUDGED, acceptability.pronoun_case),
    "relative-pronouns": (JUDGED, acceptability.relative_pronouns),
    "coordination": (JUDGED, acceptability.coordination),
    "partitives": (JUDGED, acceptability.partitives),
    "gaps": (JUDGED, acceptability.gaps),
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
    classes, draw = TASKS[name]
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
    return make_task(name, "grammar", classes, splits, "generated: see tuning/tasks/readings.py and acceptability.py")


def names() -> tuple[str, ...]:
    """Return the names of the generated grammar tasks."""
    return tuple(TASKS)
