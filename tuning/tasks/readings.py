"""Grammar tasks about what a sentence says: which clause denies, who acts, when, how many."""

from __future__ import annotations

import numpy as np

from tuning.tasks.words import Drawn, Lexicon, noun_phrase, one, pick, sentence


def subject_number(words: Lexicon, rng: np.random.Generator) -> Drawn:
    """Return a sentence with a singular (0) and one with a plural subject (1); the verb does not show it."""
    look = pick(words.looks, rng)[0]
    verb = ("became", "remained", "stayed", "looked", "appeared")[int(rng.integers(5))]
    mismatch = bool(rng.integers(2))
    return [(sentence(noun_phrase(words, rng, bool(n), mismatch), verb, look), None, n) for n in (0, 1)]


def negation(words: Lexicon, rng: np.random.Generator) -> Drawn:
    """Return two sentences, the main clause affirms (0) or denies (1); a relative clause may deny in both."""
    examples = []
    for denied in (0, 1):
        who, whom = pick(words.people, rng, 2)
        act, other = pick(words.transitive, rng)[0], pick(words.intransitive, rng)[0]
        inner = ("", f"who {other[2]}", f"who did not {other[0]}", f"who never {other[2]}")[int(rng.integers(4))]
        no_verb = (f"did not {act[0]}", f"never {act[2]}")[int(rng.integers(2))]
        verb = no_verb if denied else (act[2], f"often {act[2]}")[int(rng.integers(2))]
        examples.append((sentence(f"the {who}", inner, verb, f"the {whom}"), None, denied))
    return examples


QUANTIFIERS = ("every", "some", "no", "not every")
OPPOSITE = {"every": "not every", "not every": "every", "some": "no", "no": "some"}
# The sentence stays true when its noun (its verb) is narrowed; otherwise it does when widened.
NARROWS = {"every": (True, False), "some": (False, False), "no": (True, True), "not every": (False, True)}
ENTAILS, OPEN, CONTRADICTS = 0, 1, 2


def quantified(quantifier: str, adjective: str, who: str, verb: str, adverb: str) -> str:
    """Return e.g. "Not every tall farmer laughed loudly."."""
    return sentence(quantifier, adjective, who, verb, adverb)


def quantifiers(words: Lexicon, rng: np.random.Generator) -> Drawn:
    """Return three pairs: the first sentence entails (0), leaves open (1), contradicts (2) the second.

    Monotonicity in (noun, verb): every is (down, up), some (up, up), no (down, down), not every (up, down);
    adjectives and adverbs narrow. A contradiction has the opposite quantifier on a sentence that the first
    one entails.
    """
    examples = []
    for relation in (ENTAILS, OPEN, CONTRADICTS):
        quantifier = QUANTIFIERS[int(rng.integers(4))]
        who, verb = pick(words.people, rng)[0], pick(words.intransitive, rng)[0][2]
        adjective, adverb = pick(words.adjectives, rng)[0], pick(words.adverbs, rng)[0]
        place = int(rng.integers(2))  # what changes: 0 the noun, 1 the verb
        narrowed = NARROWS[quantifier][place] != (relation == OPEN)
        spare = bool(rng.integers(2))  # the other modifier may stand in both
        first = [spare, spare]
        second = [spare, spare]
        first[place], second[place] = not narrowed, narrowed
        said = OPPOSITE[quantifier] if relation == CONTRADICTS else quantifier
        examples.append(
            (
                quantified(quantifier, adjective * first[0], who, verb, adverb * first[1]),
                quantified(said, adjective * second[0], who, verb, adverb * second[1]),
                relation,
            )
        )
    return examples


def roles(words: Lexicon, rng: np.random.Generator) -> Drawn:
    """Return an active sentence with its passive (0) and with the passive of the exchanged roles (1)."""
    verb = pick(words.transitive, rng)[0][2]
    (a, b), (c, d) = (pick(words.people, rng, 2) for _ in range(2))
    return [
        (sentence(f"the {a} {verb} the {b}"), sentence(f"the {b} was {verb} by the {a}"), 0),
        (sentence(f"the {c} {verb} the {d}"), sentence(f"the {c} was {verb} by the {d}"), 1),
    ]


def tense(words: Lexicon, rng: np.random.Generator) -> Drawn:
    """Return a sentence for each tense of the main clause; a relative clause has a tense of its own."""

    def verb_in(time: int, verb: tuple[str, ...]) -> str:
        return (verb[2], verb[1], f"will {verb[0]}")[time]

    examples = []
    for time in range(3):
        who, whom = pick(words.people, rng, 2)
        act, other = pick(words.transitive, rng)[0], pick(words.intransitive, rng)[0]
        inner = f"who {verb_in(int(rng.integers(3)), other)}"
        examples.append((sentence(f"the {who} {inner} {verb_in(time, act)} the {whom}"), None, time))
    return examples


def event_order(words: Lexicon, rng: np.random.Generator) -> Drawn:
    """Return a sentence that tells two events in the order in which they happened (0) and one that does not (1)."""
    examples = []
    for reverse in (0, 1):
        (a, b), (did, then) = pick(words.people, rng, 2), pick(words.intransitive, rng, 2)
        front = int(rng.integers(2))
        link = ("before", "after")[front != reverse]
        first, second = f"the {a} {did[2]}", f"the {b} {then[2]}"
        text = sentence(f"{link} {first}, {second}") if front else sentence(f"{first} {link} {second}")
        examples.append((text, None, reverse))
    return examples


def voice(words: Lexicon, rng: np.random.Generator) -> Drawn:
    """Return a sentence with an active (0) and one with a passive main clause (1); a relative clause has a voice of its own."""
    examples = []
    for passive in (0, 1):
        a, b, c = pick(words.people, rng, 3)
        inner, act = (verb[2] for verb in pick(words.transitive, rng, 2))
        clause = (f"who {inner} the {b}", f"who was {inner} by the {b}")[int(rng.integers(2))]
        main = (f"{act} the {c}", f"was {act} by the {c}")[passive]
        examples.append((sentence(f"the {a} {clause} {main}"), None, passive))
    return examples


def tags(words: Lexicon, rng: np.random.Generator) -> Drawn:
    """Return two sentences, the tag turns (0) or repeats (1) whether the main clause denies; a relative clause may deny too."""
    examples = []
    for repeats in (0, 1):
        a, b = pick(words.people, rng, 2)
        act, other = pick(words.transitive, rng)[0], pick(words.intransitive, rng)[0]
        inner = one(("", f"who {other[2]}", f"who never {other[2]}"), rng)
        denies = bool(rng.integers(2))
        main = f"never {act[2]} the {b}" if denies else f"{act[2]} the {b}"
        tag = f"did {one(('he', 'she'), rng)}" + " not" * (denies == repeats)
        examples.append((sentence(f"the {a}", inner, main)[:-1] + f", {tag}?", None, repeats))
    return examples
