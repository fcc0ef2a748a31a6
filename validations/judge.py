"""From a claim's finished cells to one verdict for each delta: assumptions, rows, criteria, Holm."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .claims import Cell, Claim
from .verdict import Verdict, decide, over_the_suite


def checked(claim: Claim, cells: Sequence[Cell]) -> list[dict]:
    """Return every assumption of a claim with how many of some cells pass its check."""
    made = []
    for a in claim.assumptions if cells else ():
        passed = sum(a.passes(cell) for cell in cells)
        made.append(
            {
                "name": a.name,
                "statement": a.statement,
                "passed": int(passed),
                "total": len(cells),
                "needed": a.needed,
                "holds": bool(passed >= a.needed * len(cells)),
                "evidence": a.evidence(cells),
            }
        )
    return made


def _untested(reason: str, cells: int = 0) -> Verdict:
    return Verdict("not applicable", (), 1.0, 1.0, 0, cells, reason)


def judge(claim: Claim, cells: Sequence[Cell], rows: Sequence[Mapping], unit: str = "task") -> Verdict:
    """Return a claim's verdict on one delta before the suite's adjustment: *not applicable* when an assumption's check fails."""
    if not cells:
        return _untested("the study has no cell of this kind; some need two tasks or more")
    if claim.across and unit == "seed":
        return _untested("it compares tasks with each other, and the study is about one", len(rows))
    failed = [a for a in checked(claim, cells) if not a["holds"]]
    if failed:
        worst = failed[0]
        share = f"{worst['passed']} of {worst['total']} cells, {worst['needed']:.0%} are needed"
        reason = f'the assumption "{worst["name"]}" holds in {share}'
        return _untested(reason, len(rows))
    return decide(claim.criteria, rows, unit=unit)


@dataclass(frozen=True)
class Evidence:
    """A claim's finished cells and their rows."""

    claim: Claim
    cells: tuple[Cell, ...]
    rows: tuple[Mapping, ...]

    @classmethod
    def of(cls, claim: Claim, cells: Sequence[Cell]) -> "Evidence":
        """Return a claim's evidence from its cells."""
        return cls(claim, tuple(cells), tuple(row for cell in cells for row in claim.rows(cell)))

    def by_delta(self) -> dict[str, "Evidence"]:
        """Return the evidence of each delta: its rows, and its own cells where cells are of one delta; it may have no row."""
        names, celled = (list(dict.fromkeys(found)) for found in ([r["delta"] for r in self.rows], [c.delta for c in self.cells]))
        if not names or set(names) & set(celled):
            names = list(dict.fromkeys([*names, *celled])) or [""]
        own = {name: tuple(cell for cell in self.cells if cell.delta == name) for name in names}
        return {
            name: Evidence(self.claim, own[name] or self.cells, tuple(row for row in self.rows if row["delta"] == name))
            for name in names
        }


def alone(evidence: Sequence[Evidence], unit: str = "task") -> dict[tuple[str, str], Verdict]:
    """Return one verdict for each claim and delta, each by itself."""
    return {
        (whole.claim.id, delta): judge(whole.claim, part.cells, part.rows, unit)
        for whole in evidence
        for delta, part in whole.by_delta().items()
    }


def verdicts_of(evidence: Sequence[Evidence], unit: str = "task", looks: int = 1) -> dict[tuple[str, str], Verdict]:
    """Return one verdict for each claim and delta, adjusted by Holm over all of them and by Bonferroni over looks."""
    return over_the_suite(alone(evidence, unit), looks)
