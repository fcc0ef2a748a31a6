"""Right and wrong sentences about small words that must fit what stands around them: degree, time, polarity, comparison."""

from __future__ import annotations

from tuning.tasks.patterns.templates import contrast, crossed, halved
from tuning.tasks.words import Draw

SPANS = ("two days", "three weeks", "ten years", "many months", "a long time")
POINTS = ("yesterday", "last week", "last March", "last Monday", "this morning")
OLDER = halved(
    "older", "larger", "smaller", "longer", "shorter", "darker", "stronger", "thicker", "wider", "heavier", "colder", "warmer"
)

TASKS: dict[str, Draw] = {
    "since-or-for": contrast(
        *crossed(("for", "{span}"), ("since", "{point}"), "the {a} has been {kind} {p} {q}"),
        *crossed(("for", "{span}"), ("since", "{point}"), "the {x} has been {look} {p} {q}"),
        *crossed(("for", "{span}"), ("since", "{point}"), "the {a} near the {b} has been {go[3]} {p} {q}"),
        span=SPANS,
        point=POINTS,
    ),
    "until-or-by": contrast(
        *crossed(("{sleep}", "until"), ("{leave}", "by"), "the {a} near the {b} will {p} {q} {point}"),
        *crossed(("{sleep}", "until"), ("{leave}", "by"), "the {kind} {a} will {p} {q} {point}"),
        sleep=("sleep", "rest", "stay here", "keep still", "sit there"),
        leave=("leave", "return", "wake up", "come home", "reach home"),
        point=("noon", "Monday", "Christmas", "tomorrow", "midnight"),
    ),
    "so-or-such": contrast(
        *crossed(("so", "{kind}"), ("such", "{kind} people"), "the {a}s were {p} {q} that the {b} {go[2]}"),
        *crossed(("so", "{look}"), ("such", "a(n) {look} thing"), "the {x} was {p} {q} that the {b} {go[2]}"),
    ),
    "too-or-enough": contrast(
        ("the {a} was too {kind} to {act[0]} the {b}", "the {a} was {kind} too to {act[0]} the {b}"),
        ("the {a} was {kind} enough to {act[0]} the {b}", "the {a} was enough {kind} to {act[0]} the {b}"),
        ("the {x} was too {look} to please the {b}", "the {x} was {look} too to please the {b}"),
        ("the {x} was {look} enough to please the {b}", "the {x} was enough {look} to please the {b}"),
    ),
    "additive-polarity": contrast(
        *crossed(("{go[2]}", "so did"), ("never {go[2]}", "neither did"), "the {a} who {rest[2]} {p}, and {q} the {b}"),
        *crossed(("{go[2]}", "so did"), ("never {go[2]}", "neither did"), "the {a} who never {rest[2]} {p}, and {q} the {b}"),
    ),
    "negative-concord": contrast(
        *crossed(("never {act[2]}", "anyone"), ("{act[2]}", "no one"), "the {a} who {rest[2]} {p} {q}"),
        *crossed(("never found", "anything"), ("found", "nothing"), "the {a} who {rest[2]} {p} {q} near the {x}"),
    ),
    "perfect-and-past": contrast(
        *crossed(("has {go[2]}", "since {then}"), ("{go[2]}", "{ago}"), "the {a} near the {b} {p} {q}"),
        *crossed(("has {act[2]}", "since {then}"), ("{act[2]}", "{ago}"), "the {a} {p} the {b} {q}"),
        then=("Monday", "last week", "March", "Christmas"),
        ago=("two days ago", "in 1990", "a year ago", "long ago"),
    ),
    "as-or-than": contrast(
        *crossed(("as {kind}", "as"), ("less {kind}", "than"), "the {a} was {p} {q} the {b}"),
        *crossed(("{older[0]}", "than"), ("just as {look}", "as"), "the {x} was {p} {q} the {y}"),
        *crossed(("less {look}", "than"), ("as {look}", "as"), "the {x} was {p} {q} the {y}"),
        older=OLDER,
    ),
}
