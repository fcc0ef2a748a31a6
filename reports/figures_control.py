"""Figures of the control view: direction, amplitude, energy profile, price of open loop, feedback, ports."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from . import panels, style
from .style import GREY, INK, Labels

SITES = {"attention": ("o", INK, INK), "mlp": ("s", "none", INK)}


def control_direction(rows: pd.DataFrame, labels: Labels) -> Figure:
    """Return the cosine of trained and predicted control beside its rivals, and against the departure from linearity."""
    series = {"cosine": "optimal control", "cosine_gradient": "plain gradient", "cosine_permuted": "permuted target (97.5 %)",
              "cosine_random": "random direction"}  # fmt: skip
    return _aligned(rows, labels, series, "cosine with the trained control")


def lq_feedback(rows: pd.DataFrame, labels: Labels) -> Figure:
    """Return the cosine of learned and predicted gain beside its rivals, and the loop's sensitivity task by task."""
    series = {"cosine": "regulator's gain", "cosine_gradient": "static gradient", "cosine_rotated": "rotated adapter (97.5 %)"}
    look = style.DELTAS["adapter"]
    with style.theme():
        tasks = labels.in_order("task", rows["task"])
        figure = style.canvas(max(2.5, 0.6 + 0.24 * len(tasks)))
        left, right = figure.subplots(1, 2)
        own = rows if "delta" in rows else rows.assign(delta="adapter")
        panels.rivals(left, own, series, labels)
        left.axvline(0, color=GREY, lw=0.8, zorder=0)
        left.set(xlabel="cosine with the adapter's Jacobian", title="(a) against rivals and nulls")
        kept = panels.present(rows, ["sensitivity"])
        for place, task in enumerate(tasks):
            cells = kept[kept["task"] == task]
            panels.dots(right, cells["sensitivity"], place, look, panels.inside(cells))
            tested = cells.loc[panels.inside(cells), "sensitivity"]
            if len(tested):
                panels.median(right, tested.median(), place)
        panels.by_name(right, [labels.task(t) for t in tasks])
        if (kept["sensitivity"] > 0).all():
            style.log_axis(right, "x")
        right.axvline(1, color=GREY, lw=0.8, zorder=0)
        right.set(xlabel="sensitivity, closed over open loop", title="(b) what feedback does")
        style.legend(figure, panels.handles(own, labels))
    return figure


def control_amplitude(rows: pd.DataFrame, labels: Labels) -> Figure:
    """Return trained against predicted norm of the control, and their ratio against the departure from linearity."""
    with style.theme():
        figure = style.canvas(3.0)
        left, right = figure.subplots(1, 2, width_ratios=(1, 1.12))
        panels.points(left, rows, "norm_predicted", "norm_trained", labels)
        panels.identity(left, rows[["norm_predicted", "norm_trained"]].to_numpy(dtype=float), log=True, factor=2.0)
        left.set(xlabel="predicted norm", ylabel="trained norm", title="(a) predicted and trained")
        ratios = rows.assign(ratio=np.exp(rows["log_ratio"].astype(float)))
        panels.regime(right, ratios, "ratio", labels)
        style.log_axis(right, "y")
        right.axhspan(0.5, 2.0, color=GREY, alpha=0.13, lw=0, zorder=0)
        right.axhline(1, color=GREY, lw=0.8, zorder=0)
        right.set(ylabel="trained over predicted norm", title="(b) by distance from the linear regime")
        style.legend(figure, panels.handles(rows, labels))
    return figure


def energy_profile(rows: pd.DataFrame, profile: pd.DataFrame, labels: Labels) -> Figure:
    """Return the energy share of each port, trained and predicted, one panel per delta, and the distance by rival."""
    with style.theme():
        names = labels.in_order("delta", profile["delta"])
        columns = panels.columns_for(len(names))
        lines = -(-len(names) // columns)
        figure = style.canvas(0.7 + 1.45 * lines + 1.7)
        top, bottom = figure.subfigures(2, 1, height_ratios=(0.25 + 1.45 * lines, 1.7))
        panel = top.subplots(lines, columns, sharex=True, sharey=True, squeeze=False).ravel()
        ports = list(dict.fromkeys(profile["port"]))
        places = np.arange(len(ports))
        for axes, name in zip(panel, names, strict=False):
            look, group = labels.look(name), profile[profile["delta"] == name]
            at = group["port"].map(dict(zip(ports, places, strict=True)))
            axes.plot(at, group["trained"], ls="", marker=look.marker, ms=1.8, mew=0, color=look.color, alpha=0.3)
            columns_of = [c for c in ("trained", "predicted", "gradient") if c in group]
            mean = panels.tested(group).groupby("port", sort=False)[columns_of].mean().reindex(ports)
            axes.plot(places, mean["predicted"], color=INK, lw=1.1)
            if "gradient" in mean:
                axes.plot(places, mean["gradient"], color=GREY, lw=0.9, ls=(0, (1, 1.2)))
            axes.plot(places, mean["trained"], ls="", marker=look.marker, ms=4.2, mew=0, color=look.color)
            axes.set_title(style.wrap(labels.delta(name), int(84 / columns)), fontsize=8)
            every = -(-len(ports) // (10 if columns > 2 else 24))
            names_at = [" ".join(port_words(p)).replace("attention", "attn") for p in ports[::every]]
            axes.set_xticks(places[::every], names_at, rotation=90 if len(ports) > 4 else 0, fontsize=6.5)
            axes.set_ylim(bottom=0)
        for place in range(len(names), len(panel)):
            panel[place].set_visible(False)
            panel[place - columns].tick_params(axis="x", labelbottom=True)
        top.supylabel("(a) share of the energy", fontsize=8.5)
        axes = bottom.subplots()
        series = {"js": "optimal control", "js_gradient": "plain gradient", "js_uniform": "equal shares",
                  "js_initial": "shares at the start", "js_permuted": "permuted ports"}  # fmt: skip
        panels.rivals(axes, rows, series, labels, width=24)
        axes.set(xlabel="(b) Jensen–Shannon divergence from the trained profile (nats)", xlim=(0, None))
        handles = [Line2D([], [], color=INK, lw=1.1, label="optimal control"),
                   Line2D([], [], color=GREY, lw=0.9, ls=(0, (1, 1.2)), label="plain gradient")]  # fmt: skip
        style.legend(figure, style.delta_handles(names, labels) + handles)
    return figure


def open_loop_price(rows: pd.DataFrame, labels: Labels) -> Figure:
    """Return the measured against the predicted price of open loop, and both task by task."""
    kinds = {"measured": style.DELTAS["prefix"], "measured_bias": style.DELTAS["port-bias"]}
    words = {"measured": "prefix minus adapter", "measured_bias": "bias minus adapter"}
    kinds = {column: look for column, look in kinds.items() if column in rows}
    with style.theme():
        tasks = labels.in_order("task", rows["task"])
        figure = style.canvas(max(2.9, 0.9 + 0.26 * len(tasks)))
        left, right = figure.subplots(1, 2, width_ratios=(1, 1.12))
        for column, look in kinds.items():
            panels.dots(left, rows["predicted"], rows[column], look, panels.inside(rows), size=14)
        panels.identity(left, rows[["predicted", *kinds]].to_numpy(dtype=float), log=False)
        left.set(xlabel="predicted price (nats)", ylabel="measured price (nats)", title="(a) predicted and measured")
        left.set_anchor("N")
        order = rows.groupby("task")["predicted"].mean().reindex(tasks).sort_values(kind="stable").index
        for place, task in enumerate(order):
            cells = rows[rows["task"] == task]
            panels.median(right, cells["predicted"].mean(), place)
            for lane, (column, look) in enumerate(kinds.items()):
                lift = (lane - 0.5 * (len(kinds) - 1)) * 0.3
                panels.dots(right, cells[column], place + lift, look, panels.inside(cells))
        panels.by_name(right, [labels.task(t) for t in order])
        right.axvline(0, color=GREY, lw=0.8, zorder=0)
        right.set(xlabel="price (nats)", title="(b) task by task")
        handles = [Line2D([], [], ls="", marker=k.marker, color=k.color, ms=4.5, mew=0, label=words[c]) for c, k in kinds.items()]
        handles.append(Line2D([], [], color=INK, lw=1.5, label="predicted (b)"))
        style.legend(figure, handles + panels.handles(rows.drop(columns="delta", errors="ignore"), labels))
    return figure


def tunable_ports(rows: pd.DataFrame, labels: Labels) -> Figure:
    """Return the loss reached by tuning one port against the energy that port needs, one panel per task."""
    with style.theme():
        rows = panels.present(rows, ["energy", "loss"])
        figure, axes = panels.multiples(labels.in_order("task", rows["task"]), labels.task, each=1.6, share=False)
        ports = list(dict.fromkeys(rows["port"]))
        for task, panel in axes.items():
            cells = rows[rows["task"] == task].groupby("port", sort=False)[["energy", "loss"]].mean()
            spread = rows[rows["task"] == task]
            for port in ports:
                block, site = port_words(port)
                marker, face, edge = _look(site)
                own = spread[spread["port"] == port]
                panel.scatter(
                    own["energy"], own["loss"], s=5, marker=marker, facecolors=face, edgecolors=edge, linewidths=0.3, alpha=0.25
                )
                if port in cells.index:
                    panel.scatter(
                        *cells.loc[port], s=18, marker=marker, facecolors=face, edgecolors=edge, linewidths=0.7, zorder=3
                    )
                    panel.annotate(block, cells.loc[port], xytext=(3, 2), textcoords="offset points", fontsize=6.5)
            if (spread["energy"] > 0).all():
                style.log_axis(panel, "x")
        figure.supxlabel("predicted energy to reach the target", fontsize=8.5)
        figure.supylabel("loss after tuning (nats)", fontsize=8.5)
        words = {"attention": "attention port", "mlp": "feed-forward port"}
        handles = []
        for site in dict.fromkeys(port_words(p)[1] for p in ports):
            marker, face, edge = _look(site)
            label = words.get(site, style.spelled(site)) + " (number: block)"
            handles.append(Line2D([], [], ls="", marker=marker, mfc=face, mec=edge, mew=0.7, ms=4.5, label=label))
        style.legend(figure, handles, where="outside upper center")
    return figure


def _aligned(rows: pd.DataFrame, labels: Labels, series: dict[str, str], quantity: str) -> Figure:
    """Return a strip of cosines by rival beside the first of them against the departure from linearity."""
    with style.theme():
        figure = style.canvas(2.8)
        left, right = figure.subplots(1, 2, width_ratios=(1.35, 1))
        panels.rivals(left, rows, series, labels)
        left.axvline(0, color=GREY, lw=0.8, zorder=0)
        left.set(xlabel=quantity, title="(a) against rivals and nulls")
        panels.regime(right, rows, "cosine", labels)
        right.set(ylabel="cosine", title="(b) by distance from the linear regime")
        style.legend(figure, panels.handles(rows, labels))
    return figure


def port_words(port: str) -> tuple[str, str]:
    """Return block (counted from 1) and site of a port, written as "1 attention" or as the key "0.attention"."""
    if "." in str(port):
        block, site = str(port).split(".", 1)
        return (str(int(block) + 1) if block.isdigit() else block), site
    block, _, site = str(port).partition(" ")
    return block, site


def _look(site: str) -> tuple[str, str, str]:
    """Return marker, face and edge of a site."""
    return SITES.get(site, ("^", "none", GREY))
