"""The Hessian of a tuned delta: how many eigenvalues stand out, where they point, and what Gauss-Newton leaves out."""

from functools import partial

import numpy as np

from ...verdict import Criterion
from ..shared.claim import CONVERGED, LINEAR, Assumption, Cell, Claim, Comparison, error, lead, mean, octaves, relative
from ..shared.network import bias_setting
from ..shared.plants import own
from .experiment import EXPERIMENT
from .plants import bent_setting, bilinear_setting, planted_setting

RESOLVED = Assumption(
    "eigenvalues resolved",
    "the 16 leading eigenvalues of the Hessian met their tolerance of one per cent",
    lambda cell: cell.measured.values["resolved"],
    lambda cells: f"median products {np.median([c.measured.values['products'] for c in cells]):.0f}",
    needed=0.9,
)
_log2 = partial(octaves, least=1e-6)


def _place(cell: Cell) -> dict:
    """Return where a row comes from, without the gate: a statement on the trained point needs no linear regime."""
    return {"task": cell.task, "delta": cell.delta, "seed": cell.seed}


def _counts(cell: Cell) -> list[dict]:
    p, m = cell.predicted.values, cell.measured.values
    known = {
        "predicted": p["classes"] - 1,
        "classes": p["classes"],
        "one": 1,
        "two": 2,
        "ports": p["ports"],
        "structure": max(p["structure"], 1),
        "start": p["start"]["count"],
    }
    distances = {f"distance_{name}": abs(_log2(m["count"] / k)) for name, k in known.items()}
    null = [abs(_log2(k / known["predicted"])) for k in p["gaussian"]]
    return [
        _place(cell)
        | {"measured": m["count"], "gauss_newton": m["end"]["count"], **known, **distances}
        | {"distance_gauss_newton": abs(_log2(m["end"]["count"] / known["predicted"]))}
        | {"distance_gaussian": float(np.mean(null)), "exact": float(m["count"] == known["predicted"])}
    ]


def _spectra(cell: Cell) -> list[dict]:
    """Return the leading eigenvalues of the Hessian and of Gauss-Newton after training, over the largest of either."""
    m = cell.measured.values
    pairs = zip(m["values"], m["gauss_newton"], strict=False)
    return [
        _place(cell) | {"rank": k, "classes": cell.predicted.values["classes"]}
        | {"hessian": h / m["values"][0], "gauss_newton": g / m["gauss_newton"][0]}
        for k, (h, g) in enumerate(pairs, 1)
    ]  # fmt: skip


CONSTANTS = ("distance_one", "distance_two", "distance_ports")

COUNT = Claim(
    id="outlier-count",
    nature="prediction",
    view="optimization",
    title="One eigenvalue fewer than classes stands out",
    statement="After training, as many eigenvalues of a delta's Hessian stand out from the rest as the task has classes, less one.",
    equation='hat(k) = op("arg max")_(k < 16) frac(lambda_k, lambda_(k + 1)) = C - 1',
    equation_alt="the place of the widest gap among the sixteen leading eigenvalues of the Hessian, on a ratio scale, is the number "
    "of classes minus one",
    derived="the number of classes; beside it the frozen model's class and cross-class mean gradients",
    sources=("sagun2017", "papyan2020"),
    experiment=EXPERIMENT,
    rows=_counts,
    parts={"spectra": _spectra},
    statistic=Comparison("outliers of the Hessian, share of cells with exactly C − 1", mean("exact")),
    criteria=(
        Criterion(
            "distance", "distance of count and C − 1, octaves", error("distance_predicted"), (-np.inf, 0.5), (-np.inf, 1.0)
        ),
        Criterion(
            "lead",
            "lead over the best constant, octaves",
            lead("distance_predicted", *CONSTANTS, less=True),
            (0.25, np.inf),
            (0.0, np.inf),
        ),
    ),
    rivals=(
        Comparison("always one, octaves", mean("distance_one")),
        Comparison("always two, octaves", mean("distance_two")),
        Comparison("number of ports, octaves", mean("distance_ports")),
        Comparison("number of classes, octaves", mean("distance_classes")),
        Comparison("between-class eigenvalues above the within-class bulk, octaves", mean("distance_structure")),
        Comparison("count of the frozen Gauss–Newton matrix, octaves", mean("distance_start")),
        Comparison("C − 1 for the trained Gauss–Newton matrix, octaves", mean("distance_gauss_newton")),
    ),
    nulls=(Comparison("C − 1 for Gaussian gradients of the same lengths, octaves", mean("distance_gaussian")),),
    assumptions=(CONVERGED, RESOLVED),
    rule="Supported when the count is within half an octave of C − 1 on average and a quarter of an octave nearer to it than to "
    "one, to two and to the number of ports; refuted when it is further than an octave or a constant is nearer.",
    reason="With few classes most small numbers are near C − 1, and the widest gap of any steep spectrum is often its first, so C − 1 "
    "must beat constants; with two classes only it is the constant one, and the claim stays undecided. Sixteen is fixed for all "
    "tasks, so that the search cannot favour a count.",
    change="Tasks with more classes, or training until the loss vanishes, where classes collapse to their means.",
    good=partial(own, EXPERIMENT, partial(planted_setting, by="logit")),
    bad=partial(own, EXPERIMENT, partial(planted_setting, by="feature")),
    good_is="plants with 3 to 8 classes whose examples share one response of each logit",
    bad_is="plants with as many classes and no mean by class or logit, whose outliers are their 8 to 15 features",
)


def _directions(cell: Cell) -> list[dict]:
    m = cell.measured.values
    shares = {name: m[f"overlap_{name}"] for name in ("between", "logit", "frozen", "permuted", "random")}
    return [_place(cell) | shares | {"lead": shares["between"] - max(shares["logit"], shares["permuted"])}]


DIRECTIONS = Claim(
    id="outlier-directions",
    nature="prediction",
    view="optimization",
    title="The outliers are the classes' mean gradients",
    statement="The leading C − 1 eigenvectors of the trained delta's Hessian lie in the leading between-class directions of the "
    "frozen model's logit gradients.",
    equation='frac(norm(U^top V)_F^2, C - 1) = 1, quad U: "leading" C - 1 "of" sum_(k c) w_(k c) m_(k c) m_(k c)^top, quad m_(k c) = EE_(i in k) [g_(i c)]',
    equation_alt="the squared Frobenius norm of U transpose V over C minus one is one, with U the leading eigenvectors of the weighted "
    "sum of outer products of the mean gradients of logit c over class k",
    derived="the frozen model's response, its probabilities and the training labels",
    sources=("papyan2020", "fort2019"),
    experiment=EXPERIMENT,
    rows=_directions,
    statistic=Comparison("share of the leading C − 1 eigenvectors within the between-class directions", mean("between")),
    criteria=(
        Criterion("share", "share inside", mean("between"), (0.5, np.inf), (0.25, np.inf)),
        Criterion("lead", "share above logit means and permuted labels", mean("lead"), (0.05, np.inf), (0.0, np.inf)),
    ),
    rivals=(
        Comparison("mean gradients of the logits over all classes", mean("logit")),
        Comparison("leading eigenvectors of the frozen Gauss–Newton matrix", mean("frozen")),
    ),
    nulls=(
        Comparison("permuted labels, 97.5 % quantile", mean("permuted")),
        Comparison("random directions", mean("random")),
    ),
    assumptions=(CONVERGED, RESOLVED),
    rule="Supported when half of the eigenvectors lies inside and five per cent more than inside the directions of the logits' "
    "means over all classes and of permuted labels; refuted when less than a quarter does or one of those holds more.",
    reason="Gradients that cluster by logit alone give C − 1 outliers without any class structure, so labels must add something: "
    "permuting them keeps the logits' means and destroys those of the classes.",
    change="Training until the classes' states collapse, or a readout that is trained too.",
    good=partial(own, EXPERIMENT, partial(planted_setting, by="class", noise=1.5)),
    bad=partial(own, EXPERIMENT, partial(planted_setting, by="logit", noise=1.5)),
    good_is="plants whose response differs from class to class with no mean over the classes",
    bad_is="plants whose response is the same in all classes, so that logits alone make the outliers",
)


def _differences(cell: Cell) -> list[dict]:
    start, end = cell.predicted.values["start"], cell.measured.values["end"]
    return [
        _place(cell)
        | {"along": end["along"], "next": end["next"], "along_start": start["along"], "off": end["off"]}
        | {"off_start": start["off"], "octaves": _log2(end["off"]), "octaves_start": _log2(start["off"])}
    ]


GAUSS_NEWTON = Claim(
    id="gauss-newton-hessian",
    nature="prediction",
    view="optimization",
    title="The Hessian is Gauss–Newton along the outliers only",
    statement="After training, Hessian and Gauss–Newton matrix agree along the leading C − 1 Gauss–Newton eigenvectors; off them "
    "what Gauss–Newton leaves out exceeds what it holds.",
    equation='frac(abs(v^top (H - G) v), v^top G v) <= 0.1 quad "along", quad frac(norm(P (H - G) P)_F, norm(P G P)_F) > 1 quad "off"',
    equation_alt="along a leading eigenvector v the difference is at most a tenth of v transpose G v; off them, with P the projection, "
    "the Frobenius norm of P H minus G P exceeds that of P G P",
    derived="nothing but the number of classes: the literature's statement, tested on deltas",
    sources=("sagun2017", "papyan2020", "martens2020"),
    experiment=EXPERIMENT,
    rows=_differences,
    statistic=Comparison("relative difference along the leading C − 1 eigenvectors", mean("along")),
    criteria=(
        Criterion("along", "relative difference along the outliers", error("along"), (-np.inf, 0.1), (-np.inf, 0.25)),
        Criterion("off", "log2 of the difference over Gauss–Newton off them", mean("octaves"), (0.0, np.inf), (-1.0, np.inf)),
    ),
    rivals=(
        Comparison("along, before training", mean("along_start")),
        Comparison("off, before training (log2)", mean("octaves_start")),
    ),
    nulls=(Comparison("along the next C − 1 eigenvectors", mean("next")),),
    assumptions=(CONVERGED,),
    rule="Supported when the difference along is at most a tenth and the one off exceeds Gauss–Newton itself; refuted when along it "
    "is a quarter or more, or off it is less than half.",
    reason="The rival is that the Hessian simply is Gauss–Newton, as it is where the logits are affine in the delta: then the "
    "difference off the outliers vanishes. A delta of two factors has its first-order change in one of them only, so the block "
    "between the two is left out by Gauss–Newton.",
    change="Deltas that enter the network linearly, or a training that fits the labels until no slope is left.",
    good=partial(own, EXPERIMENT, partial(bilinear_setting, regime=None)),
    bad=partial(own, EXPERIMENT, bias_setting),
    good_is="adapters that start at zero on plants with C − 1 planted outliers",
    bad_is="networks affine in their controls, where the Hessian is Gauss–Newton",
)


def _residuals(cell: Cell) -> list[dict]:
    p, m = cell.predicted.values, cell.measured.values
    before = max(p["start"]["residual"], 1e-30)
    changes = {
        "measured": _log2(m["end"]["residual"] / before),
        "predicted": _log2(p["residual"] / before),
        "misfit": _log2(p["misfit"] / p["start"]["misfit"]),
        "unchanged": 0.0,
    }
    errors = {f"error_{name}": abs(changes["measured"] - changes[name]) for name in ("predicted", "misfit", "unchanged")}
    return [cell.place | changes | errors]


RESIDUAL = Claim(
    id="residual-fades",
    nature="consistency",
    view="optimization",
    title="What Gauss–Newton leaves out fades with the slope of the loss",
    statement="Training shrinks the Hessian's part beside Gauss–Newton as the slopes at the logits shrink in the linearised optimum, "
    "its second derivatives staying as they were.",
    equation="frac(norm(R(z))_F, norm(R(0))_F), quad hat(R) = 1/N sum_(i c) (p_(i c) (y_i + G_i hat(z)) - delta_(c, ell_i)) nabla^2 y_(i c) (0)",
    equation_alt="the Frobenius norm of R after over before training, with R hat the mean over examples of the predicted slopes at the "
    "logits times the logits' second derivatives at the frozen model",
    derived="the frozen model's response and second derivatives and the linearised optimum",
    sources=("ding2023", "sagun2017"),
    experiment=EXPERIMENT,
    rows=_residuals,
    statistic=Comparison("error of the predicted change, octaves", mean("error_predicted")),
    criteria=(
        Criterion(
            "error",
            "error over that of no change",
            relative("error_predicted", to="error_unchanged"),
            (-np.inf, 0.7),
            (-np.inf, 1.0),
        ),
        Criterion(
            "accuracy",
            "error of the predicted change, octaves",
            error("error_predicted"),
            (-np.inf, float(np.log2(1.25))),
            (-np.inf, 1.0),
        ),
    ),
    rivals=(
        Comparison("no change, octaves", mean("error_unchanged")),
        Comparison("in proportion to the predicted misfit, octaves", mean("error_misfit")),
        Comparison("measured change, octaves", mean("measured")),
    ),
    assumptions=(CONVERGED, LINEAR),
    rule="Supported when the predicted change is within a factor of 1.25 and its error at most 0.7 of that of no change; refuted "
    "when it is off by two or no better than no change.",
    reason="In the linear regime training may change the slopes little, and then no change is a good guess; the prediction must beat "
    "it. The misfit alone ignores which second derivatives the fading slopes stand at.",
    change="Training beyond the linear regime, where the second derivatives themselves change.",
    good=partial(own, EXPERIMENT, partial(bilinear_setting, regime=0.1)),
    bad=partial(own, EXPERIMENT, bent_setting),
    good_is="adapters that start at zero, on plants with uneven classes",
    bad_is="plants whose second derivative grows with the control while the slopes fade",
)
