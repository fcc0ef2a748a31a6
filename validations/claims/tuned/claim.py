"""What the linearised optimum says of a trained delta: its held-out logits, its direction, its size, its energy by layer."""

from functools import partial

import numpy as np

from ...verdict import Criterion
from ..shared.claim import CONVERGED, LINEAR, Cell, Claim, Comparison, mean, mean_excess
from ..shared.network import bias_setting
from ..shared.plants import own, swapped
from .experiment import EXPERIMENT

_PLANTS = partial(bias_setting, contrast=2.0, readout=0.01)
_COMMON = {
    "experiment": EXPERIMENT,
    "assumptions": (CONVERGED, LINEAR),
    "good": partial(own, EXPERIMENT, _PLANTS),
    "bad": partial(swapped, EXPERIMENT, _PLANTS),
    "good_is": "gated linear plants, on which the linearisation is exact",
    "bad_is": "the prediction made for another plant",
}


def _linearised_optimum_rows(cell: Cell) -> list[dict]:
    m = cell.measured.values
    return [
        cell.place
        | {
            "r2": m["r2_logits"],
            "r2_gradient": m["r2_logits_gradient"],
            "r2_constant": m["r2_logits_constant"],
            "r2_permuted": m["r2_logits_permuted"],
            "accuracy": m["accuracy"],
            "accuracy_predicted": cell.predicted.values["predicted_accuracy"],
            "accuracy_reference": cell.predicted.values["reference_accuracy"],
        }
    ]


def _linearised_optimum_points(cell: Cell) -> list[dict]:
    """Return twelve evenly spaced held-out examples: the predicted and the measured shift of their largest-moving logit."""
    predicted = cell.predicted.arrays["shift"]
    actual = cell.measured.arrays["outputs"] - cell.predicted.arrays["y0"]
    predicted = predicted - predicted.mean(1, keepdims=True)
    actual = actual - actual.mean(1, keepdims=True)
    chosen = np.linspace(0, len(actual) - 1, 12).astype(int)
    column = np.abs(predicted[chosen]).argmax(1)
    return [
        cell.place | {"predicted": float(predicted[i, c]), "measured": float(actual[i, c])}
        for i, c in zip(chosen, column, strict=True)
    ]


LINEARISED_OPTIMUM = Claim(
    id="linearised-optimum",
    nature="consistency",
    view="optimization",
    title="Tuning solves the linearised problem",
    statement="Inside the linear regime, the held-out logits of the trained delta are those of the optimum of the problem "
    "linearised at the delta's reference point, computed from the frozen model alone.",
    equation="hat(y)(x) = y_0 (x) + G(x) hat(z), quad hat(z) = arg min_z 1/N sum_i ell_i (y_(0,i) + G_i z) + r/2 norm(z)^2",
    equation_alt="predicted logits are the frozen logits plus the response times the optimum of the linearised penalised loss",
    derived="the response G of the frozen model on training and held-out text, its logits, the labels and the penalty",
    sources=("jacot2018", "malladi2023", "ding2023"),
    rows=_linearised_optimum_rows,
    parts={"points": _linearised_optimum_points},
    statistic=Comparison("share of the held-out logit shift explained, R²", mean("r2")),
    criteria=(
        Criterion("explained", "R² of the predicted shift", mean("r2"), (0.5, np.inf), (0.0, np.inf)),
        Criterion(
            "margin",
            "R² above the best cheap rival",
            mean_excess("r2", "r2_gradient", "r2_constant"),
            (0.1, np.inf),
            (0.0, np.inf),
        ),
    ),
    rivals=(
        Comparison("one gradient step, best scale", mean("r2_gradient")),
        Comparison("best constant shift, fitted to the outcome", mean("r2_constant")),
    ),
    nulls=(Comparison("optimum for permuted labels, 97.5 % quantile", mean("r2_permuted")),),
    rule="Supported when R² exceeds one half and exceeds the best rival by 0.1; refuted when it is no better than predicting "
    "no change, or than the best rival.",
    reason="Half of the shift explained with no fitted constant is the least that would let a reader use the prediction "
    "instead of a run; 0.1 is the resolution of a dozen clusters.",
    change="A penalty so small that training leaves the linear regime, or a rival that explains the shift as well.",
    **_COMMON,
)


def _control_direction_rows(cell: Cell) -> list[dict]:
    m = cell.measured.values
    margin = m["cosine"] - max(m["cosine_gradient"], m["cosine_permuted"])
    names = ("cosine", "cosine_gradient", "cosine_permuted", "cosine_random")
    return [cell.place | {name: m[name] for name in names} | {"margin": margin}]


CONTROL_DIRECTION = Claim(
    id="control-direction",
    nature="consistency",
    view="control",
    title="The trained control has the direction of the LQ optimum",
    statement="One open-loop control drives the whole ensemble of examples; the trained one points along the optimum of the "
    "linear-quadratic problem about the frozen trajectory, better than the gradient does.",
    equation=r'hat(z) = - R^(-1) G^top hat(nu), quad S = frac(chevron.l z_"trained"\, hat(z) chevron.r, norm(z_"trained") norm(hat(z)))',
    equation_alt="the predicted control is minus R inverse G transpose times the ensemble's dual variable; S is its cosine with "
    "the trained control",
    derived="the response of the frozen model at zero control (bias) or at the initial prefix, the labels, the penalty",
    sources=("ding2023", "li2018msa"),
    deltas=("port-bias", "prefix"),
    rows=_control_direction_rows,
    statistic=Comparison("cosine of trained and predicted control", mean("cosine")),
    criteria=(
        Criterion(
            "margin",
            "cosine above gradient and permuted-label optimum",
            mean_excess("cosine", "cosine_gradient", "cosine_permuted"),
            (0.10, np.inf),
            (0.02, np.inf),
        ),
        Criterion("cosine", "cosine", mean("cosine"), (0.5, np.inf), (0.25, np.inf)),
    ),
    rivals=(Comparison("gradient at the reference point", mean("cosine_gradient")),),
    nulls=(
        Comparison("optimum for permuted labels, 97.5 % quantile", mean("cosine_permuted")),
        Comparison("random control in the row space of G, 97.5 % quantile", mean("cosine_random")),
    ),
    rule="Supported when the cosine exceeds the better of gradient and permuted-label optimum by 0.10 and is above 0.5; "
    "refuted when the excess is below 0.02 or the cosine below 0.25.",
    reason="Isotropic nulls always lose because the response has an effective rank of a few, so the bar is the best structured "
    "rival; the cosine is not divided by a seed ceiling, which makes 0.5 the stricter form.",
    change="A rival direction that needs no second-order information and does as well, or a failure at larger controls.",
    **_COMMON,
)


def _control_amplitude_rows(cell: Cell) -> list[dict]:
    m = cell.measured.values
    return [
        cell.place
        | {
            "r2": m["r2"],
            "r2_gradient": m["cosine_gradient"] ** 2,
            "log_ratio": float(np.log(m["norm"] / m["norm_predicted"])),
            "norm_predicted": m["norm_predicted"],
            "norm_trained": m["norm"],
        }
    ]


CONTROL_AMPLITUDE = Claim(
    id="control-amplitude",
    nature="consistency",
    view="control",
    title="The LQ optimum has the right amplitude",
    statement="The linear-quadratic optimum predicts the trained control itself, direction and size, with the penalty that was "
    "used in training and no fitted scale.",
    equation='R^2 = 1 - frac(norm(z_"trained" - hat(z))^2, norm(z_"trained")^2), quad ell = log frac(norm(z_"trained"), norm(hat(z)))',
    equation_alt="R squared is one minus the squared relative error of the predicted control; ell is the log ratio of the norms",
    derived="the same optimum as for the direction; the rival's scale is fitted to the outcome, ours is not",
    sources=("ding2023", "li2018msa"),
    deltas=("port-bias", "prefix"),
    rows=_control_amplitude_rows,
    statistic=Comparison("share of the trained control explained, R²", mean("r2")),
    criteria=(
        Criterion(
            "margin",
            "R² above the best-scaled gradient",
            mean_excess("r2", "r2_gradient"),
            (0.1, np.inf),
            (0.0, np.inf),
        ),
        Criterion(
            "log ratio",
            "log of trained over predicted norm",
            mean("log_ratio"),
            (-float(np.log(1.5)), float(np.log(1.5))),
            (-float(np.log(2)), float(np.log(2))),
        ),
    ),
    rivals=(Comparison("gradient, scale fitted to the outcome", mean("r2_gradient")),),
    rule="Supported when R² exceeds that of the gradient scaled to fit the outcome by 0.1 and the norms agree within a factor of "
    "1.5; refuted when R² is below the rival's or the norms differ by more than a factor of 2.",
    reason="The rival is given the one constant that the prediction does without; a factor of 1.5 is the error at which a "
    "budget would be chosen wrongly by one step of a doubling grid.",
    change="Systematic overshoot of the linearised optimum, which grows with the size of the control.",
    **_COMMON,
)


ENERGY_PROFILE_RIVALS = ("js_gradient", "js_uniform", "js_initial")


def _energy_profile_rows(cell: Cell) -> list[dict]:
    m = cell.measured.values
    ratio = float(np.log(max(m["js"], 1e-9) / max(min(m[r] for r in ENERGY_PROFILE_RIVALS), 1e-9)))
    return [cell.place | {name: m[name] for name in ("js", *ENERGY_PROFILE_RIVALS, "js_permuted")} | {"log_ratio": ratio}]


def _energy_profile_profile(cell: Cell) -> list[dict]:
    """Return each port's share of the energy: trained, predicted, gradient."""
    labels = cell.predicted.values["bins"]
    ports = [f"{int(label.split('.')[0]) + 1} {label.split('.')[1]}" for label in labels]
    series = {
        "trained": cell.measured.values["profile"],
        "predicted": cell.predicted.values["profile"],
        "gradient": cell.predicted.values["profile_gradient"],
    }
    return [
        cell.place
        | {"port": port}
        | {n: float(sum(v for v, p in zip(s, ports, strict=True) if p == port)) for n, s in series.items()}
        for port in dict.fromkeys(ports)
    ]


ENERGY_PROFILE = Claim(
    id="energy-profile",
    nature="consistency",
    view="control",
    title="The LQ optimum says which layers spend the control energy",
    statement="The share of control energy at each port (for a prefix, at each head and for keys and values apart) is that of "
    "the linear-quadratic optimum.",
    equation="e_t = frac(norm(u_t)^2_R, sum_s norm(u_s)^2_R), quad hat(u)_t = - R^(-1) B_t^top Phi(T, t + 1)^top C^top hat(nu)",
    equation_alt="the energy share of layer t is its squared control norm over the sum; the predicted control is the "
    "back-propagated dual variable",
    derived="the linear-quadratic optimum of the frozen model",
    sources=("ding2023", "li2018msa"),
    deltas=("port-bias", "prefix"),
    rows=_energy_profile_rows,
    parts={"profile": _energy_profile_profile},
    statistic=Comparison("Jensen-Shannon divergence of trained and predicted shares, nats", mean("js")),
    criteria=(
        Criterion(
            "log ratio",
            "log of divergence over the best rival's",
            mean("log_ratio"),
            (-np.inf, float(np.log(0.7))),
            (-np.inf, 0.0),
        ),
    ),
    rivals=(
        Comparison("gradient", mean("js_gradient")),
        Comparison("uniform over ports", mean("js_uniform")),
        Comparison("share of the initial parameters", mean("js_initial")),
    ),
    nulls=(Comparison("prediction with the blocks in a random order, 2.5 % quantile", mean("js_permuted")),),
    rule="Supported when the divergence is at most 0.7 of the smallest of the rivals', chosen anew in every cell; refuted when "
    "it is no smaller than that.",
    reason="The gradient profile is cheap and often close, so the prediction must be clearly closer; choosing the best rival in "
    "each cell favours the rivals.",
    change="A profile that follows the gradient, as it does when the penalty is large.",
    **_COMMON,
)
