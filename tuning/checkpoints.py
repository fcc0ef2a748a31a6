"""A trained delta on disk: one safetensors file whose header carries a JSON record; never pickle.

One file, so that numbers and record cannot come apart; written under a temporary name and then renamed, so
that a reader sees the old file or the new one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from tuning.backbones import Backbone
from tuning.deltas import build, record_of
from tuning.peft_format import import_peft_classifier
from tuning.subjects import READOUT_PARAMETERS, Params, Readout, Subject, subject

FORMAT = 1


@dataclass(frozen=True)
class Checkpoint:
    """What a file held: the subject, the trained parameters and the provenance given with them."""

    subject: Subject
    params: Params = field(repr=False)
    provenance: dict


def save(path: str | Path, subject: Subject, params: Params, provenance: Mapping) -> Path:
    """Write the trained parameters, the readout and the record to one safetensors file and return its path.

    Raises ValueError, and writes nothing, for parameters that are not finite or not those of the subject.
    """
    expected = {name: tuple(value.shape) for name, value in subject.initial.items()}
    _matches(expected, params, "the parameters to save")
    path = Path(path)
    record = {
        "format": FORMAT,
        "delta": record_of(subject.delta),
        "seed": subject.seed,
        "backbone": subject.backbone.name,
        "fingerprint": subject.backbone.fingerprint,
        "provenance": dict(provenance),
    }
    tensors = {f"params/{name}": value.detach().cpu().contiguous() for name, value in params.items()}
    tensors |= {
        "readout/weight": subject.readout.weight.cpu().contiguous(),
        "readout/bias": subject.readout.bias.cpu(),
    }
    if subject.readout.first is not None:
        weight, bias, record["readout_first"] = subject.readout.first
        tensors |= {"readout/first_weight": weight.cpu().contiguous(), "readout/first_bias": bias.cpu().contiguous()}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        save_file(tensors, temporary, metadata={"record": json.dumps(record, sort_keys=True)})
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def load(path: str | Path, backbone: Backbone) -> Checkpoint:
    """Return the checkpoint at `path`, which must belong to this very backbone.

    A folder is read as a PEFT adapter with its classifier (`import_peft_classifier`), which names no weights of its
    base model: that it is this backbone is the caller's word. The subject then starts at the delta's initial values
    for seed 0. Raises ValueError in one sentence for a missing, truncated or foreign file, another backbone (by
    fingerprint), an unknown kind of delta, numbers of the wrong shape, and numbers that are not finite.
    """
    path = Path(path)
    if path.is_dir():
        if not (path / "adapter_config.json").is_file():
            raise ValueError(
                f"expected a checkpoint file or a PEFT folder at {path}, got a folder without adapter_config.json; check the path"
            )
        delta, params, readout = import_peft_classifier(path, backbone)
        made = subject(backbone, delta, readout, 0)
        return Checkpoint(made, {name: params[name] for name in made.initial}, {"peft": str(path)})
    if not path.is_file():
        raise ValueError(f"expected a checkpoint file at {path}, found none; check the path")
    try:
        with safe_open(path, framework="pt") as file:
            record = json.loads((file.metadata() or {}).get("record", "null"))
            names = list(file.keys())
            # Copied to where products round as those of any tensor do; in the file they may lie at any byte.
            tensors = {name: file.get_tensor(name).to(backbone.device, backbone.fine, copy=True) for name in names}
    except (SafetensorError, ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"expected a whole checkpoint at {path}, got a damaged file ({error})") from error
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise ValueError(f"expected a checkpoint of format {FORMAT} at {path}, got {type(record).__name__}; save it anew")
    if record.get("fingerprint") != backbone.fingerprint:
        other, mark = str(record.get("backbone")), str(record.get("fingerprint"))
        raise ValueError(
            f"expected a checkpoint of {backbone.name} ({backbone.fingerprint[:12]}), got one of "
            f"{other[:60]} ({mark[:12]}); load that backbone"
        )
    try:
        return _restored(record, tensors, backbone, path)
    except (KeyError, TypeError, AttributeError, IndexError, RuntimeError, OverflowError) as error:
        said = " ".join(str(error).split())[:200]
        raise ValueError(
            f"expected a checkpoint that this lab wrote at {path}, got another record ({said}): save it anew"
        ) from None


def _restored(record: Mapping, tensors: dict[str, torch.Tensor], backbone: Backbone, path: Path) -> Checkpoint:
    """Return what a file's record and numbers say."""
    delta = build(record["delta"])
    first = record.get("readout_first")
    if first is not None:
        first = tensors.pop("readout/first_weight"), tensors.pop("readout/first_bias"), first
    readout = Readout(tensors.pop("readout/weight"), tensors.pop("readout/bias"), first)
    params = {name.removeprefix("params/"): value for name, value in tensors.items()}
    made = subject(backbone, delta, readout, record["seed"], train_readout=READOUT_PARAMETERS[0] in params)
    _matches({name: tuple(value.shape) for name, value in made.initial.items()}, params, str(path))
    return Checkpoint(made, {name: params[name] for name in made.initial}, record["provenance"])


def _matches(expected: Mapping[str, tuple], params: Params, where: str) -> None:
    """Raise ValueError unless the parameters have the expected names and shapes and are finite."""
    found = {name: tuple(value.shape) for name, value in params.items()}
    if found != dict(expected):
        differing = sorted(set(found.items()) ^ set(expected.items()))[0]
        raise ValueError(f"expected the delta's names and shapes in {where}, they differ at {differing}")
    for name, value in params.items():
        if not torch.isfinite(value).all():
            raise ValueError(f"expected finite numbers in {where}, got NaN or infinity in {name}; take smaller steps")
