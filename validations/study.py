"""What is run: a TOML file of backbone, tasks, deltas, seeds and claims; unknown keys are refused."""

import dataclasses
import math
import os
import pathlib
import tomllib
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

DTYPES = ("float32", "float64", "bfloat16")
UNITS = ("task", "seed")
NEEDS = ("cpus", "gpus")
SPLITS = 6  # of one data set
HEADS = ("fitted", "verbaliser")
SHAPES = {str: "a text in quotes", tuple: "a list", Mapping: "a table"}  # of what a study's key may hold, in TOML's words
FOLDER = pathlib.Path(__file__).with_name("studies")


@dataclass(frozen=True)
class Sizes:
    """How many examples, and how long: `train` predicts and trains, `test` is where every statistic is computed."""

    train: int = 64
    test: int = 128
    length: int = 24
    readout: int = 600


@dataclass(frozen=True)
class Prompt:
    """How a decoder is asked about a task under the head "verbaliser": the template around a text ("Review: {text}\\nSentiment:";
    {text_a} and {text_b} for pairs), and the word of every class, in the task's order; without words, the classes' names."""

    template: str = ""
    words: tuple[str, ...] = ()


@dataclass(frozen=True)
class Solver:
    """The full-batch arm. r is set in each cell from the frozen model: the smallest penalty with eta <= `regime` on the
    training text; for full tuning, `penalty` times the largest curvature. Training stops at `tolerance` times the first
    gradient norm."""

    regime: float = 0.1
    penalty: float = 0.03
    tolerance: float = 3e-3
    evaluations: int = 150


@dataclass(frozen=True)
class Part:
    """One kind of cell: which tasks, deltas and seeds (default: the study's), its own options, and sizes or solver settings that
    differ from the study's. Options in a table that is named after a delta are for that delta's cells alone. sources: further
    tasks, without cells of their own, that its cells may learn from. needs: the share of a machine that a cell takes on a
    cluster, `cpus` and `gpus`."""

    tasks: tuple[str, ...] = ()
    deltas: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
    sources: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    needs: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Study:
    """A whole study: every cell follows from it and from nothing else.

    unit: what replicates, "task" with seeds nested in it, or "seed" where the verdict is about the given tasks alone: splits of
    one data set, or networks that each seed trains anew. development: tasks on which settings were chosen; they have cells as the
    others do, and no verdict rests on them. looks: how often verdicts were drawn, as tasks were added or settings
    changed, this time included; p-values are multiplied by it (Bonferroni), since whoever looks twice has two chances to be
    wrong. columns: which column of tasks from files and from the hub holds text_a, text_b and label, where their names do not.
    head: "fitted" on texts of its own, or "verbaliser", a decoder's own logits at a word of every class, asked as the prompt of
    the task's name says, or the prompt called "default" (`tuning.verbalisers`). Whether the head is then trained with the delta
    is an option of a part.
    """

    name: str
    title: str
    question: str
    backbone: str
    tasks: tuple[str, ...]
    seeds: tuple[int, ...]
    claims: tuple[str, ...]
    deltas: Mapping[str, Mapping[str, Any]]
    development: tuple[str, ...] = ()
    sizes: Sizes = Sizes()
    solver: Solver = Solver()
    parts: Mapping[str, Part] = field(default_factory=dict)
    unit: str = "task"
    looks: int = 1
    columns: Mapping[str, str] = field(default_factory=dict)
    head: str = HEADS[0]
    dtype: str = DTYPES[0]
    prompts: Mapping[str, Prompt] = field(default_factory=dict)

    @property
    def every_task(self) -> tuple[str, ...]:
        """Return the study's tasks, then those that only a part of it has, then those of development."""
        own = [task for part in self.parts.values() for task in (*part.tasks, *part.sources)]
        return tuple(dict.fromkeys([*self.tasks, *own, *self.development]))

    @property
    def every_seed(self) -> tuple[int, ...]:
        """Return the study's seeds, then those that only a part of it has."""
        return tuple(dict.fromkeys([*self.seeds, *(seed for part in self.parts.values() for seed in part.seeds)]))

    def prompt_of(self, task: str) -> Prompt:
        """Return the prompt of a task's name: its own, else the one called "default", else that of `tuning.verbalisers`."""
        return self.prompts.get(task) or self.prompts.get("default") or Prompt()

    def backbone_of(self, delta: str) -> str:
        """Return the backbone of a delta's cells: its own where a part's options give it one, the study's otherwise."""
        own = [part.options.get(delta, {}).get("backbone") for part in self.parts.values()]
        return next((name for name in own if name), self.backbone)


def _record(kind: type, table: Any, where: str) -> Any:
    if not isinstance(table, Mapping):
        raise ValueError(f"expected a table at {where}, got {table!r}: write it as [{where}]")
    known = {f.name: f for f in dataclasses.fields(kind)}
    unknown = sorted(set(table) - set(known))
    if unknown:
        raise ValueError(f"unknown key {unknown[0]!r} in {where}: expected one of {', '.join(sorted(known))}")
    missing = [
        n
        for n, f in known.items()
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING and n not in table
    ]
    if missing:
        raise ValueError(f"missing key {missing[0]!r} in {where}: add it")
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in table.items()}
    for name, value in values.items():
        default, shape = known[name].default, typing.get_origin(known[name].type) or known[name].type
        if shape in SHAPES and not isinstance(value, shape):
            raise ValueError(f"expected {SHAPES[shape]} for {name!r} in {where}, got {value!r}: correct it")
        if isinstance(default, int | float) and (isinstance(value, bool) or not isinstance(value, int | float) or value <= 0):
            raise ValueError(f"expected a positive number for {name!r} in {where}, got {value!r}")
        if isinstance(default, int) and not isinstance(value, int):
            raise ValueError(f"expected a whole number for {name!r} in {where}, got {value!r}")
    return kind(**values)


def read(name_or_path: str) -> Study:
    """Return the study of a shipped name (quick, minilm, files) or of a TOML file.

    Raises ValueError with one sentence for a missing file, bad TOML, an unknown or missing key, or a wrong type.
    """
    path = pathlib.Path(name_or_path)
    if path.suffix != ".toml":
        path = FOLDER / f"{name_or_path}.toml"
    if not path.is_file():
        shipped = ", ".join(sorted(p.stem for p in FOLDER.glob("*.toml")))
        raise ValueError(f"expected a study file or one of {shipped}, got {name_or_path!r}")
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is not valid TOML: {error}") from None
    table["sizes"] = _record(Sizes, table.get("sizes", {}), "sizes")
    table["solver"] = _record(Solver, table.get("solver", {}), "solver")
    parts = table.get("parts", {})
    for name in ("parts", "deltas", "prompts"):
        entries = table.get(name, {})
        if not isinstance(entries, Mapping) or not all(isinstance(entry, Mapping) for entry in entries.values()):
            raise ValueError(f"expected tables under {name} in {path.name}, such as [{name}.NAME], got {entries!r}: correct it")
    table["parts"] = {kind: _record(Part, part, f"parts.{kind}") for kind, part in parts.items()}
    table["prompts"] = {task: _record(Prompt, asked, f"prompts.{task}") for task, asked in table.get("prompts", {}).items()}
    study = _record(Study, table, path.name)
    if study.dtype not in DTYPES:
        raise ValueError(f"expected dtype to be one of {', '.join(DTYPES)} in {path.name}, got {study.dtype!r}")
    if study.head not in HEADS:
        raise ValueError(f"expected head to be one of {', '.join(HEADS)} in {path.name}, got {study.head!r}")
    if study.head == "verbaliser":
        study = dataclasses.replace(study, sizes=dataclasses.replace(study.sizes, readout=0))
    elif study.prompts:
        raise ValueError(f'expected prompts beside head = "verbaliser" only in {path.name}, got a fitted head: set head')
    if study.unit not in UNITS:
        raise ValueError(f"expected unit to be one of {', '.join(UNITS)} in {path.name}, got {study.unit!r}")
    _lists(study)
    for name, spec in study.deltas.items():
        _shaped(spec, f"deltas.{name}")
    for kind, part in study.parts.items():
        for name, share in part.needs.items():
            right = name in NEEDS and isinstance(share, int | float) and not isinstance(share, bool) and 0 <= share < math.inf
            if not right:
                raise ValueError(f"expected cpus and gpus, numbers from 0 on, as needs of parts.{kind}, got {name} = {share!r}")
        for delta in part.deltas:
            if not isinstance(delta, str) or delta not in study.deltas:
                raise ValueError(f"parts.{kind} names the delta {delta!r}: expected one of {', '.join(study.deltas)}")
    return study


def _shaped(spec: Mapping[str, Any], where: str) -> None:
    """Raise ValueError where a delta's kind is no text, or its parts are no pairs of a label and a table."""
    kind, parts = spec.get("kind"), spec.get("parts", [])
    if not isinstance(kind, str | None):
        raise ValueError(f'expected a text as kind of {where}, such as kind = "LoRA", got {kind!r}: correct it')
    pairs = isinstance(parts, list) and all(isinstance(part, list) and len(part) == 2 for part in parts)
    if not pairs or not all(isinstance(label, str) and isinstance(part, Mapping) for label, part in parts):
        raise ValueError(f"expected pairs of a label and a table as parts of {where}, got {parts!r}: correct it")
    for label, part in parts:
        _shaped(part, f"{where}.{label}")


def _lists(study: Study) -> None:
    """Raise ValueError unless tasks and seeds are lists of different names and of different whole numbers from 0 on."""
    records = {"the study": study} | {f"parts.{kind}": part for kind, part in study.parts.items()}
    for where, record in records.items():
        for key, kind in (("tasks", str), ("seeds", int), ("development", str), ("sources", str)):
            found = getattr(record, key, ())
            right = isinstance(found, tuple) and all(isinstance(x, kind) and not isinstance(x, bool) for x in found)
            if not right or len(set(found)) < len(found) or (kind is int and min(found, default=0) < 0):
                what = "names of tasks" if kind is str else "whole numbers of at least 0"
                raise ValueError(f"expected a list of different {what} as {key} of {where}, got {found!r}: correct it")
        if record is study and not (study.tasks and study.seeds):
            raise ValueError("expected at least one task and one seed in the study, got none: name them")
    if both := set(study.development) & {task for record in records.values() for task in record.tasks}:
        raise ValueError(f"expected tasks of development on which no verdict rests, got {sorted(both)[0]!r} twice: name it once")


def with_data(study: Study, folders: tuple[str, ...], columns: Mapping[str, str] | None = None) -> Study:
    """Return the study with its tasks taken from folders or files given on the command line, and their columns.

    A folder is a folder even where an embedded task is called like it. Raises ValueError for one that does not exist.
    """
    if columns:
        study = dataclasses.replace(study, columns=dict(columns))
    if not folders:
        return study
    for folder in folders:
        if not pathlib.Path(folder).exists():
            raise ValueError(f"expected a folder or file of task data, got {folder!r}, which does not exist")
    paths = [str(pathlib.Path(f)) for f in folders]
    tasks = tuple(path if os.sep in path else os.path.join(os.curdir, path) for path in paths)
    parts = {kind: dataclasses.replace(part, tasks=()) for kind, part in study.parts.items()}
    return dataclasses.replace(study, tasks=tasks, development=(), parts=parts)


def resampled(study: Study, seeds: int = SPLITS) -> Study:
    """Return the study with so many seeds and, on a single task, with the seed as its unit, for a verdict about that task."""
    if seeds < 1:
        raise ValueError(f"expected at least one seed, got {seeds}")
    parts = {kind: dataclasses.replace(part, seeds=()) for kind, part in study.parts.items()}
    unit = "seed" if len(study.tasks) == 1 else study.unit
    return dataclasses.replace(study, seeds=tuple(range(seeds)), parts=parts, unit=unit)
