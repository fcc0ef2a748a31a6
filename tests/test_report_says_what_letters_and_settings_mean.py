"""Every letter of every claim's equation and every setting of every study has words, and a number has one interval."""

import re

import pytest
import typst

from reports import glossary, words
from reports.document import bound, claim_rows
from validations import study
from validations.claims import CLAIMS


def test_every_equation_is_set():
    """Typst takes the equation of every claim, also of those that no study here has published."""
    written = "\n".join(f"$ {claim.equation} $" for claim in CLAIMS)
    assert typst.compile(written.encode(), format="svg")


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.id)
def test_every_letter_of_an_equation_is_explained_beside_it(claim):
    said = glossary.symbols({"id": claim.id, "equation": claim.equation})
    known = {symbol["symbol"] for symbol in said}
    assert known and not [letter for letter in glossary.names(claim.equation) if letter not in known]
    assert all(symbol["meaning"] == symbol["meaning"].strip(" .;") != "" for symbol in said)
    # a meaning of a claim's own for a letter that its equation no longer has would say nothing
    assert not set(glossary.OWN.get(claim.id, {})) - set(glossary.names(claim.equation))


def test_an_equation_is_read_letter_by_letter():
    found = glossary.names('hat(z) = arg min_z 1/N sum_i ell_i (y_(0,i) + G_i z), quad S = "Spearman"(x), quad op("sgn") nabla L')
    assert found == ["hat(z)", "z", "N", "i", "ell", "y", "G", "S", "x", "L"]
    assert [s["symbol"] for s in glossary.symbols({"id": "", "equation": "L(y_0) = q"})] == ["L", "y", "y_0"]  # q has no words


def test_letters_and_claims_of_the_glossary_exist():
    assert set(glossary.OWN) <= {claim.id for claim in CLAIMS}
    letters = [letter for letter, _, _ in glossary.LETTERS] + [letter for own in glossary.OWN.values() for letter in own]
    source = "#set page(height: auto)\n" + "\n".join(f"$ {letter} $" for letter in letters)
    assert typst.compile(source.encode(), format="pdf", ignore_system_fonts=True).startswith(b"%PDF")
    for lines in (glossary.WORDS, glossary.LETTERS):
        assert len({line[0] for line in lines}) == len(lines) and all(len(line) == 3 and line[1] for line in lines)


@pytest.mark.parametrize("name", sorted(path.stem for path in study.FOLDER.glob("*.toml")))
def test_every_setting_of_a_study_is_explained(name):
    known = study.read(name)
    options = [key for part in known.parts.values() for key, value in part.options.items() if not isinstance(value, dict)]
    settings = [*vars(known.sizes), *vars(known.solver), *options]
    assert not sorted({key for key in settings if key not in glossary.SETTINGS})


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ({"estimate": -0.02, "low": -0.04, "high": -0.004}, "−0.020 [−0.040, −0.004]"),
        ({"estimate": 0.3, "low": 0.02, "high": 0.6}, "0.30 [0.02, 0.60]"),
        ({"estimate": 0.71, "low": 0.503, "high": 0.92, "supported": [0.5, None]}, "0.710 [0.503, 0.920]"),
        ({"estimate": 0.71, "low": 0.5, "high": 0.92, "supported": [0.5, None]}, "0.7 [0.5, 0.9]"),
        ({"estimate": 0.71, "low": 0.4, "high": 1.204, "tolerated": [None, 1.2]}, "0.710 [0.400, 1.204]"),
        ({"estimate": 0.5, "low": 0.0, "high": 1.0}, "0.5 [0.0, 1.0]"),
    ],
)
def test_an_end_beside_zero_or_a_bar_is_not_written_as_if_it_lay_there(value, written):
    assert words.interval(value) == written


def test_a_number_that_is_judged_has_the_interval_that_judges_it():
    judged = {"estimate": 0.009, "low": 0.002, "high": 0.026, "supported": [None, 0.05], "tolerated": [None, 0.1]}
    verdict = {"statistic": {"label": "error", "estimate": 0.009, "low": 0.002, "high": 0.017}, "criteria": [judged]}
    assert words.interval(words.stated(verdict)) == words.interval(judged) == "0.009 [0.002, 0.026]"
    other = verdict | {"criteria": [judged | {"estimate": 0.5}]}
    assert words.stated(other) == verdict["statistic"] and words.stated({"criteria": [judged]}) is None


@pytest.mark.parametrize("counts", [[1], [1, 1], [2, 1, 1], [6, 6, 1, 3, 1], [7, 2], [1, 1, 1, 1, 1, 1, 1, 2]])
def test_no_line_of_a_table_can_be_left_alone_on_a_page(counts):
    rows = [{"part": str(place), "label": str(k)} for place, count in enumerate(counts) for k in range(count)]
    made = bound(rows)
    assert [{k: row[k] for k in ("part", "label")} for row in made] == rows
    sizes = [sum(row["bundle"] == bundle for row in made) for bundle in {row["bundle"] for row in made}]
    assert min(sizes) >= min(3, len(rows))
    assert all(len({row["bundle"] for row in made if row["part"] == part}) == 1 for part in {row["part"] for row in rows})


def test_criteria_of_several_deltas_have_their_words_once():
    criterion = {"label": "cosine", "estimate": 0.5, "low": 0.4, "high": 0.6, "outcome": "undecided", "unit": "",
                 "supported": [0.5, None], "tolerated": [0.2, None]}  # fmt: skip
    verdicts = [{"label": label, "criteria": [criterion]} for label in ("LoRA", "prefix")]
    rows = claim_rows({"verdicts": verdicts})
    assert [(row["head"], row["label"]) for row in rows] == [("Cosine", "LoRA"), ("Cosine", "prefix")]
    assert [(row["head"], row["label"]) for row in claim_rows({"verdicts": verdicts[:1]})] == [("", "Cosine")]
    assert not re.search("LoRA", rows[1]["label"])
