"""One delta on one task: the linearised optimum before training, the trained delta after."""

import numpy as np

from theory.kernel import gradient_rival
from tuning.training import flatten

from ...statistics import cosine, explained, jensen_shannon
from ...store import Record
from ..shared.linearisation import Linearisation, departure, linearise, penalty
from ..shared.setting import Experiment, Setting, own_rng
from ..shared.training import at_start, centred, cost, cross_entropy, logits, penalised, shifted, train

PERMUTATIONS = 24


def bins(names: tuple[str, ...], shapes: tuple[tuple[int, ...], ...]) -> tuple[list[str], np.ndarray]:
    """Return the labels of the energy bins and each number's bin: one per port, per head and kind where there are heads."""
    labels: list[str] = []
    index = []
    for name, shape in zip(names, shapes, strict=True):
        port = ".".join(name.split(".")[:2])
        if len(shape) == 3:
            own = [f"{name}.{head}" for head in range(shape[1])]
            where = np.broadcast_to(np.arange(shape[1])[None, :, None], shape).ravel()
        else:
            own, where = [port], np.zeros(int(np.prod(shape)), dtype=int)
        labels += [label for label in own if label not in labels]
        index.append(np.array([labels.index(label) for label in own])[where])
    return labels, np.concatenate(index)


def shares(z: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Return each bin's share of |z|^2."""
    energy = np.bincount(index, weights=z**2)
    return energy / max(energy.sum(), 1e-300)


def _linear(setting: Setting, batch) -> Linearisation:
    subject = setting.subjects["delta"]
    return linearise(subject.outputs, subject.initial, batch)


def predict(setting: Setting) -> Record:
    """Return everything that is known before training: the ensemble LQ optimum, its rivals, its nulls, its regime.

    Rivals: the gradient at the reference point, scaled to minimise the linearised training objective. Nulls: the optimum
    for permuted labels, and random controls in the row space, G' xi: isotropic nulls always lose, since G has an
    effective rank of a few.
    """
    subject = setting.subjects["delta"]
    lin, test = _linear(setting, setting.train), _linear(setting, setting.test)
    kernel = lin.kernel()
    r = penalty(setting, lin, subject.outputs, subject.initial)
    control = lin.optimum(r, kernel=kernel)
    step = gradient_rival(lin.G, lin.y0, lin.loss, r).z
    rng = own_rng(setting, 101)
    permuted = np.stack([lin.optimum(r, kernel=kernel, labels=rng.permutation(lin.labels)).z for _ in range(PERMUTATIONS)])
    flat = lin.G.reshape(-1, lin.G.shape[-1])
    random = rng.standard_normal((PERMUTATIONS, len(flat))) @ flat
    linear_shift = test.G @ control.z
    moved = logits(subject.outputs, shifted(subject.initial, control.z), setting.test)
    labels, index = bins(lin.names, lin.shapes)
    origin = flatten(subject.initial)
    return Record(
        {
            "r": r,
            "curvature": float(lin.curvatures(lin.y0)[0]),
            "eta": departure(test, control, moved),
            "solver_gradient": float(control.gradient_norm),
            "norm": float(np.linalg.norm(control.z)),
            "predicted_loss": cross_entropy(test.y0 + linear_shift, test.labels),
            "reference_loss": cross_entropy(test.y0, test.labels),
            "reference_accuracy": float(np.mean(test.y0.argmax(1) == test.labels)),
            "predicted_accuracy": float(np.mean((test.y0 + linear_shift).argmax(1) == test.labels)),
            "size": int(lin.G.shape[-1]),
            "bins": labels,
            "profile": shares(control.z, index).tolist(),
            "profile_gradient": shares(step, index).tolist(),
            "profile_initial": (shares(origin, index) if np.any(origin) else np.full(len(labels), 1 / len(labels))).tolist(),
        },
        {
            "z": control.z,
            "gradient": step,
            "permuted": permuted.astype(np.float32),
            "random": random.astype(np.float32),
            "y0": test.y0,
            "shift": linear_shift,
            "shift_gradient": test.G @ step,
            "shift_permuted": np.einsum("ncm,pm->pnc", test.G, permuted[:8]).astype(np.float32),
        },
    )


def measure(setting: Setting, predicted: Record) -> Record:
    """Return the trained delta and how well each prediction meets it, all on held-out text."""
    subject, r = setting.subjects["delta"], predicted.values["r"]
    origin = at_start(subject)
    fitted = train(setting, penalised(subject.loss, setting.train, r, origin), origin)
    z = flatten(fitted.params) - flatten(origin)
    outputs = logits(subject.outputs, fitted.params, setting.test)
    a = predicted.arrays
    shift = centred(outputs - a["y0"])
    z_hat = a["z"]
    labels, index = bins(tuple(origin), tuple(tuple(p.shape) for p in origin.values()))
    trained = shares(z, index)
    rng = own_rng(setting, 102)
    orders = [_shuffled_blocks(labels, np.asarray(predicted.values["profile"]), rng) for _ in range(64)]
    target = setting.test.labels.cpu().numpy()
    record = {
        **cost(fitted),
        "r": r,
        "eta": predicted.values["eta"],
        "norm": float(np.linalg.norm(z)),
        "norm_predicted": float(np.linalg.norm(z_hat)),
        "loss": cross_entropy(outputs, target),
        "accuracy": float(np.mean(outputs.argmax(1) == target)),
        "train_loss": float(subject.loss(fitted.params, setting.train).detach()),
        "cosine": cosine(z, z_hat),
        "cosine_gradient": cosine(z, a["gradient"]),
        "cosine_permuted": float(np.quantile([cosine(z, v) for v in a["permuted"]], 0.975)),
        "cosine_random": float(np.quantile([abs(cosine(z, v)) for v in a["random"]], 0.975)),
        "r2": explained(z, z_hat),
        "r2_logits": explained(shift, centred(a["shift"])),
        "r2_logits_gradient": explained(shift, centred(a["shift_gradient"])),
        "r2_logits_constant": explained(shift, np.broadcast_to(shift.mean(0), shift.shape)),
        "r2_logits_permuted": float(np.quantile([explained(shift, centred(s)) for s in a["shift_permuted"]], 0.975)),
        "profile": trained.tolist(),
        "js": jensen_shannon(trained, np.asarray(predicted.values["profile"])),
        "js_gradient": jensen_shannon(trained, np.asarray(predicted.values["profile_gradient"])),
        "js_uniform": jensen_shannon(trained, np.full(len(labels), 1 / len(labels))),
        "js_initial": jensen_shannon(trained, np.asarray(predicted.values["profile_initial"])),
        "js_permuted": float(np.quantile([jensen_shannon(trained, o) for o in orders], 0.025)),
    }
    return Record(record, {"z": z.astype(np.float32), "outputs": outputs})


def _shuffled_blocks(labels: list[str], profile: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the predicted profile with the network's blocks in a random order other than their own.

    Blocks change places with those that have the same ports: a decoder's beside an encoder have more than the encoder's.
    """
    block = np.array([int(label.split(".")[0]) for label in labels])
    alike: dict[tuple[str, ...], list[int]] = {}
    for number in range(block.max() + 1):
        ports = tuple(label.partition(".")[2] for label, own in zip(labels, block, strict=True) if own == number)
        alike.setdefault(ports, []).append(number)
    moved = np.empty_like(profile)
    for numbers in alike.values():
        order = rng.permutation(len(numbers))
        if np.all(order == np.arange(len(order))):
            order = np.roll(order, 1)
        for old, new in zip(numbers, order, strict=True):
            moved[block == old] = profile[block == numbers[new]]
    return moved


EXPERIMENT = Experiment(
    "tuned", "one delta: prediction and full-batch training", ("delta",), predict, measure, weight=2.0, per_delta=True
)
