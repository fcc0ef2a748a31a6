"""What the options of a finished study gained on its tasks: the ground on which a new task's are foretold."""

import io
import json
import pathlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import norm

from .claims.choice.calibrated import calibrated, radius, residuals
from .claims.choice.options import FORECASTS, Options
from .results import read_verdicts, table

SHIPPED = pathlib.Path(__file__).with_name(
    "truth.json"
)  # by costate export build/choices --table truth --out validations/truth.json
DIGITS = 6
LEVEL = 0.9  # of intervals, where none is asked for
RIGHT = 1.0  # points off the best in hindsight, within which advice was right


@dataclass(frozen=True, eq=False)
class Truth:
    """A study's options on its tasks, in one order.

    reached: mean points of every option by its rates. past: rows of `choice-forecast` and `choice-race`, a line a task.
    """

    study: str
    backbone: str
    names: tuple[str, ...]
    tasks: tuple[Options, ...]
    reached: Mapping[str, Mapping[float, float]]
    past: pd.DataFrame

    @classmethod
    def read(cls, folder: str | pathlib.Path) -> "Truth":
        """Return what a results folder knows; raises ValueError where it holds no finished study of options."""
        record = read_verdicts(folder)
        if not {"choice-forecast", "choice-gain.options", "choice-race.rates"} <= set(record["tied"]["tables"]):
            raise ValueError(
                f"expected the results of a study with the three claims of choices in {folder}, got those of "
                f'"{record["study"]["name"]}": run `costate validate --study choices`'
            )
        rows, rates = table(folder, record, "choice-gain", "options"), table(folder, record, "choice-race", "rates")
        if rows.empty:
            raise ValueError(f"{folder} has too few tasks with all options to learn from: run `costate validate --study choices`")
        names = tuple(sorted(set(rows["option"])))
        tasks = [group.set_index("option").loc[list(names)] for _, group in rows.groupby(["task", "seed"], sort=True)]
        made = tuple(Options(names, own[list(FORECASTS)].to_numpy(), own["gained"].to_numpy()) for own in tasks)
        mean = rates.groupby(["option", "rate"])["gained"].mean()
        reached = {name: {float(rate): float(points) for rate, points in mean[name].items()} for name in names}
        raced = table(folder, record, "choice-race")[["task", "seed", "lost", "cost"]]
        past = table(folder, record, "choice-forecast").merge(raced, on=["task", "seed"])
        return cls(record["study"]["name"], record["study"]["backbone"]["name"], names, made, reached, past)

    @classmethod
    def shipped(cls) -> "Truth":
        """Return what the published run of the study `choices` knows."""
        known = json.loads(SHIPPED.read_text(encoding="utf-8"))
        names = tuple(known["names"])
        tasks = tuple(Options(names, np.array(one["told"]), np.array(one["gained"])) for one in known["tasks"])
        reached = {name: {float(rate): points for rate, points in rates.items()} for name, rates in known["reached"].items()}
        past = pd.read_json(io.StringIO(json.dumps(known["past"])), orient="records")
        return cls(known["study"], known["backbone"], names, tasks, reached, past)

    def dumped(self) -> str:
        """Return all of it as JSON, which `shipped` reads, numbers to six digits."""
        tasks = [{"told": _short(task.told), "gained": _short(task.gained)} for task in self.tasks]
        made = {"study": self.study, "backbone": self.backbone, "names": self.names, "tasks": tasks}
        reached = {name: {f"{rate:g}": _short(points) for rate, points in rates.items()} for name, rates in self.reached.items()}
        past = json.loads(self.past.to_json(orient="records", double_precision=DIGITS))
        return json.dumps(made | {"reached": reached, "past": past}, indent=1) + "\n"

    def only(self, names: Sequence[str]) -> "Truth":
        """Return the same of some options."""
        kept = [self.names.index(name) for name in names]
        tasks = tuple(Options(tuple(names), task.told[kept], task.gained[kept]) for task in self.tasks)
        reached = {name: self.reached[name] for name in names}
        return Truth(self.study, self.backbone, tuple(names), tasks, reached, self.past)


def _short(values: np.ndarray | float) -> list | float:
    """Numbers to a few digits, as lists."""
    return np.vectorize(lambda x: float(f"{x:.{DIGITS}g}"))(values).tolist()


def stretched(spec: Mapping, blocks: int, others: int) -> dict:
    """Return the delta of a study's table on a backbone of another depth: a block stands for its share of the depth.

    blocks: of the study's backbone. others: of the other one. Patterns of full tuning name their block first, as "2.*".
    """

    def own(block: int) -> range:
        first, last = block * others // blocks, (block + 1) * others // blocks
        return range(first, max(last, min(first + 1, others)))

    made = dict(spec)
    if "blocks" in spec:
        made["blocks"] = sorted({other for block in spec["blocks"] for other in own(block)})
    if "patterns" in spec:
        split = [pattern.partition(".") for pattern in spec["patterns"]]
        found = [
            [f"{other}.{rest}" for other in own(int(start))] if start.isdigit() else [start + dot + rest]
            for start, dot, rest in split
        ]
        made["patterns"] = list(dict.fromkeys(pattern for some in found for pattern in some))
    return made


@dataclass(frozen=True, eq=False)
class Advice:
    """The points foretold of the options of a new task (O,).

    reach: half-width of their intervals, which hold a share `held` of tasks. apart: by how much each must be behind the best to
    be told from it (O,). usual: mean gains on other tasks (O,). rival: half-width of an interval for each of the options beside
    the best, together at the level.
    """

    foretold: np.ndarray
    reach: float
    apart: np.ndarray
    usual: np.ndarray
    level: float
    held: float
    rival: float

    @classmethod
    def of(cls, truth: Truth, told: Mapping[str, Sequence[float]], level: float = LEVEL) -> "Advice":
        """Return the forecast of a new task from what was told of its options, by name (F,).

        Of an option of which nothing was told, its mean gain on other tasks is foretold.
        """
        model, tasks = calibrated(truth.tasks), truth.tasks
        foretold = model(np.array([told.get(name, usual) for name, usual in zip(truth.names, model.usual, strict=True)]))
        off = residuals(tasks)
        apart = np.quantile(np.abs(off - off[:, [int(np.argmax(foretold))]]), level, axis=0, method="higher")
        held = min(level, len(tasks) / (len(tasks) + 1))
        rival = radius(tasks, _each(level, len(truth.names)))
        return cls(foretold, radius(tasks, level), apart, model.table, level, held, rival)

    @property
    def best(self) -> int:
        """Return the place of the option of which most is foretold."""
        return int(np.argmax(self.foretold))

    @property
    def tied(self) -> np.ndarray:
        """Return which options cannot be told from the best (O,)."""
        return self.foretold.max() - self.foretold <= self.apart

    def runs(self, truth: Truth) -> tuple[list[tuple[int, float]], np.ndarray]:
        """Return every run as (place of its option, rate), and the points foretold of it (R,).

        They are its mean on other tasks, moved as its option's forecast is.
        """
        moved = self.foretold - self.usual
        runs = [(o, rate) for o, name in enumerate(truth.names) for rate in truth.reached[name]]
        return runs, np.array([truth.reached[truth.names[o]][rate] + moved[o] for o, rate in runs])

    def undecided(self, tried: Mapping[int, Mapping[int, np.ndarray]], leader: int, start: np.ndarray) -> list[int]:
        """Return the options that may gain over `RIGHT` points more than the leader, all together at the level.

        tried: of each option that was run, by look, whether each dev text was right (N,). One is out when, at the last look that
        it shares with the leader, the lower end of the paired difference exceeds -`RIGHT`. One that was not run is out when the
        upper end foretold of it is below the leader's gain on dev text over `start` (N,), with that gain's own error.
        """
        z = float(norm.ppf(_each(self.level, len(self.foretold))))
        mine, found = tried[leader], []
        gained, own = paired(mine[max(mine)], start)
        for o, foretold in enumerate(self.foretold):
            if o == leader:
                continue
            if shared := set(tried.get(o, ())) & set(mine):
                lead, error = paired(mine[max(shared)], tried[o][max(shared)])
                open_still = lead - z * error < -RIGHT
            else:
                open_still = foretold + np.hypot(self.rival, z * own) > gained + RIGHT
            found += [o] * bool(open_still)
        return found


def _each(level: float, options: int) -> float:
    """Return the level at which each of the options beside one is told from it, for all at the level (Bonferroni)."""
    return 1.0 - (1.0 - level) / max(options - 1, 1)


def paired(hits: np.ndarray, others: np.ndarray) -> tuple[float, float]:
    """Return by how many points one set of answers is right more often than another on the same texts, and its standard error.

    The error counts half a text more of each outcome (Agresti and Min 2005), so that few texts of equal answers prove little.
    """
    n, up, down = len(hits), int(np.sum(hits & ~others)), int(np.sum(others & ~hits))
    spread = (up + down + 1) - (up - down) ** 2 / (n + 2)
    return 100.0 * (up - down) / n, 100.0 * float(np.sqrt(spread)) / (n + 2)


def record_of(truth: Truth) -> dict:
    """Return how such advice fared on the study's tasks, each foretold from the others."""
    past = truth.past
    return {
        "tasks": len(past),
        "right": int((past["lost_forecast"] <= RIGHT).sum()),
        "lost": float(past["lost_forecast"].mean()),
        "correlation": float(past["order_forecast"].mean()),
        "correlation_of_means": float(past["order_table"].mean()),
        "race_lost": float(past["lost"].mean()),
        "race_right": int((past["lost"] <= RIGHT).sum()),
        "race_cost": float(past["cost"].mean()),
    }
