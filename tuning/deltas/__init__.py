"""The deltas under study: each a frozen record that says what it adds, where it enters and how large it is.

Every delta has `name`, `shapes(backbone)`, `initial(backbone, seed)`, `edits(backbone, params)` and
`size(backbone)`. Parameters are named "block.site.what", with "label/" in front inside a combination.
"""

from __future__ import annotations

import dataclasses

from tuning.deltas.context import Prefix, Prompt
from tuning.deltas.layers import IA3, Adapter, BitFit, LoRA, PortBias
from tuning.deltas.whole import Combined, Full
from tuning.edits import Edits

KINDS = (Prompt, Prefix, Adapter, LoRA, BitFit, PortBias, IA3, Full, Combined)


def identity_edits(delta, backbone, seed: int = 0) -> Edits:
    """The edits at the delta's identity point, where the model computes exactly what the frozen one computes.

    For prompt and prefix this is the masked prefix: slots that receive no attention (He et al. 2022, eq. 5
    with lambda = 0). Zero keys and values are not the identity, because they still take attention mass.
    """
    return dataclasses.replace(delta.edits(backbone, delta.initial(backbone, seed)), closed=True, shift=0)


def place_of(parameter: str) -> str:
    """Where a delta's parameter acts: "block.site", "embedding" or "final"; energies are grouped by it."""
    first, _, rest = parameter.rpartition("/")[2].partition(".")
    return f"{first}.{rest.partition('.')[0]}" if first.isdigit() else first


def parse(text: str):
    """The delta that a short text names: a kind, then settings, as in "lora:rank=4,targets=q+v" or "bitfit".

    Kinds are prompt, prefix, adapter, lora, bitfit, port-bias, ia3, full; several joined by "&" are combined,
    in which case each part's label is its kind. Raises ValueError for an unknown kind or setting.
    """
    parts = [_parse_one(part.strip()) for part in text.split("&")]
    return parts[0][1] if len(parts) == 1 else Combined(tuple(parts))


def _parse_one(text: str) -> tuple[str, object]:
    kinds = {
        kind.__name__.lower().replace("portbias", "port-bias"): kind for kind in KINDS if kind is not Combined
    }
    word, _, rest = text.partition(":")
    if word not in kinds:
        raise ValueError(f"expected a delta among {', '.join(kinds)}, got {word!r}")
    fields = {entry.name: entry for entry in dataclasses.fields(kinds[word])}
    settings = {}
    for item in filter(None, rest.split(",")):
        key, _, value = item.partition("=")
        if key not in fields:
            raise ValueError(f"expected a setting of {word} among {', '.join(fields) or 'none'}, got {key!r}")
        settings[key] = _value(str(fields[key].type), value, f"{word}:{item}")
    try:
        return word, kinds[word](**settings)
    except TypeError as error:
        raise ValueError(
            f"expected every needed setting of {word} ({', '.join(fields)}), got {text!r}"
        ) from error


def _value(kind: str, value: str, where: str):
    """A setting's value read by its annotation; several values are joined by "+"."""
    try:
        if kind.startswith("tuple[int"):
            return tuple(int(part) for part in value.split("+"))
        if kind.startswith("tuple[str"):
            return tuple(value.split("+"))
        if kind == "bool":
            return {"true": True, "false": False}[value]
        return value if kind == "str" else int(value) if kind == "int" else float(value)
    except (ValueError, KeyError) as error:
        raise ValueError(f"expected a value of kind {kind} in {where!r}, got {value!r}") from error


__all__ = [
    "IA3",
    "KINDS",
    "Adapter",
    "BitFit",
    "Combined",
    "Full",
    "LoRA",
    "PortBias",
    "Prefix",
    "Prompt",
    "identity_edits",
    "parse",
    "place_of",
]
