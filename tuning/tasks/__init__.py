"""Text classification tasks: embedded real text, generated grammar, files and hub data sets.

>>> task = load("agreement", sizes={"train": 40, "test": 20})
>>> task.classes, len(task.take("test", 10, seed=0))
(('agrees', 'disagrees'), 10)
"""

from __future__ import annotations

import difflib
import hashlib
import json
import pathlib
from collections.abc import Mapping, Sequence

from tuning.tasks import embedded, files, grammar, hub, naming, prose
from tuning.tasks.checked import check_lines, check_of
from tuning.tasks.parts import Parts, disjoint, overlaps
from tuning.tasks.task import Split, Task, describe, leak_warning, leaks, make_task, relabel, restore, save, warn

__all__ = [
    "FAMILIES",
    "Parts",
    "Split",
    "Task",
    "check_lines",
    "check_of",
    "describe",
    "disjoint",
    "distinct_names",
    "families",
    "leak_warning",
    "leaks",
    "load",
    "make_task",
    "names",
    "overlaps",
    "relabel",
    "restore",
    "save",
    "warn",
]

SPLITS = ("train", "dev", "test")
FAMILIES = {  # where the labels of an embedded task come from
    "topic": "documentation: the package that a sentence of a docstring is from",
    "discourse": "documentation: where in a docstring a sentence stood",
    "order": "documentation: a sentence as written, or with its words moved",
    "grammar": "a rule of grammar, kept or broken",
    "reading": "what one sentence says",
    "relation": "how two sentences, numbers or words are related",
}


def names() -> tuple[str, ...]:
    """Return the names of the embedded tasks: real text first, then generated grammar."""
    return embedded.names() + grammar.names()


def families() -> dict[str, tuple[str, ...]]:
    """Return the names of the embedded tasks by where their labels come from, in the order of `FAMILIES`."""
    placed = {name: (embedded if name in embedded.names() else grammar).family(name) for name in names()}
    return {family: tuple(name for name in placed if placed[name] == family) for family in FAMILIES}


def distinct_names(specs: Sequence[str]) -> dict[str, str]:
    """Return a name for each task by what `load` is asked for, no two alike; raises ValueError for one asked twice."""
    return naming.distinct_names(specs, names())


def load(
    name: str | pathlib.Path,
    *,
    sizes: Mapping[str, int] | None = None,
    seed: int = 0,
    columns: Mapping[str, str] | None = None,
    cache: pathlib.Path | None = None,
) -> Task:
    """Return the task of that name: embedded, a folder of splits, one file, or ``hub:<dataset>[:<config>]``.

    ``sizes`` names the splits wanted and how many examples each gets, as balanced as the data allow; without
    it an embedded task has 1200/300/600 or what the installed text gives, and files are taken whole. ``seed``
    fixes every draw. ``columns`` maps text_a, text_b, label to the columns of a file or hub data set, whose usual
    names need none. A Path is a file or folder, whatever its name. ``cache`` is a folder that keeps embedded
    tasks built from installed packages as JSON, under a key of name, sizes, seed, package versions and this
    package's code. Raises ValueError in one sentence for an unknown name and for whatever cannot be met.
    """
    check_sizes(sizes)
    if not str(name).strip():
        raise ValueError("expected a task, file or folder, got an empty name: name a file, or one that costate list tasks shows")
    if isinstance(name, str) and name in names():
        if columns is not None:
            raise ValueError(f"the embedded task {name!r} takes no columns, which are for files and hub data: drop them")
        if pathlib.Path(name).is_dir() and files.split_files(pathlib.Path(name)):
            raise ValueError(
                f"{name!r} is an embedded task and also a folder of data here: write ./{name} for the folder, or rename it"
            )
        return built(str(name), sizes, seed, cache)
    if str(name).startswith("hub:"):
        task = hub.load(str(name).removeprefix("hub:"), columns)
    else:
        path = pathlib.Path(name)
        if not path.exists() and len(path.parts) == 1 and files.suffix(path) is None:
            near = difflib.get_close_matches(str(name), names(), n=1)
            hint = f"did you mean {near[0]!r}?" if near else "costate list tasks shows the embedded ones"
            raise ValueError(f"{str(name)!r} is no embedded task, file or folder: {hint}")
        task = files.load(path, columns, seed)
    if sizes is None:
        return task
    splits = {key: task.take(key, n, seed) for key, n in sizes.items()}
    return make_task(task.name, task.family, task.classes, splits, task.source)


def check_sizes(sizes: Mapping[str, int] | None) -> None:
    """Raise ValueError unless the sizes are positive whole numbers for train, dev, test or test_*."""
    for key, n in (sizes or {}).items():
        if key not in SPLITS and not key.startswith("test_"):
            raise ValueError(f"sizes names the split {key!r}, expected train, dev, test or test_*: correct it")
        if isinstance(n, bool) or not isinstance(n, int) or n < 1:
            raise ValueError(f"the size of {key} is {n!r}, expected a whole number of at least 1: correct it")
    if sizes is not None and not {"train", "test"} <= set(sizes):
        raise ValueError(f"sizes has {', '.join(sizes) or 'no split'}, expected at least train and test: add them")


def built(name: str, sizes: Mapping[str, int] | None, seed: int, cache: pathlib.Path | None) -> Task:
    """Return an embedded task, from the cache where it has this very one, else built and then cached."""
    if sizes is not None and not set(sizes) <= set(SPLITS):
        raise ValueError(f"the embedded task {name!r} takes sizes for train, dev and test only: drop the others")
    if name in grammar.names():
        return grammar.build(name, sizes, seed)
    if cache is None:
        return embedded.build(name, sizes, seed)
    versions = [prose.version(package) for package in embedded.packages(name)]
    code = [path.read_text(encoding="utf-8") for path in sorted(pathlib.Path(__file__).parent.glob("*.py"))]
    key = hashlib.sha256(json.dumps([name, dict(sizes or {}), seed, versions, code]).encode()).hexdigest()[:12]
    path = pathlib.Path(cache) / f"{name}-{key}.json"
    if path.is_file():
        try:
            return restore(path)
        except ValueError:
            pass  # a damaged copy is rebuilt below
    task = embedded.build(name, sizes, seed)
    save(task, path)
    return task
