"""The results of a study of options of which one is known to be best."""

import numpy as np

from validations.claims.choice.options import FORECASTS
from validations.results import write_verdicts


def planted_truth(folder, best="lora"):
    """Write the results of a study of four small options on six tasks, on every one of which the same is best."""
    names, rng = ("full", "lora", "prefix", "bitfit"), np.random.default_rng(0)
    options, rates, order, raced = [], [], [], []
    for task in "abcdef":
        for name in names:
            gained = 20.0 * (name == best) + rng.normal()
            place = {"task": task, "seed": 0, "option": name}
            options.append(place | {"gained": gained} | {which: float(rng.normal()) for which in FORECASTS})
            rates += [place | {"rate": rate, "gained": gained - 5 * (rate > 0.01)} for rate in (0.004, 0.016)]
        order.append({"task": task, "seed": 0, "order_forecast": 0.8, "order_table": 0.7, "lost_forecast": 0.5})
        raced.append({"task": task, "seed": 0, "lost": 0.2, "cost": 0.09, "lost_forecast": 0.5})
    tables = {("choice-forecast", "rows"): order, ("choice-gain", "options"): options}
    tables |= {("choice-race", "rows"): raced, ("choice-race", "rates"): rates}
    record = {"study": {"name": "choices", "backbone": {"name": "nano"}}, "claims": []}
    write_verdicts(folder, record, tables=tables, cells=[])
    return folder
