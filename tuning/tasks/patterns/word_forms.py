"""Right and wrong sentences about the forms of words: irregular nouns and verbs, degrees, articles, mass nouns."""

from __future__ import annotations

from tuning.tasks.patterns.templates import contrast, crossed, halved, vowel
from tuning.tasks.words import Draw, Lexicon

FOUND = ("found", "bought", "saw", "wanted", "carried")
NOUNS = halved(  # singular, plural, the regular form that is wrong
    *("mouse,mice,mouses", "goose,geese,gooses", "child,children,childs", "tooth,teeth,tooths", "foot,feet,foots"),
    *("ox,oxen,oxes", "knife,knives,knifes", "leaf,leaves,leafs", "wolf,wolves,wolfs", "thief,thieves,thiefs"),
    *("shelf,shelves,shelfs", "loaf,loaves,loafs", "calf,calves,calfs", "sheep,sheep,sheeps", "man,men,mans"),
    *("woman,women,womans", "wife,wives,wifes", "deer,deer,deers"),
)
VERBS = halved(  # base, past, the regular form that is wrong, participle
    *("choose,chose,choosed,chosen", "break,broke,breaked,broken", "hide,hid,hided,hidden", "steal,stole,stealed,stolen"),
    *("take,took,taked,taken", "throw,threw,throwed,thrown", "draw,drew,drawed,drawn", "forget,forgot,forgetted,forgotten"),
    *("shake,shook,shaked,shaken", "tear,tore,teared,torn", "give away,gave away,gived away,given away"),
    *("wear,wore,weared,worn", "see,saw,seed,seen", "do without,did without,doed without,done without"),
)
PASTS = halved(  # verbs whose past is their participle too
    *("hold,held,holded", "buy,bought,buyed", "sell,sold,selled", "bring,brought,bringed", "find,found,finded"),
    *("lose,lost,losed", "keep,kept,keeped", "catch,caught,catched", "build,built,builded", "leave,left,leaved"),
    *("pay for,paid for,payed for", "send,sent,sended", "sweep,swept,sweeped", "bend,bent,bended"),
)
SHORT = halved(
    *(
        "large,larger,largest",
        "small,smaller,smallest",
        "long,longer,longest",
        "short,shorter,shortest",
        "light,lighter,lightest",
    ),
    *("dark,darker,darkest", "strong,stronger,strongest", "soft,softer,softest", "thick,thicker,thickest", "wide,wider,widest"),
    *("warm,warmer,warmest", "cold,colder,coldest", "new,newer,newest", "hard,harder,hardest"),
)
LONG = halved(  # with the form that is wrong
    *("beautiful,beautifuler", "expensive,expensiver", "dangerous,dangerouser", "useful,usefuler", "delicate,delicater"),
    *("important,importanter", "elegant,eleganter", "valuable,valuabler", "colourful,colourfuler", "unusual,unusualer"),
    *("practical,practicaler", "ordinary,ordinarier", "comfortable,comfortabler", "attractive,attractiver"),
)
VOWEL = halved(
    "apple", "umbrella", "egg", "onion", "orange", "envelope", "elephant", "island", "oven", "arrow", "apron", "hourglass"
)
MASS = halved(
    *("furniture", "luggage", "bread", "sand", "flour", "sugar", "butter", "money", "milk", "water", "rice", "music"),
    *("equipment", "mud", "honey", "cotton"),
)


def consonant_things(words: Lexicon) -> tuple[str, ...]:
    """Return the things, and words that are only spelt with a vowel, which take the article "a"."""
    return (*(word for word in words.things if not vowel(word)), *words.share(("uniform", "unicorn", "ukulele", "university")))


TASKS: dict[str, Draw] = {
    "irregular-plurals": contrast(
        ("the {a} {saw} {two} {n[1]} near the {x}", "the {a} {saw} {two} {n[2]} near the {x}"),
        ("{two} {n[1]} near the {x} surprised the {a}", "{two} {n[2]} near the {x} surprised the {a}"),
        n=NOUNS,
        saw=("saw", "noticed", "found"),
        two=("two", "three", "several", "many"),
    ),
    "irregular-pasts": contrast(
        ("the {a} {v[1]} the {look} {x}", "the {a} {v[2]} the {look} {x}"),
        ("the {a} near the {b} {v[1]} the {x}", "the {a} near the {b} {v[2]} the {x}"),
        v=PASTS,
    ),
    "participles": contrast(
        ("the {a} {has} {v[3]} the {look} {x}", "the {a} {has} {v[1]} the {look} {x}"),
        ("the {a} who {has} {go[2]} {v[1]} the {x}", "the {a} who {has} {go[2]} {v[3]} the {x}"),
        v=VERBS,
        has=("has", "had"),
    ),
    "comparatives": contrast(
        ("the {look} {x} was {s[1]} than the {y}", "the {look} {x} was more {s[0]} than the {y}"),
        ("the {look} {x} was more {l[0]} than the {y}", "the {look} {x} was {l[1]} than the {y}"),
        s=SHORT,
        l=LONG,
    ),
    "degree-forms": contrast(
        ("the {look} {x} was {s[1]} than the {y}s", "the {look} {x} was {s[2]} than the {y}s"),
        ("the {look} {x} was the {s[2]} of all the {x}s", "the {look} {x} was the {s[1]} of all the {x}s"),
        ("the {look} {x} was more {l[0]} than all the {y}s", "the {look} {x} was most {l[0]} than all the {y}s"),
        ("the {look} {x} was the most {l[0]} of all the {x}s", "the {look} {x} was the more {l[0]} of all the {x}s"),
        s=SHORT,
        l=LONG,
    ),
    "double-comparatives": contrast(
        ("the {x} was {much} {s[1]} than the {look} {y}", "the {x} was more {s[1]} than the {look} {y}"),
        ("the {x} was more {l[0]} than the {look} {y}", "the {x} was {much} {l[0]} than the {look} {y}"),
        s=SHORT,
        l=LONG,
        much=("much", "far", "even", "still"),
    ),
    "articles": contrast(
        ("the {a} {found} an {v[0]} near the {y}", "the {a} {found} a {v[0]} near the {y}"),
        ("the {a} {found} a {x} near the {y}", "the {a} {found} an {x} near the {y}"),
        v=VOWEL,
        x=consonant_things,
        found=FOUND,
    ),
    "mass-quantifiers": contrast(
        *crossed(("much", "{m[0]}"), ("many", "{x}s"), "the {a} asked how {p} {q} the {b} {found}"),
        *crossed(("a little", "{m[0]}"), ("a few", "{x}s"), "the {a} {found} only {p} {q} near the {y}"),
        *crossed(("too much", "{m[0]}"), ("too many", "{x}s"), "the {a} {found} {p} {q} near the {y}"),
        m=MASS,
        found=FOUND,
    ),
    "mass-articles": contrast(
        *crossed(("plenty of", "{m[0]}"), ("a", "{x}"), "the {a} {found} {p} {q} beside the {y}"),
        *crossed(("a lot of", "{m[0]}"), ("only one", "{x}"), "the {a} {found} {p} {q} beside the {y}"),
        m=MASS,
        x=consonant_things,
        found=FOUND,
    ),
}
