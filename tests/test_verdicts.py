"""The rule that decides: intervals against bars, assumptions, the linear regime, Holm."""

import numpy as np

from validations.claims import CLAIMS, named
from validations.judge import judge
from validations.verdict import Criterion, decide, over_the_suite, word


def _rows(mean, spread, clusters=12):
    """Rows of exactly this mean and spread, so that a verdict hangs on the rule and not on the draw."""
    z = np.random.default_rng(0).standard_normal(clusters)
    return [{"task": str(k), "seed": 0, "x": mean + spread * x} for k, x in enumerate((z - z.mean()) / z.std(ddof=1))]


def test_the_interval_decides():
    criterion = Criterion("x", "x", lambda c: float(np.mean(c["x"])), (0.5, np.inf), (0.1, np.inf))
    assert decide((criterion,), _rows(0.9, 0.1)).word == "supported"
    assert decide((criterion,), _rows(0.0, 0.02)).word == "refuted"
    assert decide((criterion,), _rows(0.5, 0.3)).word == "undecided"


def test_rows_outside_the_linear_regime_are_not_tested():
    criterion = Criterion("x", "x", lambda c: float(np.mean(c["x"])), (0.5, np.inf), (0.1, np.inf))
    rows = [row | {"inside": k < 2} for k, row in enumerate(_rows(0.9, 0.1))]
    verdict = decide((criterion,), rows)
    assert verdict.word == "not applicable" and "2 of 12" in verdict.reason


def test_a_failed_assumption_makes_a_claim_not_applicable():
    claim = named("tunable-ports")
    cells = claim.good()
    broken = cells[0].measured.values | {"ports": [row | {"converged": False} for row in cells[0].measured.values["ports"]]}
    bad = [type(c)(c.task, c.delta, c.seed, c.predicted, type(c.measured)(broken, {})) for c in cells]
    rows = [row for cell in bad for row in claim.rows(cell)]
    assert judge(claim, bad, rows).word == "not applicable"


def test_holm_makes_a_lone_finding_among_many_harder():
    criterion = Criterion("x", "x", lambda c: float(np.mean(c["x"])), (0.5, np.inf), (0.1, np.inf))
    lone = decide((criterion,), _rows(0.62, 0.16))
    assert lone.word == "supported"
    family = {"lone": lone} | {str(k): decide((criterion,), _rows(0.5, 0.3)) for k in range(10)}
    assert over_the_suite(family)["lone"].p_support > lone.p_support
    assert word(0.5, 0.5) == "undecided"


def test_every_claim_is_complete():
    assert len({c.id for c in CLAIMS}) == len(CLAIMS)
    for claim in CLAIMS:
        for text in (claim.statement, claim.equation, claim.equation_alt, claim.derived, claim.rule, claim.reason, claim.change):
            assert len(text) > 15, claim.id
        assert claim.criteria and claim.rivals and claim.assumptions
        for c in claim.criteria:
            assert c.tolerated[0] <= c.supported[0] < c.supported[1] <= c.tolerated[1]


def test_a_second_look_doubles_every_p_value():
    criterion = Criterion("x", "x", lambda c: float(np.mean(c["x"])), (0.5, np.inf), (0.1, np.inf))
    found = {"clear": decide((criterion,), _rows(0.9, 0.1)), "close": decide((criterion,), _rows(0.62, 0.16))}
    once, twice = (over_the_suite(found, looks) for looks in (1, 2))
    for name in found:
        for side in ("p_support", "p_refute"):
            assert np.isclose(getattr(twice[name], side), min(1.0, 2 * getattr(once[name], side)), rtol=1e-12)
    between = 0.025 / once["close"].p_support  # looks from which on it is no longer supported
    assert over_the_suite(found, int(between) + 1)["close"].word == "undecided" != once["close"].word
