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
    in which case each part's label is its kind. Blocks are counted from 0; "2-5" stands for "2+3+4+5". Raises
    ValueError for an unknown kind or setting.
    """
    parts = [_parse_one(part.strip()) for part in text.split("&")]
    return parts[0][1] if len(parts) == 1 else Combined(tuple(parts))


def text_of(delta) -> str:
    """The short text that `parse` reads back as this very delta; ValueError where there is none.

    There is none for a combination whose labels are not its parts' kinds, and for patterns with "+", "," or "&".
    """
    parts = [part for _, part in delta.parts] if isinstance(delta, Combined) else [delta]
    text = " & ".join(_text_of_one(part) for part in parts)
    if parse(text) != delta:
        raise ValueError(f"expected a delta that a short text can name, {text!r} is another than {delta}")
    return text


def _text_of_one(delta) -> str:
    settings = [
        f"{entry.name}={_written(getattr(delta, entry.name))}"
        for entry in dataclasses.fields(delta)
        if getattr(delta, entry.name) != entry.default
    ]
    return ":".join(filter(None, (_word(type(delta)), ",".join(settings))))


def _word(kind: type) -> str:
    return kind.__name__.lower().replace("portbias", "port-bias")


def _written(value) -> str:
    """A setting's value as `_value` reads it; runs of three and more numbers become a range."""
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


def _parse_one(text: str) -> tuple[str, object]:
    kinds = {_word(kind): kind for kind in KINDS if kind is not Combined}
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
        raise ValueError(f"expected every needed setting of {word} ({', '.join(fields)}), got {text!r}") from error


def _value(kind: str, value: str, where: str):
    """A setting's value read by its annotation; several values are joined by "+", a range of numbers is "2-5"."""
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
    "text_of",
]
