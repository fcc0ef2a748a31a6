"""Data and backbones of the driver's disk for machines that lack them: sent once, unpacked once on each."""

import hashlib
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from typing import Any

Parcels = Mapping[str, tuple[str, Mapping[str, bytes]]]  # name in the settings -> (absolute path, files by their path inside)


def packed(settings: Iterable[Mapping[str, Any]]) -> Parcels:
    """Return the files and folders that some cells' settings name as task or backbone."""
    names = {name for one in settings for name in _names(one)}
    found = {name: pathlib.Path(name).absolute() for name in sorted(names) if pathlib.Path(name).exists()}
    return {name: (str(path), _files(path)) for name, path in found.items()}


def unpacked(parcels: Parcels, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return where a cell's task, other tasks and backbone stand on this machine: where they stood, else unpacked here."""
    here = {name: _place(*parcels[name]) for name in _names(settings) if name in parcels}
    made = {part: here.get(settings[part], settings[part]) for part in ("task", "backbone_name") if part in settings}
    return made | ({"others": [here.get(name, name) for name in settings["others"]]} if "others" in settings else {})


def _names(settings: Mapping[str, Any]) -> list[str]:
    return [name for name in (settings.get("task"), settings.get("backbone_name"), *settings.get("others", ())) if name]


def _files(path: pathlib.Path) -> dict[str, bytes]:
    if path.is_file():
        return {"": path.read_bytes()}
    return {str(file.relative_to(path)): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}


def _place(path: str, files: Mapping[str, bytes]) -> str:
    """Return the path where it exists, else a copy in this machine's temporary folder, complete or absent."""
    if os.path.exists(path):
        return path
    made = hashlib.sha256()
    for name in sorted(files):
        made.update(f"{name}\0{len(files[name])}\0".encode(errors="surrogateescape") + files[name])
    home = pathlib.Path(tempfile.gettempdir()) / f"costate-{os.getuid()}-{made.hexdigest()[:20]}"
    copy = home / os.path.basename(path)
    if not home.is_dir():
        fresh = pathlib.Path(tempfile.mkdtemp(prefix="costate-"))
        for name, data in files.items():
            target = fresh / os.path.basename(path) / name if name else fresh / os.path.basename(path)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
        try:
            os.rename(fresh, home)
        except OSError:  # another process was first
            shutil.rmtree(fresh)
    return str(copy)
