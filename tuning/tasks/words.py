"""The words of the generated grammar tasks, in two halves, and how a sentence is put together from them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tuning.tasks.prose import listed

PEOPLE = listed(
    "farmer baker teacher doctor lawyer sailor painter singer driver waiter soldier student nurse judge "
    "clerk guard pilot dancer poet tailor miner hunter banker actor writer priest butler porter chemist "
    "engineer gardener barber plumber carpenter visitor neighbour"
)
THINGS = listed(
    "key cabinet lamp table basket window bottle letter picture carpet mirror hammer ladder bucket "
    "blanket wagon drawer candle pillow curtain kettle ribbon button barrel needle trumpet helmet saddle "
    "anchor lantern magnet puzzle engine chimney saucer"
)
# base, third person singular, past (= participle): regular, so one form never stands for two
INTRANSITIVE = tuple(
    tuple(line.split(","))
    for line in listed(
        "laugh,laughs,laughed work,works,worked wait,waits,waited dance,dances,danced smile,smiles,smiled "
        "listen,listens,listened arrive,arrives,arrived cough,coughs,coughed travel,travels,travelled "
        "whisper,whispers,whispered stumble,stumbles,stumbled complain,complains,complained "
        "hesitate,hesitates,hesitated shout,shouts,shouted argue,argues,argued retire,retires,retired"
    )
)
TRANSITIVE = tuple(
    tuple(line.split(","))
    for line in listed(
        "thank,thanks,thanked follow,follows,followed help,helps,helped visit,visits,visited "
        "praise,praises,praised blame,blames,blamed watch,watches,watched invite,invites,invited "
        "greet,greets,greeted trust,trusts,trusted warn,warns,warned admire,admires,admired "
        "accuse,accuses,accused rescue,rescues,rescued interview,interviews,interviewed "
        "chase,chases,chased"
    )
)
ADJECTIVES = listed("tall young famous quiet tired clever nervous polite wealthy foreign cheerful stubborn elderly modest")
LOOKS = listed("old broken clean dirty heavy cheap rusty dusty lovely ugly bright fragile narrow smooth")
ADVERBS = listed("loudly quickly slowly twice gladly calmly suddenly bravely outside eagerly politely alone early late")
PLACES = listed("near behind beside under above opposite")


@dataclass(frozen=True)
class Lexicon:
    """The words of one half: people, things, verbs (base, third person, past), adjectives, looks, adverbs; which half it is."""

    people: tuple[str, ...]
    things: tuple[str, ...]
    intransitive: tuple[tuple[str, ...], ...]
    transitive: tuple[tuple[str, ...], ...]
    adjectives: tuple[str, ...]
    looks: tuple[str, ...]
    adverbs: tuple[str, ...]
    half: int

    def share(self, entries: tuple) -> tuple:
        """Return this half's entries of another list of content words."""
        return entries[self.half :: 2]


def lexicon(half: int) -> Lexicon:
    """Return the even (0: train) or the odd (1: dev and every test) half of every list of content words."""
    lists = (PEOPLE, THINGS, INTRANSITIVE, TRANSITIVE, ADJECTIVES, LOOKS, ADVERBS)
    return Lexicon(*(tuple(words[half::2]) for words in lists), half)


Drawn = list[tuple[str, str | None, int]]  # first text, second text if any, label
Draw = Callable[[Lexicon, np.random.Generator], Drawn]


def pick(words: tuple, rng: np.random.Generator, count: int = 1) -> list:
    """Return ``count`` different entries of a list."""
    return [words[i] for i in rng.choice(len(words), size=count, replace=False)]


def one(words: tuple, rng: np.random.Generator) -> Any:
    """Return one entry of a list."""
    return words[int(rng.integers(len(words)))]


def sentence(*parts: str) -> str:
    """Return the parts joined, with a capital and a full stop."""
    text = " ".join(part for part in parts if part)
    return text[0].upper() + text[1:] + "."


def noun(word: str, plural: bool) -> str:
    """Return a noun in the number asked for (every noun of the lexicon is regular)."""
    if not plural:
        return word
    return word + ("es" if word.endswith(("s", "x", "sh", "ch")) else "s")


def noun_phrase(words: Lexicon, rng: np.random.Generator, plural: bool, mismatch: bool | None) -> str:
    """Return "the keys near the cabinet": a head of known number and an attractor; mismatch None leaves it out."""
    head, other = pick(words.things, rng, 2)
    if mismatch is None:
        return f"the {noun(head, plural)}"
    place = pick(tuple(PLACES), rng)[0]
    return f"the {noun(head, plural)} {place} the {noun(other, plural != mismatch)}"
