"""A prefix tuned as in practice: the gates that the tangent model foretells of held-out text, and those that training makes."""

from dataclasses import replace

import numpy as np

from tuning.practice import practised

from ...statistics import cosine, explained
from ...store import Record
from ..practice.experiment import recipe_of
from ..practice.tangent import Texts
from ..shared.setting import Experiment, Params, Setting, own_rng, own_seed
from ..shared.training import at_start, first, shifted
from .network import log_odds

READ = 64  # held-out texts whose gates are read
PERMUTATIONS = 8


def _seed(setting: Setting) -> int:
    return own_seed(setting, 251)


def _moved(setting: Setting, params: Params, start: np.ndarray) -> np.ndarray:
    """Return by how much every gate's log-odds moved on held-out text, by token and head."""
    return log_odds(setting.subjects["delta"], params, first(setting.test, READ)) - start


def predict(setting: Setting) -> Record:
    """Return the change of every gate's log-odds on held-out text under AdamW's path on the tangent model, before training.

    The network itself runs with the keys and values that a forecast ends at, under a frozen head. Beside the path: the tangent
    optimum, the first gradient in the length of the path, and paths at the path's rate for permuted labels.
    """
    if setting.dev is None:
        raise ValueError("tuning as in practice chooses its rate on dev text: give the part's option dev, a number of texts")
    subject, recipe, rng = setting.subjects["delta"], recipe_of(setting.options), own_rng(setting, 257)
    origin, seed = at_start(subject), _seed(setting)
    texts = Texts.of(setting, subject.outputs, subject.initial)
    start = log_odds(subject, origin, first(setting.test, READ))
    path, best = texts.path(recipe, seed), texts.optimum()
    rate, look = path.chosen
    z = path.z[rate, look].astype(float)
    slope = texts.displacement(texts.train.loss.gradient(texts.train.y0) @ texts.train.basis, 1.0, 1.0)
    forecasts = {"path": z, "optimum": best.z, "gradient": slope * (np.linalg.norm(z) / max(np.linalg.norm(slope), 1e-300))}
    moved = {name: _moved(setting, shifted(origin, own), start) for name, own in forecasts.items()}
    null = []
    for _ in range(PERMUTATIONS):
        dealt = replace(texts, train=replace(texts.train, labels=rng.permutation(texts.train.labels)))
        own = dealt.path(replace(recipe, rates=(recipe.rates[rate],)), seed)
        null.append(_moved(setting, shifted(origin, own.z[0, look].astype(float)), start))
    size = float(np.sqrt(np.mean(moved["path"] ** 2)))
    return Record(
        {"rate": recipe.rates[rate], "step": path.steps[look], "size": size},
        {"start": start, "permuted": np.stack(null).astype(np.float32)} | {k: v.astype(np.float32) for k, v in moved.items()},
    )


def measure(setting: Setting, predicted: Record) -> Record:
    """Return how well each forecast of the gates meets those of the trained prefix, in all and token by token within heads.

    whole: cosine of the changes of log-odds over all heads and tokens; within: the same with every head's mean change taken off,
    which leaves what a prefix reads of its tokens; the share that the path explains. Options: dev, those of `tuning.practice.Recipe`.
    """
    subject, a = setting.subjects["delta"], predicted.arrays
    recipe = recipe_of(setting.options)
    found = practised(subject, setting.train, setting.dev, setting.test, recipe=recipe, seed=_seed(setting))
    moved = _moved(setting, found.params, a["start"])
    rivals = {"gradient": a["gradient"], "start": -a["start"], "optimum": a["optimum"]}
    scores = {name: _met(moved, own) for name, own in {"path": a["path"], **rivals}.items()}
    null = [_met(moved, own) for own in a["permuted"]]
    scores["permuted"] = {part: float(np.quantile([one[part] for one in null], 0.975)) for part in null[0]}
    return Record(
        {
            "rate": found.rate,
            "step": found.step,
            "at_edge": found.at_edge,
            "gained": 100.0 * (found.chosen.accuracy - found.start.accuracy),
            "size": float(np.sqrt(np.mean(moved**2))),
            "inner": float(np.sum(_within(moved) ** 2) / np.sum(moved**2)),
            "scores": scores,
            "by_head": {name: own.mean(0).tolist() for name, own in (("trained", moved), ("path", a["path"]))},
        },
        {},
    )


def _within(moved: np.ndarray) -> np.ndarray:
    """Return changes less their mean over each head's tokens."""
    return moved - moved.mean(0)


def _met(moved: np.ndarray, forecast: np.ndarray) -> dict[str, float]:
    """Return the cosines of a forecast with the measured changes and the share of them that it explains."""
    forecast = forecast.astype(float)
    return {
        "whole": cosine(moved, forecast),
        "within": cosine(_within(moved), _within(forecast)),
        "r2": explained(moved, forecast),
    }


EXPERIMENT = Experiment(
    "gates",
    "the gates of a prefix tuned as in practice",
    ("delta",),
    predict,
    measure,
    weight=45.0,
    per_delta=True,
    by_token=True,
)
