"""Generated grammar tasks: the label of every sentence is known by construction.

Train and dev draw their nouns, verbs, adjectives and adverbs from one half of the lexicon, every test set
from the other half, so that a tuned model has to carry the structure over to words it was not tuned on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from tuning.tasks.prose import listed
from tuning.tasks.task import SIZES, Split, Task, make_task

MISSES = 1000  # repeated draws in a row after which a grammar counts as used up

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
    """The words of one half: people, things, verbs (base, third person, past), adjectives, looks, adverbs."""

    people: tuple[str, ...]
    things: tuple[str, ...]
    intransitive: tuple[tuple[str, ...], ...]
    transitive: tuple[tuple[str, ...], ...]
    adjectives: tuple[str, ...]
    looks: tuple[str, ...]
    adverbs: tuple[str, ...]


def lexicon(half: int) -> Lexicon:
    """Return the even (0: train, dev) or the odd (1: test) half of every list of content words."""
    lists = (PEOPLE, THINGS, INTRANSITIVE, TRANSITIVE, ADJECTIVES, LOOKS, ADVERBS)
    return Lexicon(*(tuple(words[half::2]) for words in lists))


Draw = Callable[[Lexicon, np.random.Generator], list[tuple[str, str | None, int]]]


def pick(words: tuple, rng: np.random.Generator, count: int = 1) -> list:
    """Return ``count`` different entries of a list."""
    return [words[i] for i in rng.choice(len(words), size=count, replace=False)]


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


def agreement(words: Lexicon, rng: np.random.Generator, mismatch: bool | None) -> list[tuple[str, str | None, int]]:
    """Return a minimal pair: the verb agrees with its subject (0) or not (1)."""
    plural = bool(rng.integers(2))
    subject = noun_phrase(words, rng, plural, mismatch)
    forms = [("is", "are"), ("was", "were"), ("looks", "look"), ("seems", "seem")][int(rng.integers(4))]
    look = pick(words.looks, rng)[0]
    return [
        (sentence(subject, forms[plural], look), None, 0),
        (sentence(subject, forms[not plural], look), None, 1),
    ]


def agreement_mixed(words: Lexicon, rng: np.random.Generator) -> list[tuple[str, str | None, int]]:
    """Return an agreement pair without attractor, with a matching or with a misleading one, equally often."""
    return agreement(words, rng, (None, False, True)[int(rng.integers(3))])


def agreement_attractor(words: Lexicon, rng: np.random.Generator) -> list[tuple[str, str | None, int]]:
    """Return an agreement pair whose attractor has the other number."""
    return agreement(words, rng, True)


def subject_number(words: Lexicon, rng: np.random.Generator) -> list[tuple[str, str | None, int]]:
    """Return a sentence with a singular (0) and one with a plural subject (1); the verb does not show it."""
    look = pick(words.looks, rng)[0]
    verb = ("became", "remained", "stayed", "looked", "appeared")[int(rng.integers(5))]
    mismatch = bool(rng.integers(2))
    return [(sentence(noun_phrase(words, rng, bool(n), mismatch), verb, look), None, n) for n in (0, 1)]


def negation(words: Lexicon, rng: np.random.Generator) -> list[tuple[str, str | None, int]]:
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


def quantifiers(words: Lexicon, rng: np.random.Generator) -> list[tuple[str, str | None, int]]:
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


def roles(words: Lexicon, rng: np.random.Generator) -> list[tuple[str, str | None, int]]:
    """Return an active sentence with its passive (0) and with the passive of the exchanged roles (1)."""
    verb = pick(words.transitive, rng)[0][2]
    (a, b), (c, d) = (pick(words.people, rng, 2) for _ in range(2))
    return [
        (sentence(f"the {a} {verb} the {b}"), sentence(f"the {b} was {verb} by the {a}"), 0),
        (sentence(f"the {c} {verb} the {d}"), sentence(f"the {c} was {verb} by the {d}"), 1),
    ]


def tense(words: Lexicon, rng: np.random.Generator) -> list[tuple[str, str | None, int]]:
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


TASKS: dict[str, tuple[tuple[str, ...], Draw]] = {
    "agreement": (("agrees", "disagrees"), agreement_mixed),
    "subject-number": (("singular", "plural"), subject_number),
    "negation": (("affirms", "denies"), negation),
    "quantifiers": (("entails", "open", "contradicts"), quantifiers),
    "roles": (("same", "exchanged"), roles),
    "tense": (("past", "present", "future"), tense),
}


def fill(draw: Draw, words: Lexicon, n: int, seen: set, seed: list[int], order: np.random.Generator) -> Split:
    """Return about ``n`` new examples (a whole number of drawn groups), shuffled; ``seen`` grows.

    Raises ValueError when the grammar has no ``n`` different sentences.
    """
    rng = np.random.default_rng(seed)
    rows: list[tuple[str, str | None, int]] = []
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
    order = np.random.default_rng([seed, 5])
    seen: set = set()
    splits = {}
    for number, (key, n) in enumerate(wanted.items()):
        half = int(key not in ("train", "dev"))
        chosen = agreement_attractor if key == "test_attractor" else draw
        splits[key] = fill(chosen, lexicon(half), n, seen, [seed, 6, number], order)
    return make_task(name, "grammar", classes, splits, "generated: words and rules are in tuning/tasks/grammar.py")


def names() -> tuple[str, ...]:
    """Return the names of the generated grammar tasks."""
    return tuple(TASKS)
