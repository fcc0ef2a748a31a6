"""A probed model on one page: its modules as a figure, and everything measured as a page of HTML that needs no other file."""

from __future__ import annotations

import html
import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from probes.drawing.files import theme

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN = {
    "reach": "Reach\nshare of the Gauss-Newton trace",
    "change": "Change\nshare of the squared norm",
    "effective_rank": "Effective rank\nof the change",
}


def modules_figure(modules: Sequence[Mapping]) -> Figure:
    """Return maps of reach, change and effective rank: a row per layer, a column per kind of module."""
    import seaborn
    from matplotlib.figure import Figure

    places = _places([row["place"] for row in modules])
    layers, kinds = (list(dict.fromkeys(part)) for part in zip(*places, strict=True))
    wanted = [key for key in SHOWN if any(_known(row.get(key)) for row in modules)]
    with theme():
        size = (0.8 + len(wanted) * (1.9 + 0.3 * len(kinds)), 1.6 + 0.2 * len(layers))
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots(1, len(wanted), squeeze=False, sharey=True)[0]
        for ax, key in zip(axes, wanted, strict=True):
            grid = np.full((len(layers), len(kinds)), np.nan)
            for (layer, kind), row in zip(places, modules, strict=True):
                if _known(row.get(key)):
                    grid[layers.index(layer), kinds.index(kind)] = row[key]
            seaborn.heatmap(grid, ax=ax, cmap="mako_r", vmin=0, xticklabels=kinds, yticklabels=layers, cbar_kws={"shrink": 0.7})
            ax.set_title(SHOWN[key])
            ax.tick_params(axis="x", rotation=60)
            ax.tick_params(axis="y", rotation=0)
    return figure


def model_page(made: Mapping, figure: str) -> str:
    """Return a whole HTML page of a result of `costate probe MODEL` with its figure (SVG); it loads nothing."""
    title = f"{made['model']} with {made['adapter']}" if made["adapter"] != "none" else str(made["model"])
    facts = {k: v for k, v in made.items() if not isinstance(v, Mapping | list)}
    parts = [f"<h1>{_text(title)}</h1>", _pairs(facts)]
    for note in made["notes"]:
        parts.append(f"<p class=note>{_text(note)}</p>")
    for name in ("whole", "adapter health", "linear regime"):
        if name in made:
            parts.append(f"<h2>{_text(name.capitalize())}</h2>" + _pairs(made[name]))
    svg = re.sub(r"^.*?(?=<svg)", "", figure, flags=re.DOTALL)
    parts.append(f"<h2>By layer and module</h2><figure>{svg}</figure>")
    if "rank pattern" in made:
        pattern = json.dumps(made["rank pattern"]["rank_pattern"], indent=4)
        share = made["rank pattern"]["share"]
        said = (
            f"The least ranks that keep {share:.0%} of each module's squared norm; PEFT scales by alpha / r, so let alpha follow."
        )
        parts.append(f"<h2>Ranks to paste</h2><p>{said}</p><pre>LoraConfig(rank_pattern={_text(pattern)})</pre>")
    parts.append("<h2>Layers</h2>" + _table(made["layers"]))
    parts.append(f"<details><summary>All {len(made['modules'])} modules</summary>" + _table(made["modules"]) + "</details>")
    parts.append("<h2>Units</h2>" + _pairs(made["units"]))
    top = "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
    return f"{top}<title>{_text(title)}</title><style>{_CSS}</style><body>{''.join(parts)}</body></html>"


_CSS = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1a1a1a}"
    "h1{font-size:1.5rem;overflow-wrap:anywhere}h2{font-size:1.1rem;margin-top:2rem}"
    "table{display:block;overflow:auto;border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:.85rem}"
    "td,th{padding:.15rem .7rem .15rem 0;text-align:right;white-space:nowrap}td:first-child,th:first-child{text-align:left}"
    "th{border-bottom:1px solid #999;font-weight:600}"
    "dl{display:grid;grid-template-columns:fit-content(55%) minmax(0,1fr);gap:.1rem 1.2rem}"
    "dt{color:#555}dd{margin:0}.note{border-left:3px solid #D55E00;padding-left:.7rem}"
    "pre{background:#f4f4f4;padding:.8rem;overflow:auto}figure{margin:0;overflow:auto}svg{max-width:100%;height:auto}details{overflow:auto}"
)


def _places(paths: Sequence[str]) -> list[tuple[str, str]]:
    """(row, column) of every module: ("3", "q_proj") of "model.layers.3.self_attn.q_proj", else what tells two apart."""
    cut = []
    for path in paths:
        parts = path.split(".")
        at = next((i for i, part in enumerate(parts) if part.isdigit()), None)
        cut.append(("", "", path) if at is None else (".".join(parts[:at]), parts[at], ".".join(parts[at + 1 :])))
    stacks = {stack for stack, number, _ in cut if number}
    short = {rest: rest.rpartition(".")[2] for _, _, rest in cut}
    plain = len({(stack, number, short[rest]) for stack, number, rest in cut}) == len(cut)
    rows = [(f"{stack} {number}" if len(stacks) > 1 else number) or "other" for stack, number, _ in cut]
    return [(row, short[rest] if plain else rest) for row, (_, _, rest) in zip(rows, cut, strict=True)]


def _known(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _text(value: object) -> str:
    return html.escape(str(value))


def _word(value: object) -> str:
    if isinstance(value, Mapping) and "value" in value:
        stderr, sure = value.get("stderr"), value.get("converged", True)
        return f"{'' if sure else '~'}{value['value']:.4g}" + (f" ± {stderr:.2g}" if isinstance(stderr, float) and stderr else "")
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else _text(value)


def _pairs(facts: Mapping) -> str:
    return "<dl>" + "".join(f"<dt>{_text(k)}</dt><dd>{_word(v)}</dd>" for k, v in facts.items()) + "</dl>"


def _table(rows: Sequence[Mapping]) -> str:
    heads = "".join(f"<th>{_text(k.replace('_', ' '))}</th>" for k in rows[0])
    lines = "".join("<tr>" + "".join(f"<td>{_word(v)}</td>" for v in row.values()) + "</tr>" for row in rows)
    return f"<table><tr>{heads}</tr>{lines}</table>"
