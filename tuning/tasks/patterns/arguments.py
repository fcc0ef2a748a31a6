"""Right and wrong sentences about what verbs and adjectives ask for: objects, clauses, prepositions, and their order.

The classes of verbs follow Levin (1993), *English verb classes and alternations*. Verbs are content words: train and test have
different ones, so that a backbone must know them.
"""

from __future__ import annotations

from tuning.tasks.patterns.templates import contrast, crossed, halved, manners, table
from tuning.tasks.words import Draw

OBJECTS = halved(
    "bought", "wanted", "lifted", "owned", "carried", "needed", "fetched", "polished", "mentioned", "used", "praised", "liked"
)
ALONE = halved(
    *(
        "slept",
        "sneezed",
        "yawned",
        "trembled",
        "vanished",
        "wept",
        "disappeared",
        "existed",
        "snored",
        "chuckled",
        "sighed",
        "lied",
    )
)
INCHOATIVE = halved(
    "broke", "opened", "closed", "moved", "stopped", "burned", "rolled", "cracked", "shook", "sank", "split", "bounced"
)
CAUSED = halved(
    "vanished",
    "fell",
    "disappeared",
    "appeared",
    "emerged",
    "occurred",
    "arose",
    "glittered",
    "trembled",
    "gleamed",
    "existed",
    "rose",
)
MADE = halved(
    "bought", "fetched", "wrapped", "painted", "hit", "noticed", "owned", "carried", "mentioned", "destroyed", "touched", "wanted"
)
GIVING = halved("gave", "handed", "sent", "lent", "showed", "offered", "sold", "promised", "passed", "threw", "brought", "mailed")
TELLING = halved(
    *("explained", "described", "donated", "mentioned", "reported", "delivered", "revealed", "announced", "entrusted"),
    *("suggested", "demonstrated", "transferred"),
)
PARTICLES = table(
    *("picked,up", "threw,away", "put,down", "gave,back", "took,out", "handed,over", "brought,in", "pushed,aside", "tore,up"),
    *("sent,off", "cut,up", "locked,away"),
)
PREPOSITIONS = table(
    *("looked,at", "pointed,to", "cared,for", "talked,about", "thought,of", "paid,for", "asked,for", "relied,on", "stared,at"),
    *("dealt,with", "objected,to", "spoke,of"),
)
ASKED_FOR = halved(  # verb, its preposition, one that it does not take
    *("relied,on,of", "depended,on,to", "objected,to,of", "believed,in,of", "cared,for,to", "apologised,for,in"),
    *("dreamt,of,to", "insisted,on,to", "referred,to,on", "dealt,with,of", "longed,for,of", "disposed,of,to"),
    *("delighted,in,of", "approved,of,to", "specialised,in,to", "counted,on,of", "hoped,for,of", "parted,with,of"),
)
FEELING = halved(  # adjective, its preposition, one that it does not take
    *("afraid,of,to", "fond,of,in", "proud,of,to", "aware,of,in", "interested,in,of", "similar,to,of", "married,to,of"),
    *(
        "responsible,for,in",
        "jealous,of,in",
        "suspicious,of,in",
        "obsessed,with,in",
        "bored,with,to",
        "grateful,to,of",
        "envious,of,to",
    ),
)
GERUND = halved("enjoyed", "avoided", "finished", "practised", "suggested", "denied", "risked", "admitted", "kept", "resisted")
INFINITIVE = halved("wanted", "hoped", "decided", "refused", "agreed", "promised", "managed", "failed", "offered", "pretended")
STATES = halved(
    *(
        "know,knows,knowing",
        "own,owns,owning",
        "resemble,resembles,resembling",
        "need,needs,needing",
        "prefer,prefers,preferring",
    ),
    *("deserve,deserves,deserving", "possess,possesses,possessing", "lack,lacks,lacking"),
)

TASKS: dict[str, Draw] = {
    "transitivity": contrast(
        ("the {a} {o[0]} the {x} near the {look} {y}", "the {a} {o[0]} near the {look} {y}"),
        ("the {a} {i[0]} near the {look} {y}", "the {a} {i[0]} the {x} near the {look} {y}"),
        o=OBJECTS,
        i=ALONE,
    ),
    "causatives": contrast(
        ("the {look} {x} {alt[0]} near the {y}", "the {look} {x} {made[0]} near the {y}"),
        ("the {a} {alt[0]} the {look} {x}", "the {a} {fell[0]} the {look} {x}"),
        ("the {look} {x} {fell[0]} near the {y}", "the {look} {x} {made[0]} near the {y}"),
        ("the {a} {made[0]} the {look} {x}", "the {a} {fell[0]} the {look} {x}"),
        alt=INCHOATIVE,
        made=MADE,
        fell=CAUSED,
    ),
    "impersonal-passives": contrast(
        ("the {a} was {act[2]} by the {kind} {b}", "the {a} was {i[0]} by the {kind} {b}"),
        ("the {kind} {a} {i[0]} beside the {b}", "the {kind} {a} was {i[0]} beside the {b}"),
        i=ALONE,
    ),
    "dative-alternation": contrast(
        ("the {a} {gave[0]} the {b} the {look} {x}", "the {a} {told[0]} the {b} the {look} {x}"),
        ("the {a} {told[0]} the {look} {x} to the {b}", "the {a} {told[0]} the {b} the {look} {x}"),
        ("the {a} {gave[0]} the {kind} {b} the {x}", "the {a} {told[0]} the {kind} {b} the {x}"),
        gave=GIVING,
        told=TELLING,
    ),
    "double-object-order": contrast(
        ("the {a} {gave[0]} the {kind} {b} a(n) {x}", "the {a} {gave[0]} a(n) {x} the {kind} {b}"),
        ("the {a} {gave[0]} {it} to the {kind} {b}", "the {a} {gave[0]} the {kind} {b} {it}"),
        gave=GIVING,
        it=("it", "them"),
    ),
    "particle-placement": contrast(
        ("the {a} {p[0]} {it} {p[1]} before the {b} {go[2]}", "the {a} {p[0]} {p[1]} {it} before the {b} {go[2]}"),
        ("the {a} {q[0]} {q[1]} {it} before the {b} {go[2]}", "the {a} {q[0]} {it} {q[1]} before the {b} {go[2]}"),
        p=PARTICLES,
        q=PREPOSITIONS,
        it=("it", "them"),
    ),
    "verb-prepositions": contrast(
        ("the {kind} {a} {v[0]} {v[1]} the {x}", "the {kind} {a} {v[0]} {v[2]} the {x}"),
        v=ASKED_FOR,
    ),
    "adjective-prepositions": contrast(
        ("the {kind} {a} was {f[0]} {f[1]} the {b}", "the {kind} {a} was {f[0]} {f[2]} the {b}"),
        ("the {a} {f[0]} {f[1]} the {b} {go[2]}", "the {a} {f[0]} {f[2]} the {b} {go[2]}"),
        f=FEELING,
    ),
    "gerund-or-infinitive": contrast(
        *crossed(("{g[0]}", "{act[3]}"), ("{i[0]}", "to {act[0]}"), "the {a} {p} {q} the {b}"),
        *crossed(("{g[0]}", "{go[3]}"), ("{i[0]}", "to {go[0]}"), "the {kind} {a} {p} {q} near the {b}"),
        g=GERUND,
        i=INFINITIVE,
    ),
    "bare-infinitives": contrast(
        *crossed(("{made}", "{go[0]}"), ("{told}", "to {go[0]}"), "the {a} {p} the {b} {q} near the {c}"),
        *crossed(("{made}", "{act[0]}"), ("{told}", "to {act[0]}"), "the {a} {p} the {b} {q} the {c}"),
        made=("made", "let", "had"),
        told=("told", "forced", "allowed", "wanted", "ordered"),
    ),
    "mandative-subjunctive": contrast(
        *crossed(("{demanded}", "be"), ("{noticed}", "is"), "the {a} {p} that the {b} {q} {kind}"),
        *crossed(("{demanded}", "be"), ("{noticed}", "is"), "the {a} {p} that the {x} {q} {look}"),
        demanded=("demanded", "requested", "required", "recommended"),
        noticed=("noticed", "knew", "believed", "discovered"),
    ),
    "stative-progressive": contrast(
        ("right now the {a} is {act[3]} the {b}", "right now the {a} is {s[2]} the {b}"),
        ("the {kind} {a} {s[1]} the {x}", "the {kind} {a} is {s[2]} the {x}"),
        s=STATES,
    ),
    "adverb-placement": contrast(
        ("the {a} {how} {act[2]} the {b}", "the {a} {act[2]} {how} the {b}"),
        ("the {a} {act[2]} the {b} {how}", "the {a} {act[2]} {how} the {b}"),
        ("the {a} {how} moved the {x}", "the {a} moved {how} the {x}"),
        ("the {a} has {how} {act[2]} the {b}", "the {a} has {act[2]} {how} the {b}"),
        how=manners,
    ),
    "pronoun-modifiers": contrast(
        ("the {a} {act[2]} {someone} {kind} yesterday", "the {a} {act[2]} {kind} {someone} yesterday"),
        ("the {a} {act[2]} a(n) {kind} {b} yesterday", "the {a} {act[2]} a(n) {b} {kind} yesterday"),
        ("the {a} described {something} {look}", "the {a} described {look} {something}"),
        ("the {a} described a(n) {look} {x}", "the {a} described a(n) {x} {look}"),
        someone=("someone", "no one", "everyone"),
        something=("something", "nothing", "everything"),
    ),
    "adjective-order": contrast(
        ("the {a} found a(n) {size[0]} {colour[0]} {x}", "the {a} found a(n) {colour[0]} {size[0]} {x}"),
        ("the {a} found a(n) {size[0]} {stuff[0]} {x}", "the {a} found a(n) {stuff[0]} {size[0]} {x}"),
        ("the {a} found a(n) {colour[0]} {stuff[0]} {x}", "the {a} found a(n) {stuff[0]} {colour[0]} {x}"),
        size=halved("large", "small", "huge", "tiny", "little", "long", "big", "short"),
        colour=halved("red", "blue", "green", "yellow", "white", "black", "brown", "grey"),
        stuff=halved("wooden", "golden", "silver", "leather", "plastic", "iron", "woollen", "copper"),
    ),
}
