"""Grammar tasks about right and wrong: minimal pairs of a sentence as it should be (0) and one with a fault (1)."""

from __future__ import annotations

import numpy as np

from tuning.tasks.words import PLACES, Drawn, Lexicon, noun, noun_phrase, one, pick, sentence

BESIDE = ("near", "behind", "beside", "opposite")  # places of people
FORMS = (("is", "are"), ("was", "were"), ("looks", "look"), ("seems", "seem"))  # singular, plural
OBJECTLESS = ("help", "watch", "warn", "follow", "visit", "interview")  # that may do without their object


def judged(right: str, wrong: str) -> Drawn:
    """Return a minimal pair of one right (0) and one wrong (1) sentence."""
    return [(right, None, 0), (wrong, None, 1)]


def agreement(words: Lexicon, rng: np.random.Generator, mismatch: bool | None) -> Drawn:
    """Return a minimal pair: the verb agrees with its subject (0) or not (1)."""
    plural = bool(rng.integers(2))
    subject = noun_phrase(words, rng, plural, mismatch)
    forms = [("is", "are"), ("was", "were"), ("looks", "look"), ("seems", "seem")][int(rng.integers(4))]
    look = pick(words.looks, rng)[0]
    return [
        (sentence(subject, forms[plural], look), None, 0),
        (sentence(subject, forms[not plural], look), None, 1),
    ]


def agreement_mixed(words: Lexicon, rng: np.random.Generator) -> Drawn:
    """Return an agreement pair without attractor, with a matching or with a misleading one, equally often."""
    return agreement(words, rng, (None, False, True)[int(rng.integers(3))])


def agreement_attractor(words: Lexicon, rng: np.random.Generator) -> Drawn:
    """Return an agreement pair whose attractor has the other number."""
    return agreement(words, rng, True)


def reflexives(words: Lexicon, rng: np.random.Generator) -> Drawn:
    """Return a minimal pair: the reflexive has the number of its subject (0) or not (1); another noun stands between."""
    plural, other = bool(rng.integers(2)), bool(rng.integers(2))
    who, near = pick(words.people, rng, 2)
    inner, act = pick(words.transitive, rng, 2)
    between = (one(BESIDE, rng), f"who {inner[2]}")[int(rng.integers(2))]
    itself = (("himself", "herself")[int(rng.integers(2))], "themselves")
    start = f"the {noun(who, plural)} {between} the {noun(near, other)} {act[2]}"
    return judged(sentence(start, itself[plural]), sentence(start, itself[not plural]))


def determiners(words: Lexicon, rng: np.random.Generator) -> Drawn:
    """Return a minimal pair: both nouns have the number of this, that, these or those (0), or one of them has not (1)."""
    near = rng.integers(2, size=2)
    plural = rng.integers(2, size=2)
    things = pick(words.things, rng, 2)
    looks = [" ".join(pick(words.looks, rng, 1 + int(rng.integers(2)))) for _ in range(2)]
    fault = int(rng.integers(2))
    middle = f"{one(('lay', 'stayed', 'remained'), rng)} {one(PLACES, rng)}"

    def phrase(i: int, wrong: bool) -> str:
        which = (("this", "these"), ("that", "those"))[near[i]][bool(plural[i]) != wrong]
        return f"{which} {looks[i]} {noun(things[i], bool(plural[i]))}"

    return judged(
        sentence(phrase(0, False), middle, phrase(1, False)), sentence(phrase(0, fault == 0), middle, phrase(1, fault == 1))
    )


def polarity_items(words: Lexicon, rng: np.random.Generator) -> Drawn:
    """Return a minimal pair: "ever" or "any" is in reach of a negative word (0), or that word hides in a relative clause (1)."""
    who, whom, third = pick(words.people, rng, 3)
    inner, act = pick(words.transitive, rng, 2)
    if rng.integers(2):
        end = (f"ever {pick(words.intransitive, rng)[0][2]}", f"{act[2]} any {third}")[int(rng.integers(2))]
        return judged(
            sentence(f"no {who} who {inner[2]} the {whom} {end}"), sentence(f"the {who} who {inner[2]} no {whom} {end}")
        )
    return judged(
        sentence(f"the {who} who {inner[2]} the {whom} never {act[2]} any {third}"),
        sentence(f"the {who} who never {inner[2]} the {whom} {act[2]} any {third}"),
    )


AUXILIARIES = (("has", 2), ("had", 2), ("will", 0), ("must", 0))  # with the form of the verb that follows


def auxiliaries(words: Lexicon, rng: np.random.Generator) -> Drawn:
    """Return a minimal pair: the main verb has the form that its auxiliary asks for (0) or the other one (1)."""
    who, whom = pick(words.people, rng, 2)
    act, other = pick(words.transitive, rng)[0], pick(words.intransitive, rng)[0]
    (first, form), (second, asked) = one(AUXILIARIES, rng), one(AUXILIARIES, rng)
    between = [one(("", "not", "never", "often"), rng) for _ in range(2)]
    start = (f"the {who} who {first}", between[0], other[form], second, between[1])
    return judged(*(sentence(*start, act[f], f"the {whom}") for f in (asked, 2 - asked)))


TIMES = (("yesterday", "last week", "last year"), ("tomorrow", "next week", "next year"))


def adverbials(words: Lexicon, rng: np.random.Generator) -> Drawn:
    """Return a minimal pair: the main verb is in the time that an adverbial says (0) or clashes with it (1)."""
    who, whom = pick(words.people, rng, 2)
    act, other = pick(words.transitive, rng)[0], pick(words.intransitive, rng)[0]
    time, inner, first = (int(n) for n in rng.integers(2, size=3))
    when = one(TIMES[time], rng)

    def said(time: int) -> str:
        clause = (other[2], f"will {other[0]}")[inner]
        verb = (act[2], f"will {act[0]}")[time]
        return sentence(when * first, f"the {who} who {clause} {verb} the {whom}", when * (1 - first))

    return judged(said(time), said(1 - time))


CORRELATIVES = (("either", "or"), ("neither", "nor"), ("both", "and"))


def correlatives(words: Lexicon, rng: np.random.Generator) -> Drawn:
    """Return a minimal pair: "or" follows either, "nor" neither, "and" both (0), or two of them are exchanged (1)."""
    a, b, c, d = pick(words.people, rng, 4)
    (one_, or_), (two, and_) = pick(CORRELATIVES, rng, 2)
    verb = pick(words.transitive, rng)[0][2]
    return judged(
        sentence(f"{one_} the {a} {or_} the {b} {verb} {two} the {c} {and_} the {d}"),
        sentence(f"{one_} the {a} {and_} the {b} {verb} {two} the {c} {or_} the {d}"),
    )


ASKING = (("has", 2), ("will", 0), ("must", 0), ("can", 0))


def inversion(words: Lexicon, rng: np.random.Generator) -> Drawn:
    """Return a minimal pair: a question opens with the auxiliary of its main clause (0) or of its relative clause (1)."""
    who, whom = pick(words.people, rng, 2)
    act, other = pick(words.transitive, rng)[0], pick(words.intransitive, rng)[0]
    (main, asked), (inner, form) = pick(ASKING, rng, 2)
    right = sentence(main, f"the {who} who {inner} {other[form]} {act[asked]} the {whom}")
    wrong = sentence(inner, f"the {who} who {other[form]} {main} {act[asked]} the {whom}")
    return judged(right[:-1] + "?", wrong[:-1] + "?")


CASES = (("he", "him"), ("she", "her"), ("they", "them"), ("we", "us"))


def pronoun_case(words: Lexicon, rng: np.random.Generator) -> Drawn:
    """Return a minimal pair: the pronouns have the case of a subject and of an object (0), or exchange it (1)."""
    who = pick(words.people, rng)[0]
    act, other = pick(words.transitive, rng, 2)
    end = pick(words.intransitive, rng)[0][2]
    (he, him), (they, them) = one(CASES, rng), one(CASES, rng)
    asked = bool(rng.integers(2))

    def said(subject: str, whom: str) -> str:
        if asked:
            return sentence(f"{subject} {act[2]} the {who} who {other[2]} {whom}")
        return sentence(f"the {who} who {act[2]} {whom} believed that {subject} {end}")

    return judged(said(he, them), said(him, they))


NOTICED = ("saw", "liked", "noticed", "remembered", "mentioned", "found")


def relative_pronouns(words: Lexicon, rng: np.random.Generator) -> Drawn:
    """Return a minimal pair: "who" follows a person and "which" a thing (0), or the two are exchanged (1)."""
    (who, first, second), thing = pick(words.people, rng, 3), pick(words.things, rng)[0]
    a, b = pick(NOTICED, rng, 2)
    if rng.integers(2):
        said = f"the {who} {{}} the {first} {a} {one(('kept', 'sold', 'wanted'), rng)} the {thing} {{}} the {second} {b}"
        return judged(sentence(said.format("who", "which")), sentence(said.format("which", "who")))
    said = f"the {thing} {{}} the {first} {a} {one(('belonged to', 'amused', 'surprised'), rng)} the {who} {{}} the {second} {b}"
    return judged(sentence(said.format("which", "who")), sentence(said.format("who", "which")))


def coordination(words: Lexicon, rng: np.random.Generator) -> Drawn:
    """Return a minimal pair: the verb is plural after "and" and singular after "or" (0), or not (1)."""
    a, b = pick(words.people, rng, 2)
    first, second = pick(words.adjectives, rng, 2)
    plural, other = bool(rng.integers(2)), int(rng.integers(2))
    start, form = f"the {a} {('or', 'and')[plural]} the {b}", one(FORMS, rng)
    end = f"{first} {('or', 'and')[other]} {second}"
    return judged(sentence(start, form[plural], end), sentence(start, form[not plural], end))


PORTIONS = (("each", "one", "every one"), ("both", "several", "many"))  # singular, plural


def partitives(words: Lexicon, rng: np.random.Generator) -> Drawn:
    """Return a minimal pair: the verb agrees with the "one" or the "many" of many things (0) or not (1)."""
    plural = bool(rng.integers(2))
    thing, other = pick(words.things, rng, 2)
    form, look = one(FORMS, rng), pick(words.looks, rng)[0]
    start = f"{one(PORTIONS[plural], rng)} of the {noun(thing, True)} {one(PLACES, rng)} the {noun(other, bool(rng.integers(2)))}"
    return judged(sentence(start, form[plural], look), sentence(start, form[not plural], look))


def gaps(words: Lexicon, rng: np.random.Generator) -> Drawn:
    """Return a minimal pair: the clause after "who" lacks an object and the one after "that" has one (0), or not (1)."""
    whom, who, other = pick(words.people, rng, 3)
    act = pick(tuple(verb for verb in words.transitive if verb[0] not in OBJECTLESS), rng)[0][2]
    start = f"the {whom} {one(('knew', 'said', 'explained', 'remembered'), rng)}"
    gap = bool(rng.integers(2))
    look, end = pick(words.adjectives, rng)[0], act if gap else f"{act} the {other}"
    return judged(*(sentence(start, link, f"the {look} {who}", end) for link in (("who", "that") if gap else ("that", "who"))))
