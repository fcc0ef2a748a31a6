"""Right and wrong sentences about questions, gaps and the clauses they cannot leave.

The islands are those of Ross (1967), *Constraints on variables in syntax*; most right and wrong sentences here are the same
words in another order.
"""

from __future__ import annotations

from tuning.tasks.patterns.templates import contrast, crossed, table
from tuning.tasks.words import Draw

SAYING = ("say", "think", "believe", "claim", "suppose", "know")

TASKS: dict[str, Draw] = {
    "that-trace": contrast(
        ("who did the {a} {say} that the {b} {act[2]}?", "who did the {a} {say} that {act[2]} the {b}?"),
        ("which {c} did the {a} {say} that the {b} {act[2]}?", "which {c} did the {a} {say} that {act[2]} the {b}?"),
        say=SAYING,
        strict=True,
    ),
    "wh-islands": contrast(
        (
            "which {c} had the {a} who asked {why} the {b} {go[2]} {act[2]}?",
            "which {c} had the {a} who {go[2]} asked {why} the {b} {act[2]}?",
        ),
        (
            "who had the {a} who wondered {why} the {b} {go[2]} {act[2]}?",
            "who had the {a} who {go[2]} wondered {why} the {b} {act[2]}?",
        ),
        why=("whether", "why", "when", "where", "how"),
        strict=True,
    ),
    "complex-np-islands": contrast(
        ("which {c} did the {a} who {act[2]} the {b} {deed[0]}?", "which {c} did the {a} {deed[0]} the {b} who {act[2]}?"),
        strict=True,
    ),
    "adjunct-islands": contrast(
        ("who did the {a} {act[0]} {link} {deed[3]} the {b}?", "who did the {a} {act[0]} the {b} {link} {deed[3]}?"),
        ("which {c} did the {a} {act[0]} {link} {deed[3]} the {b}?", "which {c} did the {a} {act[0]} the {b} {link} {deed[3]}?"),
        link=("before", "after", "without", "while"),
        strict=True,
    ),
    "coordinate-islands": contrast(
        ("who did the {a} and the {b} {act[0]}?", "who did the {a} {act[0]} and the {b}?"),
        ("who did the {a} {act[0]} and the {b} {deed[0]}?", "who did the {a} {act[0]} the {b} and {deed[0]}?"),
        strict=True,
    ),
    "embedded-questions": contrast(
        ("the {a} {asked} {where} the {b} {had} {go[2]}", "the {a} {asked} {where} {had} the {b} {go[2]}"),
        ("{where} {had} the {a} who {rest[2]} {go[2]}?", "{where} the {a} who {rest[2]} {had} {go[2]}?"),
        asked=("asked", "wondered", "knew", "forgot", "remembered", "explained"),
        where=("where", "when", "why", "how"),
        had=("has", "had"),
    ),
    "negative-inversion": contrast(
        ("{never} has the {a} {act[2]} the {b}", "{never} the {a} has {act[2]} the {b}"),
        ("{lately} the {a} has {act[2]} the {b}", "{lately} has the {a} {act[2]} the {b}"),
        never=("never", "rarely", "seldom", "at no time", "not once"),
        lately=("perhaps", "meanwhile", "fortunately", "of course", "so far"),
    ),
    "tough-adjectives": contrast(
        ("the {a} was {easy} to {act[0]}", "the {a} was {easy} to {act[0]} the {b}"),
        ("the {a} was {eager} to {act[0]} the {b}", "the {a} was {eager} to {act[0]}"),
        easy=("easy", "hard", "difficult", "impossible", "simple"),
        eager=("eager", "willing", "keen", "unwilling", "determined"),
        strict=True,
    ),
    "raising": contrast(
        ("it {seemed} that the {a} had {act[2]} the {b}", "it {claimed} that the {a} had {act[2]} the {b}"),
        ("the {c} {claimed} that the {a} had {act[2]} the {b}", "the {c} {seemed} that the {a} had {act[2]} the {b}"),
        seemed=("seemed", "appeared", "turned out", "happened"),
        claimed=("claimed", "believed", "said", "knew", "thought"),
    ),
    "resumptive-pronouns": contrast(
        ("the {a} who the {b} {act[2]} had {go[2]}", "the {a} who the {b} {act[2]} {him} had {go[2]}"),
        ("the {a} said that the {b} {act[2]} {him}", "the {a} said that the {b} {act[2]}"),
        him=("him", "her", "them"),
        strict=True,
    ),
    "preposition-doubling": contrast(
        ("the {x} {on[1]} which the {a} {on[0]} was {look}", "the {x} {on[1]} which the {a} {on[0]} {on[1]} was {look}"),
        ("the {x} which the {a} {on[0]} {on[1]} was {look}", "the {x} which the {a} {on[0]} was {look}"),
        on=table("sat,on", "stood,behind", "leaned,against", "slept,beside", "pointed,at", "knelt,near", "relied,on"),
    ),
    "who-or-whom": contrast(
        ("the {a} who {act[2]} the {b} {had} {go[2]}", "the {a} whom {act[2]} the {b} {had} {go[2]}"),
        ("the {a} {near} whom the {b} {rest[2]} {had} {go[2]}", "the {a} {near} who the {b} {rest[2]} {had} {go[2]}"),
        near=("near", "behind", "beside", "with", "for"),
        had=("has", "had", "never"),
    ),
    "do-support": contrast(
        ("the {kind} {a} did not {act[0]} the {b}", "the {kind} {a} {act[2]} not the {b}"),
        ("the {a} {must} not {act[0]} the {b}", "the {a} did not {must} {act[0]} the {b}"),
        ("did the {a} {act[0]} the {b}?", "{act[2]} the {a} the {b}?"),
        ("{must} the {a} {act[0]} the {b}?", "did the {a} {must} {act[0]} the {b}?"),
        must=("must", "can", "will", "should"),
    ),
    "modal-stacking": contrast(
        ("the {a} who {can} {go[0]} {must} {act[0]} the {b}", "the {a} who {can} {must} {go[0]} {act[2]} the {b}"),
        ("the {a} who {go[2]} {must} {act[0]} the {b}", "the {a} who {go[2]} {must} {can} {act[0]} the {b}"),
        can=("can", "may", "will"),
        must=("must", "should", "might"),
    ),
    "conditionals": contrast(
        *crossed(
            ("has {go[2]}", "will have {act[2]}"),
            ("had {go[2]}", "would have {act[2]}"),
            "if the {a} {p}, the {b} {q} the {c}",
        ),
        *crossed(("{go[1]}", "will {act[0]}"), ("had {go[2]}", "would have {act[2]}"), "if the {a} {p}, the {b} {q} the {c}"),
    ),
}
