"""What one sentence says: who acts, whether it happened, of whom a pronoun speaks, which clause is the cause."""

from __future__ import annotations

from tuning.tasks.patterns.concord import KIN
from tuning.tasks.patterns.templates import contrast, halved
from tuning.tasks.words import Draw

OFTEN = ("every week", "each winter", "every Monday", "three times a day", "as a rule")
ONCE = ("last week", "this winter", "last Monday", "yesterday", "just now")

TASKS: dict[str, tuple[tuple[str, ...], Draw]] = {
    "sentence-mood": (
        ("statement", "question", "command", "exclamation"),
        contrast(
            (
                *(
                    "the {a} who did not {go[0]} {act[2]} the {b} in what was a(n) {look} room",
                    "did the {a} who {go[2]} {act[0]} the {b}",
                ),
                *("{act[0]} the {a} who did not {go[0]}", "what a(n) {kind} {a} the {b} did {act[0]}"),
            ),
            (
                *("the {a} {act[2]} the {b} who asked how {kind} the {c} was", "how {kind} was the {a} who {act[2]} the {b}"),
                *("{act[0]} the {a} who asked how {kind} the {b} was", "how {kind} the {a} who {act[2]} the {b} was"),
            ),
            fresh=True,
        ),
    ),
    "subject-person": (
        ("first", "second", "third"),
        contrast(
            tuple(f"when {{p}} {{go[2]}}, {who} {{act[2]}} the {{a}}" for who in ("I", "you", "{she}")),
            tuple(f"{who} {{act[2]}} the {{a}} when {{p}} {{go[2]}}" for who in ("I", "you", "{she}")),
            tuple(f"because {{p}} {{go[2]}}, {who} {{act[2]}} the {{a}}" for who in ("I", "you", "{she}")),
            tuple(f"{who} {{act[2]}} the {{a}} after {{p}} {{go[2]}}" for who in ("I", "you", "{she}")),
            fresh=True,
            p=("I", "you", "she", "he"),
            she=("he", "she"),
        ),
    ),
    "pronoun-number": (
        ("subject", "object"),
        contrast(
            ("the {a} {act[2]} the {b}s because {he} {go[2]}", "the {a} {act[2]} the {b}s because they {go[2]}"),
            ("the {a}s {act[2]} the {b} because they {go[2]}", "the {a}s {act[2]} the {b} because {he} {go[2]}"),
            fresh=True,
            he=("he", "she"),
        ),
    ),
    "pronoun-gender": (
        ("subject", "object"),
        contrast(
            ("the {m[0]} {act[2]} the {f[1]} {when} he {go[2]}", "the {m[0]} {act[2]} the {f[1]} {when} she {go[2]}"),
            ("the {f[1]} {act[2]} the {m[0]} {when} she {go[2]}", "the {f[1]} {act[2]} the {m[0]} {when} he {go[2]}"),
            fresh=True,
            m=KIN,
            f=KIN,
            when=("because", "when", "after", "before"),
        ),
    ),
    "object-definiteness": (
        ("definite", "indefinite"),
        contrast(
            ("the {a} {act[2]} the {kind} {b}", "the {a} {act[2]} a(n) {kind} {b}"),
            ("a(n) {a} {act[2]} the {kind} {b}", "a(n) {a} {act[2]} a(n) {kind} {b}"),
            ("the {a} near a(n) {c} {act[2]} the {b}", "the {a} near the {c} {act[2]} a(n) {b}"),
            ("a(n) {a} near a(n) {c} {act[2]} the {b}", "a(n) {a} near the {c} {act[2]} a(n) {b}"),
            fresh=True,
        ),
    ),
    "habituality": (
        ("habitual", "single"),
        contrast(
            ("the {a} who {go[2]} {once} {act[2]} the {b} {often}", "the {a} who {go[2]} {often} {act[2]} the {b} {once}"),
            ("{often} the {a} who {go[2]} {once} {act[2]} the {b}", "{once} the {a} who {go[2]} {often} {act[2]} the {b}"),
            fresh=True,
            often=OFTEN,
            once=ONCE,
        ),
    ),
    "control": (
        ("subject acts", "object acts"),
        contrast(
            (
                "the {a} who {deed[2]} the {c} was {asked} by the {b} to {go[0]}",
                "the {a} who was {deed[2]} by the {c} {asked} the {b} to {go[0]}",
            ),
            (
                "the {a} who {deed[2]} the {c} was {heard} {go[3]} by the {b}",
                "the {a} who was {deed[2]} by the {c} {heard} the {b} {go[3]}",
            ),
            fresh=True,
            asked=("asked", "told", "forced", "persuaded", "allowed"),
            heard=("heard", "noticed", "found", "left"),
        ),
    ),
    "factivity": (
        ("presupposed", "left open"),
        contrast(
            ("the {a} {knew[0]} that the {b} {go[2]}", "the {a} {said[0]} that the {b} {go[2]}"),
            ("the {a} did not {knew[1]} that the {b} {go[2]}", "the {a} did not {said[1]} that the {b} {go[2]}"),
            ("did the {a} {knew[1]} that the {b} {go[2]}?", "did the {a} {said[1]} that the {b} {go[2]}?"),
            fresh=True,
            knew=halved(
                *("knew,know", "regretted,regret", "realised,realise", "forgot,forget", "noticed,notice", "discovered,discover"),
                *("remembered,remember", "resented,resent"),
            ),
            said=halved(
                *("said,say", "believed,believe", "claimed,claim", "thought,think", "hoped,hope", "suspected,suspect"),
                *("assumed,assume", "feared,fear"),
            ),
        ),
    ),
    "implicatives": (
        ("happened", "did not happen"),
        contrast(
            ("the {a} had {did} to {act[0]} the {b}", "the {a} had not {did} to {act[0]} the {b}"),
            ("the {a} had not {failed} to {act[0]} the {b}", "the {a} had {failed} to {act[0]} the {b}"),
            ("the {a} who {go[2]} had {did} to {act[0]} the {b}", "the {a} who {go[2]} had {failed} to {act[0]} the {b}"),
            ("the {a} who {go[2]} had not {failed} to {act[0]} the {b}", "the {a} who {go[2]} had not {did} to {act[0]} the {b}"),
            fresh=True,
            did=("managed", "remembered", "bothered"),
            failed=("failed", "neglected", "omitted"),
        ),
    ),
    "negation-parity": (
        ("holds", "does not hold"),
        contrast(
            ("it is {true} that the {a} {act[2]} the {b}", "it is {true} that the {a} did not {act[0]} the {b}"),
            ("it is {false} that the {a} did not {act[0]} the {b}", "it is {false} that the {a} {act[2]} the {b}"),
            ("it is not {true} that the {a} never {act[2]} the {b}", "it is not {true} that the {a} {act[2]} the {b}"),
            ("it is not {false} that the {a} {act[2]} the {b}", "it is not {false} that the {a} never {act[2]} the {b}"),
            fresh=True,
            true=("true", "right", "correct"),
            false=("false", "wrong", "incorrect"),
        ),
    ),
    "cause-first": (
        ("cause first", "effect first"),
        contrast(
            ("{as_} the {a} {act[2]} the {b}, the {c} {go[2]}", "the {a} {act[2]} the {b}, {as_} the {c} {go[2]}"),
            ("{as_} the {a} {go[2]}, the {b} {act[2]} the {c}", "the {a} {go[2]}, {as_} the {b} {act[2]} the {c}"),
            as_=("because", "since", "given that", "seeing that"),
            fresh=True,
        ),
    ),
    "counterfactuals": (
        ("happened", "did not happen"),
        contrast(
            (
                "if the {a} had not {act[2]} the {b}, the {c} would have {go[2]}",
                "if the {a} had {act[2]} the {b}, the {c} would have {go[2]}",
            ),
            (
                "because the {a} had {act[2]} the {b}, the {c} would not have {go[2]}",
                "because the {a} had not {act[2]} the {b}, the {c} would not have {go[2]}",
            ),
            ("I wish the {a} had not {act[2]} the {b}", "I wish the {a} had {act[2]} the {b}"),
            ("I regret that the {a} had {act[2]} the {b}", "I regret that the {a} had not {act[2]} the {b}"),
            fresh=True,
        ),
    ),
    "exceptives": (
        ("acted", "did not act"),
        contrast(
            ("no one {except_} the {kind} {a} {go[2]}", "everyone {except_} the {kind} {a} {go[2]}"),
            ("everyone, including the {kind} {a}, {go[2]}", "no one, including the {kind} {a}, {go[2]}"),
            ("none of us {except_} the {kind} {a} {act[2]} the {b}", "all of us {except_} the {kind} {a} {act[2]} the {b}"),
            ("all of us, including the {kind} {a}, {act[2]} the {b}", "none of us, including the {kind} {a}, {act[2]} the {b}"),
            fresh=True,
            except_=("except", "but", "apart from", "other than"),
        ),
    ),
    "focus-particles": (
        ("others too", "no others"),
        contrast(
            ("even the {kind} {a} {act[2]} the {b}", "only the {kind} {a} {act[2]} the {b}"),
            ("not only the {kind} {a} {act[2]} the {b}", "no one but the {kind} {a} {act[2]} the {b}"),
            ("only the {kind} {a} did not {act[0]} the {b}", "even the {kind} {a} did not {act[0]} the {b}"),
            fresh=True,
        ),
    ),
    "aspect": (
        ("completed", "under way"),
        contrast(
            ("while the {c} was {go[3]}, the {a} had {act[2]} the {b}", "when the {c} had {go[2]}, the {a} was {act[3]} the {b}"),
            ("the {a} who was {go[3]} had {act[2]} the {b}", "the {a} who had {go[2]} was {act[3]} the {b}"),
            ("the {a} who had {go[2]} has {act[2]} the {b}", "the {a} who has {go[2]} is {act[3]} the {b}"),
            fresh=True,
        ),
    ),
    "modal-force": (
        ("necessary", "possible"),
        contrast(
            (
                "the {kind} {a} who {can} {go[0]} {must} {act[0]} the {b}",
                "the {kind} {a} who {must} {go[0]} {can} {act[0]} the {b}",
            ),
            (
                "if the {c} {can} {go[0]}, the {a} {must} {act[0]} the {b}",
                "if the {c} {must} {go[0]}, the {a} {can} {act[0]} the {b}",
            ),
            fresh=True,
            can=("can", "may", "is allowed to", "is free to"),
            must=("must", "has to", "needs to", "is forced to"),
        ),
    ),
    "possession": (
        ("first has it", "second has it"),
        contrast(
            ("the {a} {took} the {x} from the {b}", "the {a} {gave} the {x} to the {b}"),
            ("the {a} was {given} the {x} by the {b}", "the {a} was robbed of the {x} by the {b}"),
            ("the {a} to whom the {b} {gave} the {x} {go[2]}", "the {a} from whom the {b} {took} the {x} {go[2]}"),
            fresh=True,
            took=("took", "bought", "borrowed", "received", "inherited"),
            gave=("gave", "sold", "lent", "handed", "returned"),
            given=("given", "sold", "lent", "handed"),
        ),
    ),
}
