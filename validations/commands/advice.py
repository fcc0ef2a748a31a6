"""Advice in words: the choice with its gain, the options that cannot be told from it, why, and the grounds for trust."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator, Mapping

ENDS = {
    "share": "it ended with its share of the passes",
    "minutes": "it ended with its minutes",
    "all": "every run took part",
}


def page(advised: Mapping) -> str:
    """Return the advice as text."""
    parts = (_choice, _options, _why, _grounds, _settings)
    return "\n\n".join("\n".join(part(advised)) for part in parts)


def _label(advised: Mapping, option: str) -> str:
    return next(row["label"] for row in advised["options"] if row["option"] == option)


def _choice(advised: Mapping) -> Iterator[str]:
    race, level = advised["race"], advised["level"]
    best = next(row for row in advised["options"] if row["option"] == advised["choice"])
    where = f"{advised['data']} on {advised['backbone']}"
    interval = f"[{best['low']:+.1f}, {best['high']:+.1f}]"
    if advised["keep_frozen"]:
        yield f"{where}: keep the frozen model with its head"
        yield f"  no gain is clear of zero: the most promising, {best['label']} at rate {advised['rate']:g}, is foretold"
        yield f"  {best['points']:+.1f} points of held-out accuracy over it {interval}"
        if not race:
            yield "  whether it gains on dev text, a race would tell: leave out --no-training"
    else:
        yield f"{where}: tune {best['label']} at rate {advised['rate']:g}"
        yield f"  foretold: {best['points']:+.1f} points of held-out accuracy over the frozen model with its head {interval}"
    if not race:
        return
    yield (
        f"  chosen in a race of {race['entrants']} of {race['runs']} runs, for {race['share_of_grid']:.0%} of all runs' passes: "
        f"{race['dev_points']:+.1f} points on dev text after {race['step']} steps, at least {race['low']:+.1f} at {level:.0%}"
    )
    if race["ended"] == "certain":
        yield f"  it ended early: at {level:.0%} no other option gains over a point more"
        return
    still = ", ".join(_label(advised, option) for option in race["undecided"])
    left = f"left undecided at {level:.0%}, each may gain over a point more: {still}" if still else "nothing is undecided"
    yield f"  {ENDS[race['ended']]}; {left}"


def _options(advised: Mapping) -> Iterator[str]:
    yield f"{'option':<28}{'numbers':>10}{'points':>9}  {advised['held']:.0%} interval"
    for place, row in enumerate(advised["options"]):
        tied = "  not told from the best" if row["tied"] and place else ""
        interval = f"[{row['low']:+.1f}, {row['high']:+.1f}]"
        yield f"{row['label']:<28}{row['parameters']:>10}{row['points']:>+9.1f}  {interval}{tied}"
    if advised["held"] < advised["level"]:
        tasks, asked = advised["learnt_from"]["tasks"], advised["level"]
        yield f"  {tasks} tasks of known outcome give intervals for {advised['held']:.0%} of tasks at most, not {asked:.0%}"
    if untold := [row["label"] for row in advised["options"] if not row["told_from"]]:
        yield f"  no time was left to foretell these, whose mean gain on other tasks stands here: {', '.join(untold)}"
    for row in advised["options"]:
        if 0 < row["told_from"] < 1:
            yield f"  {row['label']} is foretold from {row['told_from']:.1%} of its numbers, drawn at random, for want of memory"


def _why(advised: Mapping) -> Iterator[str]:
    layers, label = advised["layers"], _label(advised, advised["choice"])
    if layers is None:
        yield f"{label} was not foretold from the model, so that there is no map of its layers"
        return
    if layers[0]["share"] is None:
        yield f"for {label} the tangent model foretells no fall of the dev loss, so that there is no map of its layers"
        return
    yield f"why: where the fall of the dev loss that the tangent model foretells for {label} comes from"
    sites = list(dict.fromkeys(layer["site"] for layer in layers if layer["block"] is not None))
    shares = {(layer["block"], layer["site"]): layer["share"] for layer in layers}
    yield f"{'block':<12}" + "".join(f"{site:>12}" for site in sites)
    for block in sorted({block for block, _ in shares if block is not None}):
        cells = (f"{shares[block, site]:>12.0%}" if (block, site) in shares else f"{'-':>12}" for site in sites)
        yield f"{block:<12}" + "".join(cells)
    for (block, site), share in shares.items():
        if block is None:
            yield f"{site:<12}{share:>12.0%}"
    yield from _left_out(advised)


def _left_out(advised: Mapping) -> Iterator[str]:
    left, same = advised["left_out"], "no rank_pattern is written"
    if left is None:
        yield f"  {same}: no block carries less than a hundredth"
        return
    one = len(left["blocks"]) == 1
    blocks, they = ("block " if one else "blocks ") + ", ".join(map(str, left["blocks"])), "it" if one else "they"
    if left["costs_at_most"] is None:
        carries = "carries" if one else "carry"
        yield f"  {same}: {blocks} {carries} less than a hundredth, but no training has shown that {they} can be left out"
        return
    end = "left out of the settings" if left["left_out"] else f"{same}, {they} {'stays' if one else 'stay'}"
    cost = f"the dev loss rises by at most {left['costs_at_most']:.4f} nats at {advised['level']:.0%}"
    yield f"  trained without {blocks}, {cost}; allowed is a tenth of the gain, {left['allowed']:.4f}: {end}"


def _grounds(advised: Mapping) -> Iterator[str]:
    past, known, backbone = advised["past"], advised["learnt_from"], pathlib.Path(advised["backbone"]).name
    tasks, own = past["tasks"], f"{past['lost']:.1f} points lost on average"
    raced = f"{past['race_lost']:.1f} points lost on average, for {past['race_cost']:.0%} of its passes"
    study = f"study {known['study']} on {known['backbone']}"
    yield f"how often such advice was right: on the {tasks} tasks of the {study}, each left out and advised from"
    yield f"  other tasks, the forecast alone chose within a point of the best option on {past['right']} of {tasks} tasks"
    yield f"  ({own}), and a race chose within a point of the whole grid's choice on {past['race_right']} of {tasks}"
    yield f"  ({raced})"
    yield (
        f"  rank correlation of the points foretold and gained: {past['correlation']:.2f}; of mean gains on other tasks: "
        f"{past['correlation_of_means']:.2f}"
    )
    if known["backbone"] != backbone:
        yield f"  learnt on {known['backbone']}, not on {backbone}: the intervals may not hold"


def _settings(advised: Mapping) -> Iterator[str]:
    if advised["keep_frozen"]:
        yield "should you tune all the same:"
    yield f"--delta {advised['delta']}"
    yield advised["peft"] or "PEFT has no such delta"
    if advised["written"]:
        what = "PEFT's folder" if advised["peft"] else "delta.safetensors, for costate probe and export --checkpoint,"
        yield f"{what} and training.json are in {advised['written']}"
    device = f", {advised['device_gib']:.1f} GiB on the device" if advised["device_gib"] else ""
    yield (
        f"{advised['seconds']:.0f} s ({advised['seconds_of_forecasts']:.0f} s of forecasts), {advised['cpu_seconds']:.0f} CPU s, "
        f"{advised['peak_gib']:.1f} GiB{device}"
    )
