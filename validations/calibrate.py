"""How often verdicts are wrong: planted worlds through the lab's own path from rows to the words that Holm's method leaves."""

import json
import multiprocessing
import pathlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np

from .claims.shared.claim import Cell, Claim, Comparison, error, mean
from .claims.shared.setting import Experiment
from .judge import Evidence, alone
from .sources import digest
from .store import Record
from .verdict import LEVEL, Criterion, over_the_suite

FILE = pathlib.Path(__file__).with_name("calibration.json")
TASKS, SPREADS, SEEDS = (5, 6, 8, 12, 18), (0.0, 1.0, 2.0), 3
CLAIMS, DELTAS = 4, 2
WORLDS = 500
SUPPORT, REFUTE = 1.0, 0.0  # bars, in standard deviations between the seeds of a task
LIMIT = 0.035


@dataclass(frozen=True)
class Effect:
    """What is true in a world: the statistic's value, the shape of the tasks' differences, which words are wrong there."""

    name: str
    truth: float
    wrong: tuple[str, ...]
    right: str
    tails: str = "normal"


EFFECTS = (
    Effect("clear", 4.0, ("refuted",), "supported"),
    Effect("at the bar of support", SUPPORT, ("supported", "refuted"), "undecided"),
    Effect("at the bar of refutation", REFUTE, ("supported", "refuted"), "undecided"),
    Effect("absent", -3.0, ("supported",), "refuted"),
    Effect("at the bar of support, heavy tails", SUPPORT, ("supported", "refuted"), "undecided", "heavy"),
    Effect("at the bar of refutation, heavy tails", REFUTE, ("supported", "refuted"), "undecided", "heavy"),
    Effect("an error at the bar of support, skewed", SUPPORT, ("supported", "refuted"), "undecided", "skewed"),
)


EMPTY = Record({}, {})
BARE = Cell("task", "", 0, EMPTY, EMPTY)  # planted rows have no cell to check assumptions on
NONE = Experiment("planted", "planted rows", (), lambda setting: EMPTY, lambda setting, predicted: EMPTY)


def _claims(skewed: bool) -> tuple[Claim, ...]:
    """Return the planted suite: claims whose one criterion is on a mean, from below, or from above for errors."""
    words = dict.fromkeys(
        ("title", "statement", "equation", "equation_alt", "derived", "rule", "reason", "change", "good_is", "bad_is"), ""
    )
    inside, outside = ((-np.inf, SUPPORT), (-np.inf, SUPPORT + 1)) if skewed else ((SUPPORT, np.inf), (REFUTE, np.inf))
    return tuple(
        Claim(
            id=f"planted-{k}",
            nature="prediction",
            view="optimization",
            sources=(),
            experiment=NONE,
            rows=lambda cell: [],
            criteria=(Criterion("mean", "mean", (error if skewed else mean)("x"), inside, outside),),
            statistic=Comparison("mean", mean("x")),
            good=list,
            bad=list,
            **words,
        )
        for k in range(CLAIMS)
    )


def _between(rng: np.random.Generator, tails: str, size: tuple[int, ...]) -> np.ndarray:
    """Return the tasks' differences, of mean zero and standard deviation one: normal, or Student's t with three degrees."""
    return rng.standard_t(3, size) / np.sqrt(3) if tails == "heavy" else rng.standard_normal(size)


def _world(rng: np.random.Generator, effect: Effect, tasks: int, spread: float) -> np.ndarray:
    """Return x[claim, delta, task, seed] with the stated mean.

    The deltas of a claim share half of the variance between tasks, as deltas trained on the same text do. A skewed x is the size
    of a normal one whose mean size is the truth.
    """
    shared = _between(rng, effect.tails, (CLAIMS, 1, tasks, 1))
    own = _between(rng, effect.tails, (CLAIMS, DELTAS, tasks, 1))
    within = rng.standard_normal((CLAIMS, DELTAS, tasks, SEEDS))
    x = spread * (shared + own) / np.sqrt(2) + within
    if effect.tails == "skewed":
        return effect.truth * np.abs(x) / (np.sqrt(2 / np.pi) * np.sqrt(1 + spread**2))
    return effect.truth + x


def _evidence(x: np.ndarray, claims: Sequence[Claim]) -> list[Evidence]:
    made = []
    for claim, values in zip(claims, x, strict=True):
        rows = [
            {"task": f"task {t}", "delta": f"delta {d}", "seed": s, "x": float(values[d, t, s])}
            for d in range(DELTAS)
            for t in range(values.shape[1])
            for s in range(SEEDS)
        ]
        made.append(Evidence(claim, (BARE,), tuple(rows)))
    return made


def row(effect: Effect, tasks: int, spread: float, worlds: int = WORLDS) -> dict:
    """Return one row of the calibration: coverage, and the shares of wrong and of right verdicts, alone and in a suite.

    coverage: share of 95 % intervals that hold the truth. wrong_supported, wrong_refuted: share of single verdicts, before Holm,
    that say so where it is not true, 0 where it is. right: share of single verdicts that are right, the power where the truth
    is clear. suite_wrong: share of worlds with any wrong verdict in the suite after Holm; suite_right: share of right ones.
    """
    claims = _claims(effect.tails == "skewed")
    rng = np.random.default_rng([tasks, int(10 * spread), EFFECTS.index(effect), 211])
    counts = {name: 0 for name in ("covered", "supported", "refuted", "right", "suite_wrong", "suite_right")}
    for _ in range(worlds):
        x = _world(rng, effect, tasks, spread)
        each = alone(_evidence(x, claims))
        single, suite = ([v.word for v in found.values()] for found in (each, over_the_suite(each)))
        ends = [v.outcomes[0].interval for v in each.values()]
        counts["covered"] += sum(bool(i.low <= effect.truth <= i.high) for i in ends)
        for name in ("supported", "refuted"):
            counts[name] += single.count(name) if name in effect.wrong else 0
        counts["right"] += single.count(effect.right)
        counts["suite_wrong"] += any(word in effect.wrong for word in suite)
        counts["suite_right"] += suite.count(effect.right)
    total = worlds * CLAIMS * DELTAS
    return {
        "tasks": tasks,
        "spread": spread,
        "effect": effect.name,
        "worlds": worlds,
        "coverage": counts["covered"] / total,
        "wrong_supported": counts["supported"] / total,
        "wrong_refuted": counts["refuted"] / total,
        "right": counts["right"] / total,
        "suite_wrong": counts["suite_wrong"] / worlds,
        "suite_right": counts["suite_right"] / total,
    }


def _one(place: tuple[int, float, int], worlds: int) -> dict:
    tasks, spread, effect = place
    return row(EFFECTS[effect], tasks, spread, worlds)


def calibrate(worlds: int = WORLDS, *, processes: int = 1) -> dict:
    """Return the whole calibration with the digest of the code that decides; the same numbers on any number of processes."""
    places = [(tasks, spread, effect) for tasks in TASKS for spread in SPREADS for effect in range(len(EFFECTS))]
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        rows = list(pool.map(partial(_one, worlds=worlds), places))
    design = {"worlds": worlds, "claims": CLAIMS, "deltas": DELTAS, "seeds": SEEDS, "limit": LIMIT, "nominal": LEVEL}
    return design | {"digest": digest([__name__]), "rows": rows}


def shipped() -> dict | None:
    """Return the calibration that is shipped and its summary, or None when the code that decides has changed since."""
    record = json.loads(FILE.read_text(encoding="utf-8")) if FILE.is_file() else {}
    return record | {"lines": summary(record)} if record.get("digest") == digest(["validations.calibrate"]) else None


def summary(record: Mapping) -> list[dict]:
    """Return, for each number of tasks, the ends over its rows: coverage, wrong verdicts alone and in a suite, and the power.

    Rows of skewed errors stand apart, as `skewed`: their one wrong side is the upper one.
    """
    lines = []
    for tasks in TASKS:
        own = [r for r in record["rows"] if r["tasks"] == tasks]
        plain = [r for r in own if "skewed" not in r["effect"]]
        power = {r["spread"]: r for r in own if r["effect"] == "clear"}
        lines.append(
            {
                "tasks": tasks,
                "coverage_low": min(r["coverage"] for r in plain),
                "coverage_high": max(r["coverage"] for r in plain),
                "wrong_supported": max(r["wrong_supported"] for r in plain),
                "wrong_refuted": max(r["wrong_refuted"] for r in plain),
                "suite_wrong": max(r["suite_wrong"] for r in plain),
                "skewed": max(r["wrong_supported"] for r in own if "skewed" in r["effect"]),
                "power": [power[s]["right"] for s in SPREADS],
                "suite_power": [power[s]["suite_right"] for s in SPREADS],
            }
        )
    return lines


def written(record: Mapping) -> str:
    """Return the calibration for a terminal: a line per number of tasks."""
    head = (
        f"{record['worlds']} planted worlds a row, {CLAIMS} claims with {DELTAS} deltas each, {SEEDS} seeds a task\n"
        f"{'tasks':<7}{'coverage':<16}{'wrong: supported':<18}{'refuted':<9}{'suite':<8}{'skewed':<9}"
        f"power where SD between tasks is {', '.join(f'{s:g}' for s in SPREADS)} x within"
    )
    lines = [
        f"{r['tasks']:<7}{r['coverage_low']:.3f} - {r['coverage_high']:.3f}   {r['wrong_supported']:<18.3f}"
        f"{r['wrong_refuted']:<9.3f}{r['suite_wrong']:<8.3f}{r['skewed']:<9.3f}" + ", ".join(f"{p:.2f}" for p in r["power"])
        for r in summary(record)
    ]
    return "\n".join([head, *lines])
