"""Grammar labels agree with oracles that know nothing of the generator: word forms, and every small model."""

import itertools
import re

import numpy as np
import pytest
from seeds import shifted
from test_generated_tasks import GOLDEN

from tuning import tasks
from tuning.tasks import grammar, words
from tuning.tasks.task import examples

SIZES = {"train": 600, "dev": 120, "test": 240}


def rows(name):
    for split in tasks.load(name, sizes=SIZES, seed=shifted(4)).splits.values():
        yield from zip(examples(split), split.labels.tolist(), strict=True)


def is_plural(noun):
    return noun.endswith("s")  # no singular of the lexicon ends in s, which the next test checks


def test_number_can_be_read_off_the_noun():
    assert not [word for word in words.THINGS + words.PEOPLE if word.endswith("s")]


def test_agreement():
    for (text,), label in rows("agreement"):
        tokens = text.rstrip(".").split()
        verb = tokens[-2]
        assert (is_plural(tokens[1]) == (verb in ("are", "were", "look", "seem"))) == (label == 0), text


def test_attractors_mislead():
    split = tasks.load("agreement").splits["test_attractor"]
    for text in split.text_a:
        tokens = text.split()
        assert len(tokens) == 7 and is_plural(tokens[1]) != is_plural(tokens[4]), text


def test_subject_number():
    for (text,), label in rows("subject-number"):
        assert is_plural(text.split()[1]) == (label == 1), text


def main_clause(text):
    """Drop "who ..." up to the end of its own verb; intransitive verbs take no object."""
    tokens = text.rstrip(".").split()
    if "who" not in tokens:
        return tokens
    i = tokens.index("who")
    clause = 2 + (tokens[i + 1] in ("never", "will")) + 2 * (tokens[i + 1] == "did")
    return tokens[:i] + tokens[i + clause :]


def test_negation():
    for (text,), label in rows("negation"):
        assert bool({"not", "never"} & set(main_clause(text))) == (label == 1), text


def test_negation_is_not_a_matter_of_one_word():
    affirming = [text for (text,), label in rows("negation") if label == 0]
    assert sum("not" in t.split() or "never" in t.split() for t in affirming) > len(affirming) / 4


def test_roles():
    for (active, passive), label in rows("roles"):
        a, b = active.rstrip(".").split(), passive.rstrip(".").split()
        agent, verb, patient = a[1], a[2], a[4]
        assert (b[1], b[2], b[3], b[4], b[6]) == (
            (patient, "was", verb, "by", agent) if label == 0 else (agent, "was", verb, "by", patient)
        )


def test_tense():
    for (text,), label in rows("tense"):
        verb = main_clause(text)[2]
        assert ("past", "present", "future")[label] == (
            "future" if verb == "will" else "past" if verb.endswith("ed") else "present"
        ), text


def without_clause(text):
    """Drop a relative clause that holds one transitive verb and its object or its agent."""
    tokens = text.rstrip(".").split()
    i = j = tokens.index("who")
    while tokens[j] not in ("the", "no"):
        j += 1
    return tokens[:i] + tokens[j + 2 :]


def test_voice():
    for (text,), label in rows("voice"):
        main = without_clause(text)
        assert (main[2] == "was" and main[4] == "by") == (label == 1) == (len(main) == 7), text


def test_tags():
    for (text,), label in rows("tags"):
        main, tag = text.split(", ")
        assert (("never" in main_clause(main)) == ("not" in tag)) == (label == 1), text


def test_event_order():
    """Place both events on a line of time, as the word between or before them says."""
    for (text,), label in rows("event-order"):
        link = re.search("before|after", text.lower())[0]
        told = re.split(f", | {link} ", re.sub(f"^{link.capitalize()} ", "", text))
        assert len(told) == 2
        marked = 0 if text.startswith(link.capitalize()) else 1  # the event in the clause that the link opens
        time = {1 - marked: 0, marked: 1 if link == "before" else -1}
        assert (time[0] > time[1]) == (label == 1), text


def test_reflexives():
    for (text,), label in rows("reflexives"):
        tokens = text.rstrip(".").split()
        assert (is_plural(tokens[1]) == (tokens[-1] == "themselves")) == (label == 0), text


def test_determiners():
    nouns = {words.noun(word, plural) for word in words.THINGS for plural in (False, True)}
    for (text,), label in rows("determiners"):
        tokens = text.lower().rstrip(".").split()
        found = [t for t in tokens if t in nouns or t in ("this", "that", "these", "those")]
        right = [is_plural(thing) == which.startswith(("these", "those")) for which, thing in (found[:2], found[2:])]
        assert right.count(False) == label, text


def test_polarity_items():
    for (text,), label in rows("polarity-items"):
        main = [token.lower() for token in without_clause(text)]
        item = next(i for i, token in enumerate(main) if token in ("ever", "any"))
        assert bool({"no", "never"} & set(main[:item])) == (label == 0), text


def chain(tokens):
    """Return whether the verb after an auxiliary (and "not", "never", "often") has the form that the auxiliary asks for."""
    verb = next(token for token in tokens[1:] if token not in ("not", "never", "often"))
    return verb.endswith("ed") == {"has": True, "had": True, "will": False, "must": False, "can": False}[tokens[0]]


def test_auxiliaries():
    for (text,), label in rows("auxiliaries"):
        tokens = text.split()
        first, second = (i for i, token in enumerate(tokens) if token in ("has", "had", "will", "must"))
        assert first == 3 and chain(tokens[first:second]) and chain(tokens[second:]) == (label == 0), text


def test_adverbials():
    when = re.compile("yesterday|last week|last year|tomorrow|next week|next year", re.IGNORECASE)
    for (text,), label in rows("adverbials"):
        (adverbial,) = when.findall(text)
        future = "will" in main_clause(when.sub("", text))
        assert (future == adverbial.lower().startswith(("tomorrow", "next"))) == (label == 0), text


def test_correlatives():
    for (text,), label in rows("correlatives"):
        a, b, c, d = (t for t in text.lower().split() if t in ("either", "neither", "both", "or", "nor", "and"))
        fits = [{"either": "or", "neither": "nor", "both": "and"}[x] == y for x, y in ((a, b), (c, d))]
        assert fits == [label == 0] * 2, text


def test_inversion():
    """Put the auxiliary that opens the question back after the relative clause, which must have its own."""
    for (text,), label in rows("inversion"):
        first, *rest = text.lower().rstrip("?").split()
        clause = rest[3:5] if rest[3] in ("has", "will", "must", "can") else rest[3:4]
        main = [first, *rest[3 + len(clause) :]]
        assert rest[2] == "who" and (len(clause) == 2 and chain(clause) and len(main) == 4 and chain(main)) == (label == 0), text


def test_pronoun_case():
    for (text,), label in rows("pronoun-case"):
        tokens = text.lower().rstrip(".").split()
        places = {i for i, t in enumerate(tokens) if t in ("he", "she", "they", "we", "him", "her", "them", "us")}
        wrong = [(i == 0 or tokens[i - 1] == "that") != (tokens[i] in ("he", "she", "they", "we")) for i in places]
        assert wrong == [label == 1] * 2, text


def test_relative_pronouns():
    for (text,), label in rows("relative-pronouns"):
        heads = re.findall("([a-z]+) (who|which)", text)
        assert [(head in words.PEOPLE) == (link == "who") for head, link in heads] == [label == 0] * 2, text


def test_coordination():
    for (text,), label in rows("coordination"):
        _, _, link, _, _, verb, *_ = text.split()
        assert ((link == "and") == (verb in ("are", "were", "look", "seem"))) == (label == 0), text


def test_partitives():
    for (text,), label in rows("partitives"):
        many = text.startswith(("Both", "Several", "Many"))
        assert (many == (text.split()[-2] in ("are", "were", "look", "seem"))) == (label == 0), text


def test_gaps():
    for (text,), label in rows("gaps"):
        (link,) = {"who", "that"} & set(text.split())
        people = [token for token in text.partition(link)[2].rstrip(".").split() if token in words.PEOPLE]
        assert (len(people) == {"who": 1, "that": 2}[link]) == (label == 0), text


def test_every_task_has_an_oracle_or_hand_checked_examples():
    own = [name for name in grammar.names() if name not in GOLDEN]
    assert {f"test_{name.replace('-', '_')}" for name in own} - {*globals()} == {"test_quantifiers"}


MODELS = list(
    itertools.chain.from_iterable(
        itertools.combinations_with_replacement(list(itertools.product((False, True), repeat=4)), size) for size in range(3)
    )
)  # every domain of at most two things with the four properties (noun, adjective, verb, adverb)


def truth(text, adjective, adverb, model):
    """Evaluate one quantified sentence; "tall farmer" and "laughed loudly" are intersections."""
    tokens = text.rstrip(".").split()
    quantifier = " ".join(tokens[:2]) if tokens[0] == "Not" else tokens[0]
    restrictor = [m for m in model if m[0] and (m[1] or adjective not in tokens)]
    hits = [m for m in restrictor if m[2] and (m[3] or adverb not in tokens)]
    every = len(hits) == len(restrictor)
    return {"Every": every, "Not every": not every, "Some": bool(hits), "No": not hits}[quantifier]


def relation(first, second):
    tokens = set((first + " " + second).replace(".", "").split())
    adjective = next(iter(tokens & set(words.ADJECTIVES)), "-")
    adverb = next(iter(tokens & set(words.ADVERBS)), "-")
    true = [(truth(first, adjective, adverb, m), truth(second, adjective, adverb, m)) for m in MODELS]
    if all(b for a, b in true if a):
        return 0
    return 2 if not any(a and b for a, b in true) else 1


def test_quantifiers_in_every_small_model():
    """Two things suffice: each relation here is refuted, where it fails, by at most two witnesses."""
    kinds = set()
    for (first, second), label in rows("quantifiers"):
        assert relation(first, second) == label, (first, second)
        kinds.add((first.split()[0], second.split()[0], label))
    assert len(kinds) == 12  # four quantifiers times three relations


def test_the_oracle_refutes_a_wrong_label():
    assert relation("Every farmer laughed.", "Every farmer laughed loudly.") == 1
    assert relation("Every farmer laughed.", "Every tall farmer laughed.") == 0
    assert relation("No farmer laughed.", "Some farmer laughed loudly.") == 2


@pytest.mark.parametrize("name", grammar.names())
def test_train_shares_no_content_word_with_any_other_split(name):
    task = tasks.load(name, sizes=SIZES)
    lists = (words.PEOPLE, words.THINGS, words.ADJECTIVES, words.LOOKS, words.ADVERBS)
    content = set(itertools.chain(*lists, *words.INTRANSITIVE, *words.TRANSITIVE))
    content |= {words.noun(word, True) for word in words.THINGS + words.PEOPLE}
    used = {}
    for key, split in task.splits.items():
        used[key] = {w for pair in examples(split) for text in pair for w in re.findall("[a-z]+", text.lower())} & content
        assert len(used[key]) > 10
    assert not used.pop("train") & set().union(*used.values())


@pytest.mark.parametrize("name", grammar.names())
def test_same_seed_same_task(name):
    one, two, other = (tasks.load(name, sizes=SIZES, seed=shifted(s)).digest for s in (1, 1, 2))
    assert one == two != other


def test_a_grammar_used_up_is_refused():
    """Ten different sentences cannot make twelve examples; ten they can."""

    def draw(lexicon, rng):
        return [(f"sentence {rng.integers(10)}", None, 0)]

    def fill(n):
        return grammar.fill(draw, words.lexicon(0), n, set(), [0])

    assert len({text for text, *_ in fill(10)}) == 10
    with pytest.raises(ValueError, match="gives 10 different examples here, 12 were asked for: ask for fewer"):
        fill(12)


def test_sizes_are_met_to_a_group():
    sizes = {key: len(split) for key, split in tasks.load("tense", sizes=SIZES).splits.items()}
    assert sizes == SIZES
    assert np.bincount(tasks.load("tense", sizes=SIZES).splits["train"].labels).tolist() == [200] * 3
