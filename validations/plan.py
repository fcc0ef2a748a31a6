"""What a study can decide, known before its first cell."""

from collections.abc import Sequence

from .claims import EXPERIMENTS, Claim
from .study import Part, Study
from .verdict import NEEDED


def undecidable(study: Study, claims: Sequence[Claim]) -> dict[str, str]:
    """Return, for each claim that the study cannot decide whatever comes out, the reason and what would make it decidable.

    A verdict needs `NEEDED` tasks, or seeds where the study's unit is the seed; cells outside the linear regime can still make
    them fewer.
    """
    found = {}
    for claim in claims:
        experiment, part = EXPERIMENTS[claim.kind], study.parts.get(claim.kind, Part())
        tasks = experiment.protocols or part.tasks or study.tasks
        seeds = part.seeds or study.seeds
        count = len(set(tasks)) if study.unit == "task" else len(set(seeds))
        if experiment.others and len(tasks) < 2:
            found[claim.id] = f"it learns from other tasks: give {NEEDED} data sets"
        elif claim.across and study.unit == "seed":
            found[claim.id] = f"it compares tasks with each other: give {NEEDED} data sets"
        elif count < NEEDED and study.unit == "task":
            more = f"{NEEDED - count} more" if count < NEEDED - 1 else "one more"
            found[claim.id] = f"it needs {NEEDED} tasks and has {count}: add {more}, or give one alone for a verdict on that one"
        elif count < NEEDED:
            found[claim.id] = f"it needs {NEEDED} seeds and has {count}: ask for more with --seeds"
    return found


def announced(study: Study, claims: Sequence[Claim]) -> list[str]:
    """Return what a reader is told before the first cell: what verdicts will be about, and which cannot be reached."""
    lost = undecidable(study, claims)
    lines = []
    if study.unit == "seed":
        lines.append(f"{study.name}: seeds replicate, so verdicts are about {', '.join(map(str, study.tasks))} alone")
    for claim, reason in lost.items():
        lines.append(f"{study.name}: {claim} cannot be decided; {reason}")
    return lines
