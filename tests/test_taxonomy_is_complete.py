"""Every kind of delta has one place in the taxonomy, its formula gives its size, and the list and PEFT's own names agree."""

import json

import pytest
import zoo
from sympy.parsing.sympy_parser import convert_xor, implicit_multiplication, parse_expr, standard_transformations

from costate import main
from reports import document
from tuning import catalogue
from tuning.deltas import KINDS, parse
from tuning.taxonomy import FAMILIES
from validations.describe import taxonomy as described

LETTERS = {"L": 2, "d": 16, "m": 24, "p": 4, "q": 4, "l": 3, "r": 3, "k": 2}  # the tiny encoder has two blocks, so k is no more
RANKS = {"lokr": 1}  # of a larger rank its second factor is no product in so small a network
SETTINGS = {"length": "l", "bottleneck": "r", "rank": "r", "dimension": "r", "count": "k"}
CHOICES = {choice.name: choice for choice in catalogue.deltas()}


def counted(formula: str, known: dict[str, int]) -> float:
    """The value of a formula as it is printed: letters side by side are multiplied."""
    rules = (*standard_transformations, implicit_multiplication, convert_xor)
    expression = parse_expr(formula, local_dict={}, transformations=rules)
    return float(expression.subs({str(letter): known[str(letter)] for letter in expression.free_symbols}))


@pytest.mark.parametrize("name", KINDS)
def test_a_kind_has_one_record_of_its_place(name):
    taxon = KINDS[name].taxon
    assert "taxon" in vars(KINDS[name]), "its own, not another kind's"
    assert CHOICES[name].taxon == taxon and taxon.family in FAMILIES and taxon.does


@pytest.mark.parametrize("name", [name for name in KINDS if name != "combined"])
def test_the_formula_is_the_size(name):
    letters = LETTERS | {"r": RANKS.get(name, LETTERS["r"])}
    needed = ",".join(f"{setting}={letters[SETTINGS[setting]]}" for setting in CHOICES[name].needed)
    delta, backbone = parse(f"{name}:{needed}"), zoo.backbone_of("bert")
    P = sum(p.numel() for p in backbone.model.parameters())
    assert counted(KINDS[name].taxon.numbers, letters | {"P": P}) == delta.size(backbone)


@pytest.mark.parametrize("name", [name for name in KINDS if KINDS[name].taxon.peft])
def test_peft_has_what_it_is_said_to_have(name):
    peft = pytest.importorskip("peft")
    config, _, setting = KINDS[name].taxon.peft.partition(", ")
    fields = vars(getattr(peft, config))["__dataclass_fields__"]
    assert not setting or setting in fields


def test_the_list_shows_every_kind_family_by_family(capsys):
    assert main(["list", "taxonomy", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["taxonomy"]
    assert set(found) == set(KINDS)
    families = [one["family"] for one in found.values()]
    assert families == sorted(families, key=list(FAMILIES).index)
    assert main(["list", "taxonomy"]) == 0
    told = capsys.readouterr().out
    assert all(any(line.split()[0] == name for line in told.splitlines()) for name in KINDS)
    assert max(map(len, told.splitlines())) <= 130


def test_a_report_has_a_line_for_every_kind_and_old_results_have_none():
    table = document.taxonomy(described())
    assert [line[1] for line in table["lines"]] == [KINDS[name].__name__ for name in catalogue.taxonomy()]
    assert all(line[0] in FAMILIES and line[3] and line[4] for line in table["lines"]) and table["counted"]
    assert document.taxonomy(None) is None
