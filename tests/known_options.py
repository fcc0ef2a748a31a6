"""The results of a study of options of which one is known to be best."""

import pathlib

import numpy as np

from validations import plan
from validations.claims.choice.options import FORECASTS
from validations.results import write_verdicts


def planted_truth(folder, best="lora", told=0.0):
    """Write the results of a study of four small options on six tasks, on every one of which the same is best.

    told: points that every option gains for a nat of what is told of it.
    """
    names, rng = ("full", "lora", "prefix", "bitfit"), np.random.default_rng(0)
    options, rates, order, raced = [], [], [], []
    for task in "abcdef":
        for name in names:
            gained = 20.0 * (name == best) + rng.normal()
            place = {"task": task, "seed": 0, "option": name}
            falls = {which: float(rng.normal()) for which in FORECASTS}
            gained += told * falls["optimum"]
            options.append(place | {"gained": gained} | falls)
            rates += [place | {"rate": rate, "gained": gained - 5 * (rate > 0.01)} for rate in (0.004, 0.016)]
        order.append({"task": task, "seed": 0, "order_forecast": 0.8, "order_table": 0.7, "lost_forecast": 0.5})
        raced.append({"task": task, "seed": 0, "lost": 0.2, "cost": 0.09, "lost_forecast": 0.5})
    tables = {("choice-forecast", "rows"): order, ("choice-gain", "options"): options}
    tables |= {("choice-race", "rows"): raced, ("choice-race", "rates"): rates}
    record = {"study": {"name": "choices", "backbone": {"name": "nano"}}, "claims": []}
    write_verdicts(folder, record, tables=tables, cells=[])
    return folder


def small_study(tmp_path, **planted):
    """Return the flags of `costate advise` for a small study of those options, and its results."""
    text = (pathlib.Path(plan.__file__).parent / "studies" / "choices.toml").read_text(encoding="utf-8")
    smaller = {"train = 600": "train = 24", "readout = 400": "readout = 24", "dev = 150": "dev = 12", "steps = 250": "steps = 8"}
    for old, new in (smaller | {"batch_size = 32": "batch_size = 4", "looks = 12": "looks = 4"}).items():
        assert old in text
        text = text.replace(old, new)
    path = tmp_path / "choices.toml"
    path.write_text(text, encoding="utf-8")
    results = str(planted_truth(tmp_path / "results", **planted))
    return ["--study", str(path), "--results", results, "--options", "lora,prefix,bitfit", "--threads", "1"]
