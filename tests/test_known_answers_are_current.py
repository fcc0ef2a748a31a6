"""What the report's tests draw is what the claims say today: every claim is recorded, every figure finds its columns."""

import pytest
import record

from reports.figures import FIGURES, SHARED
from validations.claims import CLAIMS, named
from validations.plan import plant_experiments
from validations.verdict import decide

CHEAP = ("published-bound", "lq-feedback", "outlier-directions")
IDS = [claim.id for claim in CLAIMS]


def test_every_claim_is_recorded_and_nothing_else():
    assert sorted(path.stem for path in record.FOLDER.glob("*.json")) == sorted(IDS)


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.id)
def test_every_part_of_a_claim_is_recorded_with_rows(claim):
    known = record.read(claim.id)
    assert set(known["good"]) == {"rows", *claim.parts} and set(known["bad"]) == {"rows"}
    assert all(table["rows"] for which in ("good", "bad") for table in known[which].values())
    assert set(known["evidence"]) == {a.name for a in claim.assumptions}


@pytest.mark.parametrize("figure", FIGURES.values(), ids=list(FIGURES))
def test_every_figure_finds_its_columns_and_its_bars(figure):
    for claim in (figure.claim, *figure.also):
        tables, criteria = record.read(claim)["good"], {c.name for c in named(claim).criteria}
        for part, columns in figure.needs.items():
            assert set(columns) <= set(tables[part]["columns"]), (claim, part)
        assert set(figure.bars) <= criteria, claim


def test_every_claim_has_one_figure_of_its_own_or_shares_one():
    assert sorted([*FIGURES, *SHARED]) == sorted(IDS)


WORDS = {"good": "supported", "bad": "refuted"}
REVERSE = {"good": "refuted", "bad": "supported"}


def current(claims, known=tuple(WORDS)):
    """Verdicts and numbers are as recorded; on a processor that computes otherwise no verdict is reversed."""
    for which in known:
        answered = {claim: tables for claim, tables, _ in record.answers(claims, which)}
        assert set(answered) == set(claims)
        for claim, tables in answered.items():
            word, kept = decide(named(claim).criteria, record.as_rows(tables["rows"])).word, record.read(claim)
            if kept["arithmetic"] == record.arithmetic():
                assert word == WORDS[which] and not record.difference(tables, kept[which]), claim
            assert word != REVERSE[which], claim


@pytest.mark.parametrize("which, word", WORDS.items())
def test_what_is_recorded_supports_or_refutes(which, word):
    words = {claim.id: decide(claim.criteria, record.rows(claim.id, which)).word for claim in CLAIMS}
    assert words == dict.fromkeys(IDS, word)


@pytest.mark.recorded_draws("rows on plants are compared with recorded ones")
@pytest.mark.parametrize("claim", CHEAP)
def test_a_claim_run_again_on_its_plants_gives_what_is_recorded(claim):
    current([claim])


@pytest.mark.slow
@pytest.mark.recorded_draws("rows on plants are compared with recorded ones")
@pytest.mark.parametrize("kind, which, claims", plant_experiments(), ids=lambda x: x if isinstance(x, str) else "")
def test_every_claim_comes_out_on_its_plants_as_recorded(kind, which, claims):
    """Plants are run again unless this very code, with these libraries, is what recorded them."""
    if all(record.read(claim).get("made") == record.made_by(claim) for claim in claims):
        pytest.skip("recorded by this very code")
    current(claims, (which,))


def test_a_record_is_current_only_for_its_own_code_libraries_and_arithmetic(monkeypatch):
    mark = record.made_by(CHEAP[0])
    assert record.made_by(CHEAP[0]) == mark
    with monkeypatch.context() as change:
        change.setenv(record.ARITHMETIC, "another")
        assert record.made_by(CHEAP[0]) != mark
    with monkeypatch.context() as change:
        change.setattr(record.importlib.metadata, "version", lambda name: "0.0")
        assert record.made_by(CHEAP[0]) != mark
    with monkeypatch.context() as change:
        change.setattr(record, "digest", lambda modules: "another")
        assert record.made_by(CHEAP[0]) != mark


@pytest.mark.parametrize("new", [1.002, "one", 2, float("nan")])
def test_a_changed_answer_is_told(new):
    tables = {"rows": {"columns": ["x", "y"], "rows": [[1.0, "a"]]}}
    assert not record.difference({"rows": {"columns": ["x", "y"], "rows": [[1.0005, "a"]]}}, tables)
    assert "was recorded" in record.difference({"rows": {"columns": ["x", "y"], "rows": [[new, "a"]]}}, tables)
    assert "columns" in record.difference({"rows": {"columns": ["x"], "rows": [[1.0]]}}, tables)
    assert "number of rows" in record.difference({"rows": {"columns": ["x", "y"], "rows": []}}, tables)
