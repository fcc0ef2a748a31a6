"""What the options of a finished study gained on its tasks: the ground on which a new task's are foretold."""

import io
import json
import pathlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from .claims.choice.calibrated import calibrated, radius, residuals
from .claims.choice.options import FORECASTS, Options
from .results import read_verdicts, table

SHIPPED = pathlib.Path(__file__).with_name(
    "truth.json"
)  # by costate export build/choices --table truth --out validations/truth.json
DIGITS = 6
LEVEL = 0.9  # of intervals
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


@dataclass(frozen=True, eq=False)
class Advice:
    """The points foretold of the options of a new task (O,).

    reach: half-width of their intervals. apart: by how much each must be behind the best to be told from it (O,).
    """

    foretold: np.ndarray
    reach: float
    apart: np.ndarray

    @classmethod
    def of(cls, truth: Truth, told: np.ndarray) -> "Advice":
        """Return the forecast of a new task from what was told of its options (O, F)."""
        foretold = calibrated(truth.tasks)(told)
        off = residuals(truth.tasks)
        apart = np.quantile(np.abs(off - off[:, [int(np.argmax(foretold))]]), LEVEL, axis=0, method="higher")
        return cls(foretold, radius(truth.tasks, LEVEL), apart)

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
        moved = self.foretold - calibrated(truth.tasks).table
        runs = [(o, rate) for o, name in enumerate(truth.names) for rate in truth.reached[name]]
        return runs, np.array([truth.reached[truth.names[o]][rate] + moved[o] for o, rate in runs])


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
