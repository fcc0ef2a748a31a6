"""Which of the lab's own source files a measurement depends on, and their digest."""

import ast
import functools
import hashlib
import pathlib
from collections.abc import Iterable, Iterator

ROOT = pathlib.Path(__file__).resolve().parents[1]
ROOMS = ("theory", "tuning", "probes", "validations", "reports")
# what keeps results, and the list of all claims: a measurement does not depend on them
ASIDE = ("validations", "validations.store", "validations.sources", "validations.claims")


def _file(module: str) -> pathlib.Path | None:
    path = ROOT.joinpath(*module.split("."))
    for candidate in (path.with_suffix(".py"), path / "__init__.py"):
        if candidate.is_file():
            return candidate
    return None


@functools.cache
def _imported(package: str, text: str) -> tuple[str, ...]:
    """Return the modules that the source text of a module in a package names in its imports, wherever they stand in it."""
    return tuple(_named(package, ast.parse(text)))


def _named(package: str, tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = package.split(".")
                above = ".".join(parts[: len(parts) - node.level + 1])
                base = f"{above}.{base}".rstrip(".")
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


@functools.cache
def reached(module: str) -> frozenset[str]:
    """Return the lab's modules that importing `module` runs, packages on the way included; what stands aside is left out."""
    found: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name in found or name in ASIDE or name.partition(".")[0] not in ROOMS or (path := _file(name)) is None:
            continue
        found.add(name)
        waiting += [".".join(name.split(".")[:k]) for k in range(1, name.count(".") + 1)]
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        waiting += _imported(package, path.read_text(encoding="utf-8"))
    return frozenset(found)


def digest(modules: Iterable[str]) -> str:
    """Return the first 16 hex digits of the sha256 of every source file that some modules reach by imports."""
    paths = sorted({str(_file(name)) for module in modules for name in reached(module)})
    made = hashlib.sha256()
    for path in paths:
        made.update(str(pathlib.Path(path).relative_to(ROOT)).encode() + b"\0" + pathlib.Path(path).read_bytes())
    return made.hexdigest()[:16]
