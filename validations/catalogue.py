"""What claims there are, read from their source: listing them loads none of what they measure with."""

import ast
import functools
import pathlib
from collections.abc import Iterator
from dataclasses import dataclass

FOLDER = pathlib.Path(__file__).with_name("claims")


@dataclass(frozen=True)
class Listed:
    """A claim's place in the lists: its id, title, nature (consistency or prediction) and view (optimization or control)."""

    id: str
    title: str
    nature: str
    view: str


def claims(folder: pathlib.Path = FOLDER) -> list[Listed]:
    """Return every claim in the order of the tuple CLAIMS in the folder's __init__.py; claims outside it follow by file.

    They are the calls of `Claim`, and of `replace` with an id, that are given a name at the top of a module. Raises ValueError
    where id, title, nature or view is no plain text.
    """
    found = {(path, name): claim for path in sorted(folder.rglob("*.py")) for name, claim in _claims(path)}
    order = {place: number for number, place in enumerate(_told(folder / "__init__.py"))}
    return [found[place] for place in sorted(found, key=lambda place: (order.get(place, len(order)), place))]


@functools.cache
def _parsed(path: pathlib.Path) -> list[tuple[str, ast.expr]]:
    """Return a module's assignments at its top, (name, what it is given)."""
    found = []
    for line in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(line, ast.Assign | ast.AnnAssign) and line.value is not None:
            target = line.target if isinstance(line, ast.AnnAssign) else line.targets[0]
            found.append((getattr(target, "id", ""), line.value))
    return found


def _claims(path: pathlib.Path) -> Iterator[tuple[str, Listed]]:
    """Yield (name in the module, claim) of a file's claims."""
    tables: dict[str, dict[str, ast.expr]] = {}  # of words that claims share, by name
    for name, value in _parsed(path):
        if isinstance(value, ast.Dict):
            tables[name] = {key.value: entry for key, entry in zip(value.keys, value.values, strict=True) if _is_text(key)}
        if not isinstance(value, ast.Call) or not _makes_a_claim(value):
            continue
        given: dict[str, ast.expr] = {}
        for word in value.keywords:
            given |= {word.arg: word.value} if word.arg else tables.get(getattr(word.value, "id", ""), {})
        yield name, _listed(given, f"{path.name}, line {value.lineno}")


def _makes_a_claim(call: ast.Call) -> bool:
    name = getattr(call.func, "id", "")
    return name == "Claim" or (name == "replace" and any(word.arg == "id" for word in call.keywords))


def _is_text(key: ast.expr | None) -> bool:
    return isinstance(key, ast.Constant) and isinstance(key.value, str)


def _listed(given: dict[str, ast.expr], where: str) -> Listed:
    try:
        return Listed(**{key: ast.literal_eval(given[key]) for key in Listed.__annotations__})
    except (KeyError, ValueError):
        raise ValueError(f"expected id, title, nature and view as plain text in {where}") from None


def _told(path: pathlib.Path) -> list[tuple[pathlib.Path, str]]:
    """Return the claims of the tuple CLAIMS, each as (file, name in it), following the imports of the file."""
    homes = {}
    for line in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(line, ast.ImportFrom) and line.module and line.level < 2:
            module = path.parent.joinpath(*line.module.removeprefix("validations.claims.").split("."))
            home = module / "__init__.py" if module.is_dir() else module.with_suffix(".py")
            homes |= {entry.asname or entry.name: (home, entry.name) for entry in line.names}
    told = next((value for name, value in _parsed(path) if name == "CLAIMS"), None)
    return [homes[entry.id] for entry in getattr(told, "elts", []) if getattr(entry, "id", "") in homes]
