"""Counting, sums, ranks and the order of words: labels that a reader finds by reckoning."""

from __future__ import annotations

import numpy as np

from tuning.tasks.patterns.templates import written
from tuning.tasks.words import Draw, Drawn, Lexicon, one, pick

NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth", "eleventh", "twelfth")
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


def enumerated(names: list[str]) -> str:
    """Return "the a, the b and the c"."""
    named = [f"the {name}" for name in names]
    return " and ".join(filter(None, (", ".join(named[:-1]), named[-1])))


def counts(words: Lexicon, rng: np.random.Generator) -> Drawn:
    """Return sentences about two (0), three (1) and four people (2), each with so many things that there are six names."""
    found = []
    for label, number in enumerate((2, 3, 4)):
        people, things = pick(words.people, rng, number), pick(words.things, rng, 6 - number)
        people, things = enumerated(people), enumerated(things)
        verb = one(("saw", "found", "bought", "carried"), rng)
        found.append((written(f"{people} {verb} {things}", {}), None, label))
    return found


def ascending(rng: np.random.Generator, low: int, high: int) -> list[int]:
    """Return two different whole numbers from ``low`` to ``high``, the smaller first."""
    return sorted(pick(tuple(range(low, high + 1)), rng, 2))


def clock(words: Lexicon, rng: np.random.Generator) -> Drawn:
    """Return a sentence in which the first of two people comes earlier (0), and with the hours exchanged (1)."""
    (a, b), (go, rest) = pick(words.people, rng, 2), pick(words.intransitive, rng, 2)
    early, late = ascending(rng, 0, 10)
    hours = [NUMBERS[early], NUMBERS[late]]
    return [
        (written(f"the {a} {go[2]} at {p} and the {b} {rest[2]} at {q} in the morning", {}), None, label)
        for label, (p, q) in enumerate((hours, hours[::-1]))
    ]


def ranks(words: Lexicon, rng: np.random.Generator) -> Drawn:
    """Return a sentence in which the first of two people comes ahead (0), and with the ranks exchanged (1)."""
    a, b = pick(words.people, rng, 2)
    ahead, behind = ascending(rng, 0, 11)
    kind, places = one(words.adjectives, rng), [ORDINALS[ahead], ORDINALS[behind]]
    return [
        (written(f"of twelve people, the {kind} {a} came {p} and the {b} {q}", {}), None, label)
        for label, (p, q) in enumerate((places, places[::-1]))
    ]


def more(words: Lexicon, rng: np.random.Generator) -> Drawn:
    """Return a sentence in which the first of two people has more (0), and with the numbers exchanged (1)."""
    (a, b), thing = pick(words.people, rng, 2), pick(words.things, rng)[0]
    less, most = ascending(rng, 1, 11)
    numbers = [NUMBERS[most], NUMBERS[less]]
    return [
        (written(f"the {a} has {p} {thing}s and the {b} has {q} {thing}s", {}), None, label)
        for label, (p, q) in enumerate((numbers, numbers[::-1]))
    ]


def sums(words: Lexicon, rng: np.random.Generator) -> Drawn:
    """Return a pair with the right sum of two numbers (0), and with one that is off by one or two (1)."""
    (a, b), thing = pick(words.people, rng, 2), pick(words.things, rng)[0]
    first, second = (int(n) for n in rng.integers(1, 6, size=2))
    total = first + second
    wrong = one(tuple(n for n in range(max(2, total - 2), min(12, total + 2) + 1) if n != total), rng)
    start = f"the {a} has {NUMBERS[first - 1]} {thing}{'s' * (first > 1)} and the {b} has {NUMBERS[second - 1]}"
    return [
        (written(start, {}), written(f"together they have {NUMBERS[n - 1]} {thing}s", {}), label)
        for label, n in enumerate((total, wrong))
    ]


def differences(words: Lexicon, rng: np.random.Generator) -> Drawn:
    """Return a pair with what is left when some are lost (0), and with a number that is off by one or two (1)."""
    who, thing = pick(words.people, rng)[0], pick(words.things, rng)[0]
    lost, left = (int(n) for n in rng.integers(1, 6, size=2))
    left += 1
    wrong = one(tuple(n for n in range(max(2, left - 2), left + 3) if n != left), rng)
    kind = one(words.adjectives, rng)
    start = f"the {kind} {who} had {NUMBERS[lost + left - 1]} {thing}s and lost {NUMBERS[lost - 1]}"
    return [
        (written(start, {}), written(f"the {who} has {NUMBERS[n - 1]} {thing}s left", {}), label)
        for label, n in enumerate((left, wrong))
    ]


def numerals(words: Lexicon, rng: np.random.Generator) -> Drawn:
    """Return two pairs with the same numbers: of "at least" the lower follows from the higher (0), of "at most" the higher."""
    low, high = ascending(rng, 1, 11)
    least, who, act, thing = int(rng.integers(2)), one(words.people, rng), one(words.transitive, rng)[2], one(words.things, rng)
    below, above = (
        written(f"at {('most', 'least')[least]} {NUMBERS[n]} {who}s {act} someone near the {thing}", {}) for n in (low, high)
    )
    strong, weak = (above, below) if least else (below, above)
    return [(strong, weak, 0), (weak, strong, 1)]


def parity(words: Lexicon, rng: np.random.Generator) -> Drawn:
    """Return a sentence that begins with an even (0) and one that begins with an odd number (1), another number after it."""
    found = []
    for label in (0, 1):
        (a, b), things = pick(words.people, rng, 2), pick(words.things, rng, 2)
        number, other = one((NUMBERS[1::2], NUMBERS[2::2])[label], rng), one(NUMBERS[1:], rng)
        found.append((written(f"{number} {a}s found {other} {things[0]}s near the {b}'s {things[1]}", {}), None, label))
    return found


def weekdays(words: Lexicon, rng: np.random.Generator) -> Drawn:
    """Return a pair in which the second day follows the first as said (0), or is another day (1)."""
    day, ahead = int(rng.integers(7)), int(rng.integers(1, 4))
    wrong = one(tuple(n for n in range(1, 7) if n != ahead), rng)
    (a, b), (go, rest) = pick(words.people, rng, 2), pick(words.intransitive, rng, 2)
    start = f"the {a} {go[2]} on {DAYS[day]} and the {b} {rest[2]} {NUMBERS[ahead - 1]} day{'s' * (ahead > 1)} later"
    return [
        (written(start, {}), written(f"the {b} {rest[2]} on {DAYS[(day + n) % 7]}", {}), label)
        for label, n in enumerate((ahead, wrong))
    ]


def alphabet(words: Lexicon, rng: np.random.Generator) -> Drawn:
    """Return a list of three people in the order of the alphabet (0), and in another one (1)."""
    names, verb = sorted(pick(words.people, rng, 3)), one(words.intransitive, rng)[2]
    other = [names[i] for i in one(((0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)), rng)]
    return [(written(f"{enumerated(some)} {verb} in this order", {}), None, label) for label, some in enumerate((names, other))]


def repeats(words: Lexicon, rng: np.random.Generator) -> Drawn:
    """Return a sentence in which one person of four is named twice (0), and one in which all are different (1)."""
    names, (act, deed) = pick(words.people, rng, 4), pick(words.transitive, rng, 2)
    i, j = sorted(pick((0, 1, 2, 3), rng, 2)) if rng.integers(2) else (0, 3)
    if (i, j) in ((0, 1), (2, 3)):
        i, j = 1, 2  # nobody acts on himself
    again = [*names[:j], names[i], *names[j + 1 :]]
    return [
        (written(f"the {p} {act[2]} the {q}, and the {r} {deed[2]} the {s}", {}), None, label)
        for label, (p, q, r, s) in enumerate((again, names))
    ]


def mirrors(words: Lexicon, rng: np.random.Generator) -> Drawn:
    """Return two lists of three people, the second backwards (0) or as before (1)."""
    names, (go, rest) = pick(words.people, rng, 3), pick(words.intransitive, rng, 2)
    return [
        (written(f"{enumerated(names)} {go[2]}, and {enumerated(again)} {rest[2]}", {}), None, label)
        for label, again in enumerate((names[::-1], names))
    ]


def initials(words: Lexicon, rng: np.random.Generator) -> Drawn:
    """Return a sentence whose two things begin with the same letter (0), and one whose things do not (1)."""
    pairs = [(p, q) for p in words.things for q in words.things if p != q]
    alike, other = (one(tuple(pair for pair in pairs if (pair[0][0] == pair[1][0]) == same), rng) for same in (True, False))
    found = []
    for label, (p, q) in enumerate((alike, other)):
        who, whom = pick(words.people, rng, 2)
        found.append((written(f"the {who} near the {whom} found a(n) {p} and a(n) {q}", {}), None, label))
    return found


TASKS: dict[str, tuple[tuple[str, ...], Draw]] = {
    "counting": (("two", "three", "four"), counts),
    "clock-order": (("earlier", "later"), clock),
    "ordinal-ranks": (("ahead", "behind"), ranks),
    "larger-number": (("more", "fewer"), more),
    "addition": (("right", "wrong"), sums),
    "subtraction": (("right", "wrong"), differences),
    "numeral-entailment": (("follows", "open"), numerals),
    "number-parity": (("even", "odd"), parity),
    "weekdays": (("right", "wrong"), weekdays),
    "alphabetical-order": (("in order", "out of order"), alphabet),
    "repeated-names": (("repeated", "different"), repeats),
    "mirrored-lists": (("mirrored", "repeated"), mirrors),
    "same-initials": (("same", "different"), initials),
}
