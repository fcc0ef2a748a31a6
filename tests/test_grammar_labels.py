"""Grammar labels agree with oracles that know nothing of the generator: word forms, and every small model."""

import itertools

import numpy as np
import pytest
from seeds import shifted

from tuning import tasks
from tuning.tasks import grammar
from tuning.tasks.task import examples

SIZES = {"train": 600, "dev": 120, "test": 240}


def rows(name):
    for split in tasks.load(name, sizes=SIZES, seed=shifted(4)).splits.values():
        yield from zip(examples(split), split.labels.tolist(), strict=True)


def is_plural(noun):
    return noun.endswith("s")  # no singular of the lexicon ends in s, which the next test checks


def test_number_can_be_read_off_the_noun():
    assert not [word for word in grammar.THINGS if word.endswith("s")]


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
    adjective = next(iter(tokens & set(grammar.ADJECTIVES)), "-")
    adverb = next(iter(tokens & set(grammar.ADVERBS)), "-")
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
def test_train_and_test_share_no_content_word(name):
    task = tasks.load(name, sizes=SIZES)
    lists = (grammar.PEOPLE, grammar.THINGS, grammar.ADJECTIVES, grammar.LOOKS, grammar.ADVERBS)
    content = set(itertools.chain(*lists, *grammar.INTRANSITIVE, *grammar.TRANSITIVE))
    content |= {grammar.noun(word, True) for word in grammar.THINGS}
    used = {}
    for key, split in task.splits.items():
        used[key] = {w for pair in examples(split) for text in pair for w in text.lower().rstrip(".").split()} & content
        assert len(used[key]) > 10
    assert not (used["train"] | used["dev"]) & used["test"]
    assert not used["train"] & used.get("test_attractor", set())


@pytest.mark.parametrize("name", grammar.names())
def test_same_seed_same_task(name):
    one, two, other = (tasks.load(name, sizes=SIZES, seed=shifted(s)).digest for s in (1, 1, 2))
    assert one == two != other


def test_a_grammar_used_up_is_refused():
    """Ten different sentences cannot make twelve examples; ten they can."""

    def draw(words, rng):
        return [(f"sentence {rng.integers(10)}", None, 0)]

    def fill(n):
        return grammar.fill(draw, grammar.lexicon(0), n, set(), [0], np.random.default_rng(0))

    assert len(set(fill(10).text_a)) == 10
    with pytest.raises(ValueError, match="gives 10 different examples here, 12 were asked for: ask for fewer"):
        fill(12)


def test_sizes_are_met_to_a_group():
    sizes = {key: len(split) for key, split in tasks.load("tense", sizes=SIZES).splits.items()}
    assert sizes == SIZES
    assert np.bincount(tasks.load("tense", sizes=SIZES).splits["train"].labels).tolist() == [200] * 3
