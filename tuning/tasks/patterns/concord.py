"""Right and wrong sentences about forms that must match: verbs and subjects, pronouns and antecedents, nouns and quantifiers."""

from __future__ import annotations

from tuning.tasks.patterns.templates import contrast, crossed, halved, table
from tuning.tasks.words import Draw

BE = table("is,are", "was,were")  # singular, plural
KIN = halved(  # a man, a woman
    *("king,queen", "uncle,aunt", "boy,girl", "nephew,niece", "grandfather,grandmother", "prince,princess", "duke,duchess"),
    *("monk,nun", "brother,sister", "husband,wife", "father,mother", "son,daughter", "gentleman,lady", "grandson,granddaughter"),
)

TASKS: dict[str, Draw] = {
    "anaphor-gender": contrast(
        ("the {m[0]} near the {f[1]} {act[2]} himself", "the {m[0]} near the {f[1]} {act[2]} herself"),
        ("the {f[1]} near the {m[0]} {act[2]} herself", "the {f[1]} near the {m[0]} {act[2]} himself"),
        (
            "the {m[0]} who {go[2]} behind the {f[1]} {act[2]} himself",
            "the {m[0]} who {go[2]} behind the {f[1]} {act[2]} herself",
        ),
        (
            "the {f[1]} who {go[2]} behind the {m[0]} {act[2]} herself",
            "the {f[1]} who {go[2]} behind the {m[0]} {act[2]} himself",
        ),
        m=KIN,
        f=KIN,
    ),
    "binding-domain": contrast(
        ("the {a} {said} that the {b}s {act[2]} themselves", "the {a}s {said} that the {b} {act[2]} themselves"),
        ("the {a}s {said} that the {b} {act[2]} {himself}", "the {a} {said} that the {b}s {act[2]} {himself}"),
        said=("said", "thought", "believed", "knew", "claimed"),
        himself=("himself", "herself"),
    ),
    "reciprocals": contrast(
        ("the {a}s near the {b} {act[2]} each other", "the {a} near the {b}s {act[2]} each other"),
        ("the {a}s who {deed[2]} the {b} {act[2]} each other", "the {a} who {deed[2]} the {b}s {act[2]} each other"),
        ("the {a} who {go[2]} and the {b} {act[2]} each other", "the {a} who {go[2]} or the {b} {act[2]} each other"),
        ("the {a} who {go[2]} or the {b} {act[2]} the {c}", "the {a} who {go[2]} or the {b} {act[2]} each other"),
    ),
    "relative-agreement": contrast(
        ("the {a} who often {go[1]} {act[2]} the {b}s", "the {a} who often {go[0]} {act[2]} the {b}s"),
        ("the {a}s who often {go[0]} {act[2]} the {b}", "the {a}s who often {go[1]} {act[2]} the {b}"),
        ("the {b} {act[2]} the {a}s who often {go[0]}", "the {b} {act[2]} the {a}s who often {go[1]}"),
        ("the {b}s {act[2]} the {a} who often {go[1]}", "the {b}s {act[2]} the {a} who often {go[0]}"),
    ),
    "question-agreement": contrast(
        *crossed(("{be[0]}", "{x}"), ("{be[1]}", "{x}s"), "why {p} the {q} {near} the {y} {look}?"),
        *crossed(("{be[0]}", "{x}"), ("{be[1]}", "{x}s"), "why {p} the {q} {near} the {y}s {look}?"),
        be=BE,
        near=("near", "behind", "beside", "under"),
    ),
    "existential-agreement": contrast(
        *crossed(("{be[0]}", "a(n) {look} {x}"), ("{be[1]}", "{some} {look} {x}s"), "there {p} {q} {near} the {y}"),
        *crossed(("{be[0]}", "a(n) {look} {x}"), ("{be[1]}", "{some} {look} {x}s"), "there {p} {q} {near} the {y}s"),
        be=BE,
        some=("two", "three", "several", "many"),
        near=("near", "behind", "beside", "under"),
    ),
    "existential-definiteness": contrast(
        ("there was a(n) {x} {near} the {look} {y}", "there was the {x} {near} a(n) {look} {y}"),
        ("there was a(n) {a} {near} the {kind} {b}", "there was the {a} {near} a(n) {kind} {b}"),
        ("there was no {x} {near} every {y}", "there was every {x} {near} no {y}"),
        near=("near", "behind", "beside", "opposite"),
    ),
    "person-agreement": contrast(
        ("{she} {always} {go[1]} {when} {they} {rest[0]}", "{she} {always} {go[0]} {when} {they} {rest[0]}"),
        ("{they} {always} {go[0]} {when} {she} {rest[1]}", "{they} {always} {go[1]} {when} {she} {rest[1]}"),
        ("{she} {always} {act[1]} the {a}s", "{she} {always} {act[0]} the {a}s"),
        ("{they} {always} {act[0]} the {a}", "{they} {always} {act[1]} the {a}"),
        she=("she", "he"),
        they=("they", "we", "I", "you"),
        always=("always", "often", "sometimes", "never"),
        when=("when", "because", "if"),
    ),
    "quantifier-number": contrast(
        *crossed(("{each}", "{x}"), ("{several}", "{x}s"), "the {a} saw {p} {look} {q} near the {y}"),
        *crossed(("{each}", "{x}"), ("{several}", "{x}s"), "the {a}s saw {p} {look} {q} near the {y}s"),
        each=("each", "every", "another", "one"),
        several=("several", "many", "both", "a few"),
    ),
    "possessive-forms": contrast(
        ("the {look} {x} near the {y} was {my[1]}", "the {look} {x} near the {y} was {my[0]}"),
        ("{my[0]} {x} was near the {look} {y}", "{my[1]} {x} was near the {look} {y}"),
        ("the {a} found {my[0]} {look} {x}", "the {a} found {my[1]} {look} {x}"),
        my=table("my,mine", "your,yours", "her,hers", "our,ours", "their,theirs"),
    ),
    "ellipsis-auxiliaries": contrast(
        *crossed(("was {kind}", "was"), ("{go[2]}", "did"), "the {a} who {rest[2]} {p}, and the {b} {q} too"),
        *crossed(("was {kind}", "was"), ("{go[2]}", "did"), "the {a} who was {mood} {p}, and so {q} the {b}"),
    ),
    "coordinate-case": contrast(
        ("the {a} and {i[0]} {act[2]} the {b}", "the {a} and {i[1]} {act[2]} the {b}"),
        ("the {b} {act[2]} the {a} and {i[1]}", "the {b} {act[2]} the {a} and {i[0]}"),
        ("the {b} {go[2]} between the {a} and {i[1]}", "the {b} {go[2]} between the {a} and {i[0]}"),
        ("the {a} and {i[0]} {go[2]}", "the {a} and {i[1]} {go[2]}"),
        i=table("I,me", "he,him", "she,her", "we,us", "they,them"),
    ),
}
