"""Relations of two sentences: the second says the same, follows, stays open or is excluded."""

from __future__ import annotations

import numpy as np

from tuning.tasks.patterns.templates import contrast, halved, table, written
from tuning.tasks.words import Draw, Drawn, Lexicon, one, pick

SAME = ("same", "exchanged")
FOLLOWS = ("follows", "open")
INFERENCE = ("entails", "open", "contradicts")
KINDS = halved(  # a thing, its kind
    *("robin,bird", "salmon,fish", "sparrow,bird", "trout,fish", "oak,tree", "ant,insect", "willow,tree", "beetle,insect"),
    *("rose,flower", "carrot,vegetable", "tulip,flower", "onion,vegetable", "violin,instrument", "spaniel,dog"),
    *("flute,instrument", "poodle,dog", "cobra,snake", "van,vehicle", "viper,snake", "lorry,vehicle"),
)
SENSES = halved(  # a word, one that means about the same, its opposite
    *("large,big,small", "tiny,little,huge", "damp,moist,dry", "shut,closed,open", "strange,odd,normal", "genuine,real,fake"),
    *("permanent,lasting,temporary", "transparent,clear,opaque", "hidden,concealed,visible", "useless,worthless,valuable"),
    *("sturdy,robust,flimsy", "stationary,still,moving", "rare,uncommon,common", "whole,intact,damaged", "safe,secure,dangerous"),
    *("beautiful,pretty,hideous",),
)
CONVERSES = halved(  # of each other
    *("father,child", "employer,employee", "parent,daughter", "landlord,tenant", "husband,wife", "creditor,debtor"),
    *("tutor,pupil", "host,guest", "uncle,nephew", "grandfather,grandchild", "predecessor,successor", "ancestor,descendant"),
    *("leader,follower", "boss,subordinate"),
)


def kinds(words: Lexicon, rng: np.random.Generator) -> Drawn:
    """Return three pairs: a thing is of its kind (0), a kind may be this thing (1), or it is of no other kind (2)."""
    thing, kind = one(KINDS(words), rng)
    other = one(tuple(row[1] for row in KINDS(words) if row[1] != kind), rng)
    (who, whom), mood = pick(words.people, rng, 2), one(words.adjectives, rng)
    return [
        (
            written(f"the {mood} {who} near the {whom} has exactly one thing, a(n) {first}", {}),
            written(f"the {who} near the {whom} has a(n) {second}", {}),
            label,
        )
        for label, (first, second) in enumerate(((thing, kind), (kind, thing), (thing, other)))
    ]


def members(words: Lexicon, rng: np.random.Generator) -> Drawn:
    """Return two pairs: somebody is in a list of three (0) or not (1)."""
    (*names, absent), act = pick(words.people, rng, 4), one(words.intransitive, rng)
    said = "the {}, the {} and the {} ".format(*names) + act[2]
    asked = (one(tuple(names), rng), absent)
    return [(written(said, {}), written(f"the {who} was one of them", {}), label) for label, who in enumerate(asked)]


TASKS: dict[str, tuple[tuple[str, ...], Draw]] = {
    "dative-paraphrase": (
        SAME,
        contrast(
            (
                "the {a} {gave} the {b} a(n) {x} | the {a} {gave} a(n) {x} to the {b}",
                "the {a} {gave} the {b} a(n) {x} | the {b} {gave} a(n) {x} to the {a}",
            ),
            (
                "the {a} {gave} a(n) {x} to the {b} | the {a} {gave} the {b} a(n) {x}",
                "the {a} {gave} a(n) {x} to the {b} | the {b} {gave} the {a} a(n) {x}",
            ),
            gave=("gave", "handed", "sent", "lent", "sold", "offered"),
        ),
    ),
    "cleft-paraphrase": (
        SAME,
        contrast(
            (
                "it was the {a} who {act[2]} the {b} | the {a} {act[2]} the {b}",
                "it was the {a} who {act[2]} the {b} | the {b} {act[2]} the {a}",
            ),
            (
                "it was the {b} whom the {a} {act[2]} | the {a} {act[2]} the {b}",
                "it was the {b} whom the {a} {act[2]} | the {b} {act[2]} the {a}",
            ),
        ),
    ),
    "temporal-paraphrase": (
        SAME,
        contrast(
            (
                "the {a} {go[2]} before the {b} {rest[2]} | the {b} {rest[2]} after the {a} {go[2]}",
                "the {a} {go[2]} before the {b} {rest[2]} | the {a} {go[2]} after the {b} {rest[2]}",
            ),
            (
                "the {a} {go[2]} after the {b} {rest[2]} | before the {a} {go[2]}, the {b} {rest[2]}",
                "the {a} {go[2]} after the {b} {rest[2]} | before the {b} {rest[2]}, the {a} {go[2]}",
            ),
            (
                "before the {a} {go[2]}, the {b} {rest[2]} | the {a} {go[2]} after the {b} {rest[2]}",
                "before the {a} {go[2]}, the {b} {rest[2]} | the {b} {rest[2]} after the {a} {go[2]}",
            ),
        ),
    ),
    "comparison-paraphrase": (
        SAME,
        contrast(
            (
                "the {a} is {more[0]} than the {b} | the {b} is {more[1]} than the {a}",
                "the {a} is {more[0]} than the {b} | the {a} is {more[1]} than the {b}",
            ),
            (
                "the {a} is {more[1]} than the {b} | the {b} is {more[0]} than the {a}",
                "the {a} is {more[1]} than the {b} | the {a} is {more[0]} than the {b}",
            ),
            (
                "the {x} is less {look} than the {y} | the {x} is not as {look} as the {y}",
                "the {x} is less {look} than the {y} | the {y} is not as {look} as the {x}",
            ),
            (
                "the {x} is not as {look} as the {y} | the {x} is less {look} than the {y}",
                "the {x} is not as {look} as the {y} | the {y} is less {look} than the {x}",
            ),
            more=table("taller,shorter", "older,younger", "richer,poorer", "stronger,weaker", "faster,slower", "heavier,lighter"),
        ),
    ),
    "converses": (
        SAME,
        contrast(
            (
                "the {a} is the {r[0]} of the {b} | the {b} is the {r[1]} of the {a}",
                "the {a} is the {r[0]} of the {b} | the {a} is the {r[1]} of the {b}",
            ),
            (
                "the {a} is the {r[1]} of the {b} | the {b} is the {r[0]} of the {a}",
                "the {a} is the {r[1]} of the {b} | the {a} is the {r[0]} of the {b}",
            ),
            r=CONVERSES,
        ),
    ),
    "synonyms-and-antonyms": (
        ("same", "opposite"),
        contrast(
            (
                "the {x} of the {a} was {s[0]} | the {a}'s {x} was {s[1]}",
                "the {x} of the {a} was {s[0]} | the {a}'s {x} was {s[2]}",
            ),
            (
                "the {x} near the {y} was {s[1]} | near the {y}, the {x} was {s[0]}",
                "the {x} near the {y} was {s[2]} | near the {y}, the {x} was {s[0]}",
            ),
            s=SENSES,
        ),
    ),
    "hypernyms": (INFERENCE, kinds),
    "coordination-inference": (
        INFERENCE,
        contrast(
            (
                "the {a} and the {b} {go[2]} | the {b} {go[2]}",
                "the {a} or the {b} {go[2]} | the {b} {go[2]}",
                "neither the {a} nor the {b} {go[2]} | the {b} {go[2]}",
            ),
            (
                "neither the {a} nor the {b} {go[2]} | the {a} did not {go[0]}",
                "the {a} or the {b} {go[2]} | the {a} did not {go[0]}",
                "the {a} and the {b} {go[2]} | the {a} did not {go[0]}",
            ),
            (
                "the {a} {go[2]} | the {a} or the {b} {go[2]}",
                "the {a} or the {b} {go[2]} | the {a} and the {b} {go[2]}",
                "neither the {a} nor the {b} {go[2]} | the {a} or the {b} {go[2]}",
            ),
            (
                "the {a} and the {b} {go[2]} | the {a} or the {b} {go[2]}",
                "the {a} {go[2]} | the {a} and the {b} {go[2]}",
                "the {a} or the {b} {go[2]} | neither the {a} nor the {b} {go[2]}",
            ),
        ),
    ),
    "relative-inference": (
        FOLLOWS,
        contrast(
            ("the {a} who {go[2]} {act[2]} the {b} | the {a} {go[2]}", "the {a} who {go[2]} {act[2]} the {b} | the {b} {go[2]}"),
            ("the {a} {act[2]} the {b} who {go[2]} | the {b} {go[2]}", "the {a} {act[2]} the {b} who {go[2]} | the {a} {go[2]}"),
            (
                "the {a} whom the {b} {act[2]} {go[2]} | the {a} {go[2]}",
                "the {a} whom the {b} {act[2]} {go[2]} | the {b} {go[2]}",
            ),
        ),
    ),
    "conditional-inference": (
        FOLLOWS,
        contrast(
            (
                "if the {a} {go[2]}, the {b} {rest[2]}, and the {a} {go[2]} | the {b} {rest[2]}",
                "if the {a} {go[2]}, the {b} {rest[2]}, and the {b} {rest[2]} | the {a} {go[2]}",
            ),
            (
                "if the {a} {go[2]}, the {b} {rest[2]}, and the {b} did not {rest[0]} | the {a} did not {go[0]}",
                "if the {a} {go[2]}, the {b} {rest[2]}, and the {a} did not {go[0]} | the {b} did not {rest[0]}",
            ),
        ),
    ),
    "disjunctive-syllogism": (
        ("entails", "contradicts"),
        contrast(
            (
                "the {a} or the {b} {go[2]}, but the {a} did not | the {b} {go[2]}",
                "the {a} or the {b} {go[2]}, but the {b} did not | the {b} {go[2]}",
            ),
            (
                "the {a} or the {b} {go[2]}, but the {b} did not | the {a} {go[2]}",
                "the {a} or the {b} {go[2]}, but the {a} did not | the {a} {go[2]}",
            ),
        ),
    ),
    "transitive-comparison": (
        ("entails", "contradicts"),
        contrast(
            *(
                (
                    f"the {{a}} is {p} than the {{b}}, and the {{b}} is {p} than the {{c}} | the {{a}} is {p} than the {{c}}",
                    f"the {{a}} is {p} than the {{b}}, and the {{b}} is {p} than the {{c}} | the {{c}} is {p} than the {{a}}",
                )
                for p in ("older", "richer", "taller")
            ),
            *(
                (
                    f"the {{b}} is {p} than the {{c}}, and the {{a}} is {p} than the {{b}} | the {{a}} is {p} than the {{c}}",
                    f"the {{b}} is {p} than the {{c}}, and the {{a}} is {p} than the {{b}} | the {{c}} is {p} than the {{a}}",
                )
                for p in ("older", "richer", "taller")
            ),
        ),
    ),
    "spatial-inference": (
        ("entails", "contradicts"),
        contrast(
            *(
                (
                    f"the {{look}} {{x}} is {p} the {{y}} | the {{y}} is {q} the {{x}}",
                    f"the {{look}} {{x}} is {p} the {{y}} | the {{y}} is {p} the {{x}}",
                )
                for p, q in (
                    ("above", "below"),
                    ("below", "above"),
                    ("left of", "right of"),
                    ("right of", "left of"),
                    ("in front of", "behind"),
                    ("behind", "in front of"),
                )
            ),
        ),
    ),
    "question-answer": (
        ("answers", "does not answer"),
        contrast(
            ("who {act[2]} the {b}? | the {a} {act[2]} the {b}", "who {act[2]} the {a}? | the {a} {act[2]} the {b}"),
            ("who did the {a} {act[0]}? | the {a} {act[2]} the {b}", "who did the {b} {act[0]}? | the {a} {act[2]} the {b}"),
            (
                "by whom was the {b} {act[2]}? | the {a} {act[2]} the {b}",
                "by whom was the {a} {act[2]}? | the {a} {act[2]} the {b}",
            ),
        ),
    ),
    "list-membership": (("named", "not named"), members),
}
