"""One delta tuned as in practice: what its tangent model says before training, and the runs of a sweep of rates after."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from theory.ensemble import kernel_lq
from theory.loss import CrossEntropy
from tuning.practice import Recipe, Run, practised

from ...statistics import cosine, explained
from ...store import Record
from ..shared.linearisation import off
from ..shared.setting import Experiment, Params, Setting, own_rng, own_seed
from ..shared.training import centred, cross_entropy, logits, shifted
from .tangent import Found, Path, Tangent, Texts, products, tangent

HEADS = ("joint", "frozen")
PERMUTATIONS = 8
RIVALS = ("gradient", "head", "constant")
RELINEARISATIONS = 3


def _arm(setting: Setting) -> Any:
    """Return the subject with its head trained with the delta, or frozen, as the option `head` says."""
    subject, head = setting.subjects["delta"], setting.options.get("head", HEADS[0])
    if head not in HEADS:
        raise ValueError(f"expected the option head to be one of {', '.join(HEADS)}, got {head!r}")
    if setting.dev is None:
        raise ValueError("tuning as in practice chooses its rate on dev text: give the part's option dev, a number of texts")
    return subject.with_readout() if head == "joint" else subject


def recipe_of(options: Mapping[str, Any]) -> Recipe:
    """Return how a cell trains: what its options say of the recipe's own settings, and the recipe's where they say nothing."""
    known = {name: options[name] for name in Recipe.__dataclass_fields__ if name in options}
    return Recipe(**(known | ({"rates": tuple(map(float, known["rates"]))} if "rates" in known else {})))


def _training_seed(setting: Setting) -> int:
    return own_seed(setting, 223)


def predict(setting: Setting) -> Record:
    """Return the forecasts of a delta's tangent model, of its rivals and of its nulls, and where they should end.

    The optimum and AdamW's path on the tangent model at every rate of the recipe, with eta along the path, the relinearised
    optima, how the kernel moves under the first of them, and the passes of a text through the network that each took (a
    forward one counts one, a backward one two). Nulls: the optimum for permuted labels of the training text under the same
    ridge and metric, and that of a network whose weights are shuffled, where the subject has one.
    """
    subject, recipe, rng = _arm(setting), recipe_of(setting.options), own_rng(setting, 211)
    shuffled = None
    if hasattr(subject, "shuffled"):
        shuffled = Texts.of(setting, subject.shuffled(setting.seed).outputs, subject.initial).optimum().shift
    texts = Texts.of(setting, subject.outputs, subject.initial)
    best, test = texts.optimum(), texts.test
    E, y0 = test.basis, test.y0
    path = texts.path(recipe, _training_seed(setting))
    shifts = {
        "optimum": best.shift,
        "gradient": texts.gradient().shift,
        "head": _head(setting, texts),
        "constant": texts.constant(),
        "path": path.test[path.chosen],
    }
    shifts |= {} if shuffled is None else {"shuffled": shuffled}
    shifts = {name: shift @ E.T for name, shift in shifts.items()}
    null = _permuted(texts, best, rng)
    moved = logits(subject.outputs, shifted(subject.initial, best.z), setting.test)
    steps, features = _relinearised(setting, subject, texts, best)
    rivals = {"head": texts.path(recipe, _training_seed(setting), texts.head).test} if texts.heads else {}
    size, contrasts = len(texts.train.y0) + len(texts.dev.y0), E.shape[1]
    sweep = len(recipe.rates) * (3 * recipe.steps * recipe.batch_size + len(recipe.looked_at) * len(texts.dev.y0))
    return Record(
        {
            "eta": off(moved - y0, best.shift @ E.T),
            "ridge": best.ridge,
            "head_weight": best.weight,
            "curvature": texts.curvature(texts.kernel("train", best.weight)),
            "adaptive_sharpness": texts.adaptive_sharpness(path),
            "dev_loss": best.dev_loss,
            "norm": float(np.linalg.norm(best.z)),
            "numbers": len(texts.origin),
            "start": _scored(y0, test.labels) | {"dev_loss": cross_entropy(texts.dev.y0, texts.dev.labels)},
            "network": _scored(moved, test.labels),
            "forecasts": {name: _scored(y0 + shift, test.labels) for name, shift in shifts.items()},
            "path": _path_told(setting, subject, texts, path, recipe),
            "relinearised": [{k: v for k, v in one.items() if k != "outputs"} for one in steps],
            "features": features,
            "passes": {
                "training": sweep,
                "optimum": size * (1 + 2 * contrasts),
                "path": size * (1 + 2 * contrasts),
                "eta": 2 * len(recipe.rates) * (len(recipe.looked_at) * len(texts.dev.y0) + 2 * len(texts.train.y0)),
                "relinearised": sum(one["passes"] for one in steps),
            },
        },
        {"y0": y0, "permuted": _half(null), "path_shift": _half(path.test)}
        | {f"path_{name}": _half(shift) for name, shift in rivals.items()}
        | {name: shift.astype(np.float32) for name, shift in shifts.items()}
        | {f"relinearised_{k}": one["outputs"].astype(np.float32) for k, one in enumerate(steps, 1)},
    )


def _half(values: np.ndarray) -> np.ndarray:
    """Return shifts in half precision, whose relative rounding of 5e-4 no statistic sees."""
    return np.clip(values, -6e4, 6e4).astype(np.float16)


def _scored(y: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Return the loss and accuracy of some logits."""
    return {"loss": cross_entropy(y, labels), "accuracy": float(np.mean(y.argmax(1) == labels))}


def _head(setting: Setting, texts: Texts) -> np.ndarray:
    """Return the held-out shift by the refit of the head alone, which is trained with the delta or not."""
    if texts.heads:
        return texts.refit().shift
    subject = setting.subjects["delta"].with_readout()
    only = {name: value for name, value in subject.initial.items() if name not in setting.subjects["delta"].initial}

    def outputs(params: Params, batch: Any) -> Tensor:
        return subject.outputs(subject.initial | params, batch)

    return Texts.of(setting, outputs, only).refit().shift


def _permuted(texts: Texts, best: Found, rng: np.random.Generator) -> np.ndarray:
    """Return the held-out shifts (P, N, c) by optima for permuted labels of the training text."""
    kernel, found = texts.kernel("train", best.weight) / best.ridge, []
    for _ in range(PERMUTATIONS):
        costates = kernel_lq(kernel, texts.train.y0, CrossEntropy(rng.permutation(texts.train.labels)), tolerance=1e-5)
        found.append(texts.shift("test", costates, best.ridge, best.weight))
    return np.stack(found)


def _path_told(setting: Setting, subject: Any, texts: Texts, path: Path, recipe: Recipe) -> dict:
    """Return the path on the tangent model in words of a run, with eta, the departure of the network from it on dev text.

    eta: the median over dev text of the shift's distance from the tangent's over the tangent's size. r2: the share of the network's
    own shift there that the tangent explains. Numbers that have no gradient at the start are moved too, by the dose since the first
    step against the sign of their gradient after the path's first steps, which is where Adam takes them; eta_flat is without.
    """
    dev, test = texts.dev, texts.test
    unseen = path.second == 0
    unseen[texts.head] = False
    runs = []
    for r, rate in enumerate(recipe.rates):
        looks, turn = [], np.zeros(0)
        if unseen.any():
            slope = _gradient(
                subject, shifted(subject.initial, path.z[r, min(1, len(path.steps) - 1)].astype(float)), setting.train
            )
            turn = np.where(unseen, -np.sign(slope), 0.0)
        for k, step in enumerate(path.steps):
            z, dose = path.z[r, k].astype(float), rate * path.dose[k]
            flat = _departure(subject, z, setting, dev, path.dev[r, k])
            late = dose - rate * path.dose[0]  # they have no gradient at the first step
            turned = _departure(subject, z + late * turn, setting, dev, path.dev[r, k]) if unseen.any() else flat
            scored = _scored(test.shifted(path.test[r, k]), test.labels)
            looks.append(
                {"step": step, "dose": dose, "dev_loss": path.losses[r, k]} | turned | scored | {"eta_flat": flat["eta"]}
            )
        runs.append({"rate": rate, "looks": looks})
    r, k = path.chosen
    return {"rate": recipe.rates[r], "step": path.steps[k], "runs": runs, "unseen": int(unseen.sum())}


def _departure(subject: Any, z: np.ndarray, setting: Setting, dev: Tangent, linear: np.ndarray) -> dict[str, float]:
    """Return how far the network's shift at a displacement is from a linear one, on dev text."""
    moved = (logits(subject.outputs, shifted(subject.initial, z), setting.dev) - dev.y0) @ dev.basis
    return {"eta": off(moved, linear), "r2": explained(moved, linear) if moved.any() else 0.0}


def _gradient(subject: Any, params: Params, batch: Any) -> np.ndarray:
    """Return the gradient of the mean loss as one vector."""
    at = {name: value.detach().requires_grad_() for name, value in params.items()}
    with torch.enable_grad():
        gradients = torch.autograd.grad(subject.loss(at, batch), list(at.values()))
    return np.concatenate([one.double().cpu().numpy().ravel() for one in gradients])


def _relinearised(setting: Setting, subject: Any, texts: Texts, best: Found) -> tuple[list[dict], dict]:
    """Return what Gauss-Newton on the network reaches, linearised anew each time, and how the kernel moved under the first step.

    Every time the ridge is that of the lowest dev loss of the network itself; it ends when none lowers it.
    """
    wanted = setting.options.get("relinearisations", RELINEARISATIONS)
    params, labels = {n: v.detach() for n, v in subject.initial.items()}, texts.dev.labels
    reached, steps, now = cross_entropy(texts.dev.y0, labels), [], texts
    features: dict[str, float] = {}
    for number in range(wanted):
        tried, made, passes = [], None, len(texts.train.y0) * (1 + 2 * texts.train.basis.shape[1]) * (number > 0)
        for ridge, costates in now.ridges(best.weight):
            made = shifted(params, now.displacement(costates, ridge, best.weight))
            tried.append((cross_entropy(logits(subject.outputs, made, setting.dev), labels), made))
            passes += len(labels)
            if len(tried) - 1 - int(np.argmin([one[0] for one in tried])) >= 2:
                break
        loss, made = min(tried, key=lambda one: one[0])
        if loss >= reached:
            break
        reached, params = loss, made
        outputs = logits(subject.outputs, params, setting.test)
        steps.append({"dev_loss": loss, "passes": passes, "outputs": outputs} | _scored(outputs, texts.test.labels))
        if number + 1 == wanted and number:
            break
        after = tangent(subject.outputs, params, setting.train)
        if not number:
            features = _moved_kernel(texts, after)
        now = replace(texts, train=after)
    return steps, features


def _moved_kernel(texts: Texts, after: Tangent) -> dict[str, float]:
    """Return how the delta's tangent kernel changed on the training text between two points of the network.

    alignment: costates' K costates over |K| |costates|^2 before and after, the costates those before; growth: the gradient's
    power costates' K costates after over before; fresh: the share of the gradient after, in the delta's numbers, that is
    outside the span of the features before.
    """
    before = texts.train
    costates = (before.loss.gradient(before.y0) @ before.basis).ravel()
    later = (after.loss.gradient(after.y0) @ after.basis).ravel()
    old, new = (one.flat[:, texts.own] for one in (before, after))
    K = products(old, old)
    power = [float(np.sum((costates.astype(one.dtype) @ one).astype(float) ** 2)) for one in (old, new)]
    slope = later.astype(new.dtype) @ new
    met = products(old, slope[None])[:, 0]
    kept = met @ np.linalg.solve(K + 1e-6 * np.trace(K) / len(K) * np.eye(len(K)), met)
    sizes = [float(np.linalg.norm(K)), float(np.linalg.norm(products(new, new)))]
    aligned = [p / (s * float(costates @ costates)) for p, s in zip(power, sizes, strict=True)]
    return {
        "alignment": aligned[0],
        "alignment_after": aligned[1],
        "growth": power[1] / max(power[0], 1e-300),
        "fresh": float(1.0 - kept / max(float(np.sum(slope.astype(float) ** 2)), 1e-300)),
    }


def measure(setting: Setting, predicted: Record) -> Record:
    """Return the runs of the sweep, which dev text chooses among, and how well each forecast meets the held-out shifts.

    Options: head ("joint" or "frozen"), dev, relinearisations, and those of `tuning.practice.Recipe`.
    """
    subject, a = _arm(setting), predicted.arrays
    found = practised(
        subject, setting.train, setting.dev, setting.test, recipe=recipe_of(setting.options), seed=_training_seed(setting)
    )
    shift = centred(found.chosen.outputs - a["y0"])
    names = ("optimum", *RIVALS, "path", *(name for name in ("shuffled",) if name in a))
    forecasts = {name: centred(a[name].astype(float)) for name in names}
    forecasts |= {f"relinearised_{k}": centred(a[f"relinearised_{k}"] - a["y0"]) for k in _counted(a)}
    E = CrossEntropy(setting.test.labels.cpu().numpy()).basis(a["y0"].shape[1])
    null = [one.astype(float) @ E.T for one in a["permuted"]]
    return Record(
        {
            "rate": found.rate,
            "step": found.step,
            "at_edge": found.at_edge,
            "accuracy": found.chosen.accuracy,
            "loss": found.chosen.loss,
            "runs": [_run_told(run, r, a, E) for r, run in enumerate(found.runs)],
            "cosines": {name: cosine(shift, own) for name, own in forecasts.items()}
            | {"permuted": float(np.quantile([cosine(shift, one) for one in null], 0.975))},
            "r2": {name: explained(shift, own) for name, own in forecasts.items()}
            | {"permuted": float(np.quantile([explained(shift, one) for one in null], 0.975))},
        },
        {"outputs": found.chosen.outputs},
    )


def _counted(arrays: Mapping[str, np.ndarray]) -> list[int]:
    return [k for k in range(1, 10) if f"relinearised_{k}" in arrays]


def _run_told(run: Run, r: int, a: Mapping[str, np.ndarray], E: np.ndarray) -> dict:
    """Return a rate's run with, at every look, how the paths that were forecast for it meet the held-out shift."""
    looks = []
    for k, point in enumerate(run.path):
        told = {"step": point.step, "dev_loss": point.dev_loss, "loss": point.loss, "accuracy": point.accuracy}
        if k:
            shift = (point.outputs - a["y0"]) @ E
            paths = {name: a[f"path_{name}"][r, k - 1].astype(float) for name in ("shift", "head") if f"path_{name}" in a}
            told |= {"size": float(np.sqrt(np.mean(shift**2))), "cosine": cosine(shift, paths["shift"])}
            told |= {f"r2_{name}": explained(shift, own) for name, own in paths.items()}
            told |= {"r2_gradient": max(0.0, cosine(shift, a["gradient"].astype(float) @ E)) ** 2}
        looks.append(told)
    return {"rate": run.rate, "finite": run.finite, "looks": looks}


EXPERIMENT = Experiment("practice", "one delta tuned as in practice", ("delta",), predict, measure, weight=40.0, per_delta=True)
