"""Tasks as rows of sentence templates: one template for each class, and lists of words for their places.

A template names its places in braces. Every task has {a} {b} {c} people, {x} {y} things, {act} {deed} transitive and
{go} {rest} intransitive verbs (base, third person, past, -ing), {kind} {mood} adjectives of people, {look} {shade} of things;
those of one list differ. "a(n)" becomes the article that the next word asks for; "first | second" is a pair of texts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np

from tuning.tasks.words import Draw, Drawn, Lexicon, one, pick

OPTIONAL = ("help", "watch", "warn", "follow", "visit", "interview", "invite", "trust")  # may do without their object
Words = tuple | Callable[[Lexicon], tuple]  # function words, or content words of the half that is drawn from


def halved(*entries: str) -> Callable[[Lexicon], tuple]:
    """Return content words, written "form,form,...", of which train draws one half and dev and test the other."""
    rows = tuple(tuple(entry.split(",")) for entry in entries)
    return lambda words: words.share(rows)


def table(*entries: str) -> tuple[tuple[str, ...], ...]:
    """Return function words that belong together, each row written "form,form,..."."""
    return tuple(tuple(entry.split(",")) for entry in entries)


def with_ing(verb: tuple[str, ...]) -> tuple[str, ...]:
    """Return the forms of a verb (base, third person, past) with its -ing form."""
    return (*verb, verb[2].removesuffix("ed") + "ing")


def manners(words: Lexicon) -> tuple[str, ...]:
    """Return the adverbs of manner."""
    return tuple(word for word in words.adverbs if word.endswith("ly") and word != "early")


def scene(words: Lexicon, rng: np.random.Generator, strict: bool, slots: dict[str, Words]) -> dict:
    """Return a word for every place of a template; ``slots`` are the task's own, one entry of each list."""
    transitive = tuple(verb for verb in words.transitive if not (strict and verb[0] in OPTIONAL))
    a, b, c = pick(words.people, rng, 3)
    x, y = pick(words.things, rng, 2)
    act, deed = map(with_ing, pick(transitive, rng, 2))
    go, rest = map(with_ing, pick(words.intransitive, rng, 2))
    (kind, mood), (look, shade) = pick(words.adjectives, rng, 2), pick(words.looks, rng, 2)
    own = {name: one(found(words) if callable(found) else found, rng) for name, found in slots.items()}
    return {
        **{"a": a, "b": b, "c": c, "x": x, "y": y, "act": act, "deed": deed, "go": go, "rest": rest},
        **{"kind": kind, "mood": mood, "look": look, "shade": shade, **own},
    }


def written(template: str, places: dict) -> str:
    """Return a template as a sentence: filled, with its articles, a capital, and a full stop unless it asks."""
    text = " ".join(template.format(**places).split())
    text = re.sub(r"a\(n\) (?=(\w+))", lambda found: "an " if vowel(found[1]) else "a ", text)
    return text[0].upper() + text[1:] + ("" if text.endswith("?") else ".")


def vowel(word: str) -> bool:
    """Return whether a word begins with the sound of a vowel."""
    return word[0] in "aeiou" and not word.startswith(("uni", "uku", "eu")) or word.startswith(("hour", "heir", "honest"))


def labelled(template: str, places: dict, label: int) -> tuple[str, str | None, int]:
    """Return a template as an example, a pair of texts where it has a bar."""
    first, _, second = template.partition(" | ")
    return written(first, places), written(second, places) if second else None, label


def contrast(*rows: Sequence[str], fresh: bool = False, strict: bool = False, **slots: Words) -> Draw:
    """Return a draw: one of the rows, each of its templates an example of its class, all with the same words.

    ``fresh`` draws new words for each class: for readings, where no sentence is the other's fault. ``strict`` keeps to
    transitive verbs that need their object, so that a missing one is a gap or a fault.
    """

    def draw(words: Lexicon, rng: np.random.Generator) -> Drawn:
        places = scene(words, rng, strict, slots)
        return [
            labelled(template, scene(words, rng, strict, slots) if fresh and label else places, label)
            for label, template in enumerate(one(rows, rng))
        ]

    return draw


def crossed(first: tuple[str, str], second: tuple[str, str], template: str) -> tuple[tuple[str, str], tuple[str, str]]:
    """Return two rows of a template with the places {p} and {q}, filled alike in right and crosswise in wrong sentences."""
    (p, q), (r, s) = first, second

    def put(p: str, q: str) -> str:
        return template.replace("{p}", p).replace("{q}", q)

    return (put(p, q), put(p, s)), (put(r, s), put(r, q))
