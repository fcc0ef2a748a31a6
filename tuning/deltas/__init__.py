"""The deltas under study, each in a file of its own, and how one is written: as a mapping or as a short text.

One table names them. A mapping is what a study's TOML and a checkpoint hold, {"kind": "LoRA", "rank": 4}; a short text is
what a command takes, "lora:rank=4". Both go by either name of a kind and through `build`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from tuning.backbones import Backbone
from tuning.deltas.adapter import Adapter
from tuning.deltas.bitfit import BitFit
from tuning.deltas.combined import Combined
from tuning.deltas.delta import Delta
from tuning.deltas.dora import DoRA
from tuning.deltas.full import Full
from tuning.deltas.ia3 import IA3
from tuning.deltas.intrinsic_prompt import IntrinsicPrompt
from tuning.deltas.last_layers import LastLayers
from tuning.deltas.ln_tuning import LNTuning
from tuning.deltas.lokr import LoKr
from tuning.deltas.lora import LoRA
from tuning.deltas.port_bias import PortBias
from tuning.deltas.prefix import Prefix
from tuning.deltas.projected_prefix import ProjectedPrefix
from tuning.deltas.prompt import Prompt
from tuning.deltas.shira import SHiRA
from tuning.deltas.vera import VeRA
from tuning.edits import Edits

KINDS: dict[str, type[Delta]] = {
    "prompt": Prompt,
    "intrinsic-prompt": IntrinsicPrompt,
    "prefix": Prefix,
    "projected-prefix": ProjectedPrefix,
    "adapter": Adapter,
    "lora": LoRA,
    "dora": DoRA,
    "vera": VeRA,
    "lokr": LoKr,
    "bitfit": BitFit,
    "ln-tuning": LNTuning,
    "last-layers": LastLayers,
    "shira": SHiRA,
    "port-bias": PortBias,
    "ia3": IA3,
    "full": Full,
    "combined": Combined,
}
_NAMES = {kind: name for name, kind in KINDS.items()}
_NAMED = KINDS | {kind.__name__: kind for kind in _NAMES}

__all__ = ["KINDS", "Delta", "build", "identity_edits", "parse", "place_of", "record_of", "text_of"]
__all__ += [kind.__name__ for kind in _NAMES]


def identity_edits(delta: Delta, backbone: Backbone, seed: int = 0) -> Edits:
    """Return the edits at the delta's identity point, where the model computes exactly what the frozen one computes.

    For prompt and prefix this is the masked prefix: slots that receive no attention (He et al. 2022, eq. 5
    with lambda = 0). Zero keys and values are not the identity, because they still take attention mass.
    """
    return dataclasses.replace(delta.edits(backbone, delta.initial(backbone, seed)), closed=True, shift=0)


def place_of(parameter: str) -> str:
    """Return where a delta's parameter acts: "block.site", "embedding" or "final"; energies are grouped by it."""
    first, _, rest = parameter.rpartition("/")[2].partition(".")
    return f"{first}.{rest.partition('.')[0]}" if first.isdigit() else first


def build(spec: Mapping) -> Delta:
    """Return the delta of a mapping {"kind": ..., setting: value, ...}; lists stand for tuples, one text for a tuple of it.

    So ports = "attention" is every port of that site. The parts of a combination are [label, mapping] pairs. Raises
    ValueError for an unknown kind, an unknown setting, and one that is missing or of the wrong type.
    """
    kind = spec.get("kind")
    if kind not in _NAMED:
        raise ValueError(f"expected a delta among {', '.join(KINDS)}, got {kind!r}")
    fields = {entry.name: str(entry.type) for entry in dataclasses.fields(_NAMED[kind])}
    needed = [entry.name for entry in dataclasses.fields(_NAMED[kind]) if entry.default is dataclasses.MISSING]
    settings = {key: value for key, value in spec.items() if key != "kind"}
    if unknown := sorted(set(settings) - set(fields)):
        raise ValueError(f"expected a setting of {kind} among {', '.join(fields) or 'none'}, got {unknown[0]!r}")
    for key, value in settings.items():
        if isinstance(value, list | tuple):
            settings[key] = tuple((label, build(part)) for label, part in value) if key == "parts" else tuple(value)
        elif isinstance(value, str) and fields[key].startswith("tuple[str"):
            settings[key] = (value,)
    if missing := [name for name in needed if name not in settings]:
        example = f"{_NAMES[_NAMED[kind]]}:{missing[0]}=4"
        raise ValueError(f"{kind} needs a value of {' and '.join(missing)}, got none: write {example}")
    try:
        return _NAMED[kind](**settings)
    except TypeError as error:
        raise ValueError(f"expected settings of {kind} of the right kinds, got {dict(spec)}: correct them") from error


def record_of(delta: Delta) -> dict:
    """Return the mapping that `build` reads back as this very delta, plain JSON."""
    settings = {entry.name: getattr(delta, entry.name) for entry in dataclasses.fields(delta)}
    if isinstance(delta, Combined):
        settings["parts"] = [[label, record_of(part)] for label, part in delta.parts]
    return {"kind": type(delta).__name__} | settings


def parse(text: str) -> Delta:
    """Return the delta of a short text: a kind, then settings, as in "lora:rank=4,targets=q+v" or "bitfit".

    Several joined by "&" are combined, each part's label its kind. Values are joined by "+", and "2-5" stands for "2+3+4+5";
    blocks are counted from 0. Raises ValueError for an unknown kind or setting.
    """
    parts = [_parsed(part.strip()) for part in text.split("&")]
    return parts[0] if len(parts) == 1 else Combined(tuple((_NAMES[type(part)], part) for part in parts))


def text_of(delta: Delta) -> str:
    """Return the short text that `parse` reads back as this very delta; raises ValueError where there is none.

    There is none for a combination whose labels are not its parts' kinds, and for patterns with "+", "," or "&".
    """
    parts = [part for _, part in delta.parts] if isinstance(delta, Combined) else [delta]
    text = " & ".join(_written(part) for part in parts)
    if parse(text) != delta:
        raise ValueError(f"expected a delta that a short text can name, {text!r} is another than {delta}")
    return text


def _parsed(text: str) -> Delta:
    """Return the delta of one part of a short text."""
    kind, _, rest = text.partition(":")
    if _NAMED.get(kind, Combined) is Combined:
        raise ValueError(f"expected a delta among {', '.join(name for name in KINDS if name != 'combined')}, got {kind!r}")
    types = {entry.name: str(entry.type) for entry in dataclasses.fields(_NAMED[kind])}
    settings = {}
    for item in filter(None, rest.split(",")):
        key, _, value = item.partition("=")
        settings[key] = _value(types.get(key, "str"), value, f"{kind}:{item}")
    return build({"kind": kind} | settings)


def _value(kind: str, value: str, where: str) -> object:
    """Return a setting's value, read by its annotation."""
    try:
        if kind.startswith("tuple[int"):
            ends = [part.partition("-") for part in value.split("+")]
            runs = [range(int(low), int(high or low) + 1) for low, _, high in ends]
            if not all(runs):
                raise ValueError("a range that ends before it begins")
            return tuple(i for run in runs for i in run)
        if kind.startswith("tuple[str"):
            return tuple(filter(None, value.split("+")))
        if kind == "bool":
            return {"true": True, "false": False}[value]
        return value if kind == "str" else int(value) if kind.startswith("int") else float(value)
    except (ValueError, KeyError) as error:
        raise ValueError(f"expected a value of kind {kind} in {where!r}, got {value!r}") from error


def _written(delta: Delta) -> str:
    """Return a delta's kind and those of its settings that are not the default, as a short text."""
    values = {entry.name: getattr(delta, entry.name) for entry in dataclasses.fields(delta)}
    defaults = {entry.name: entry.default for entry in dataclasses.fields(delta)}
    settings = [f"{key}={_spelt(value)}" for key, value in values.items() if value != defaults[key]]
    return ":".join(filter(None, (_NAMES[type(delta)], ",".join(settings))))


def _spelt(value: object) -> str:
    """Return a setting's value as `_value` reads it; runs of three and more numbers become a range."""
    if isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, tuple):
        return str(value)
    made: list[list] = []
    for entry in value:
        if made and isinstance(entry, int) and entry == made[-1][-1] + 1:
            made[-1].append(entry)
        else:
            made.append([entry])
    return "+".join(f"{run[0]}-{run[-1]}" if len(run) > 2 else "+".join(map(str, run)) for run in made)
