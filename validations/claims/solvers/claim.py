"""The maximum principle on trained controls, and solvers of optimal control against gradients at equal passes."""

from collections.abc import Iterator
from functools import partial

import numpy as np

from ...statistics import Columns, Statistic
from ...verdict import Criterion
from ..shared.claim import Assumption, Cell, Claim, Comparison, Row, error, lead, mean, mean_excess, octaves
from ..shared.plants import own
from ..shared.regime import ETA_LIMIT
from .experiment import ACCURACIES, EXPERIMENT
from .plants import linear, rested, rippled
from .race import SOLVERS

DERIVED = (
    "the response and the logits of the frozen network on training text, the labels, six products with the Hessian of the loss at "
    "rest for every price; the order of the batches"
)
_PLANTS = {
    "experiment": EXPERIMENT,
    "good": partial(own, EXPERIMENT, linear),
    "good_is": "gated linear networks, on which the race on the linearisation is the race on the network",
}
_RIPPLED = {
    "bad": partial(own, EXPERIMENT, rippled),
    "bad_is": "the same with every state run through a sine, about whose far side the response at rest says nothing",
}


def _fall(cell: Cell) -> float:
    return min(1.0 - race["best"] / race["start"] for race in cell.measured.values["races"])


LEARNS = Assumption(
    "control helps",
    "the best control at every price takes at least a thousandth off the training objective",
    lambda cell: _fall(cell) >= 1e-3,
    lambda cells: f"median of the least fall {np.median([_fall(c) for c in cells]):.3f}",
)


def _pairs(cell: Cell) -> Iterator[tuple[dict, dict]]:
    return zip(cell.predicted.values["races"], cell.measured.values["races"], strict=True)


def _residual_rows(cell: Cell) -> list[Row]:
    ports, rows = cell.predicted.values["ports"], []
    for told, found in _pairs(cell):
        stopped, predicted, trained = (
            np.array(record[end]["stationarity"]) for record, end in ((found, "stopped"), (told, "stopped"), (found, "trained"))
        )
        flat = float(np.exp(np.mean(np.log(np.maximum(predicted, 1e-9)))))
        rows += [
            cell.at(None)
            | {"port": port, "share": told["share"], "departure": told["eta"]}
            | {"measured": float(stopped[t]), "predicted": float(predicted[t])}
            | {"trained": float(trained[t]), "trained_worst": float(trained.max())}
            | {"gap": found["stopped"]["gap"][t], "gap_predicted": told["stopped"]["gap"][t]}
            | {"error": abs(octaves(stopped[t] / max(predicted[t], 1e-9)))}
            | {"error_flat": abs(octaves(stopped[t] / flat)), "error_rest": abs(octaves(stopped[t]))}
            for t, port in enumerate(ports)
        ]
    return rows


PMP_RESIDUAL = Claim(
    id="pmp-residual",
    view="control",
    nature="prediction",
    title="A trained control is an extremal in every layer, and AdamW stops short of one by what its linearisation foretells",
    statement="A control trained by L-BFGS satisfies the maximum principle layer by layer. Where AdamW stops in practice it does not, "
    "and how far each layer is from it is foretold by AdamW on the linearised network, before the network is tuned.",
    equation=r"s_t = norm(g_t + r u_t) / norm(g_t (0)), quad g_t = 1/N sum_i partial_u chevron.l lambda_(i,t+1)\, f_t (x_(i,t), u) chevron.r, "
    r"quad H_t (u_t) - min_u H_t (u) = norm(g_t + r u_t)^2 / (2 r)",
    equation_alt="s t is the length of the Hamiltonian's slope in the control of layer t over that of the frozen network; the "
    "Hamiltonian's gap to its minimum is the slope's square over twice the price r",
    derived=DERIVED,
    sources=("li2018msa",),
    rows=_residual_rows,
    statistic=Comparison("octaves between foretold and measured residual where AdamW stops", error("error")),
    criteria=(
        Criterion(
            "trained",
            "largest residual over layers at the trained control",
            error("trained_worst"),
            (-np.inf, 0.05),
            (-np.inf, 0.2),
        ),
        Criterion("stopped", "mean residual where AdamW stops", mean("measured"), (0.1, np.inf), (0.05, np.inf)),
        Criterion("foretold", "octaves off", error("error"), (-np.inf, 0.5), (-np.inf, 1.0), "octaves"),
        Criterion(
            "margin",
            "octaves closer than either rival",
            lead("error", "error_flat", "error_rest", less=True),
            (0.0, np.inf),
            (0.0, np.inf),
            "octaves",
        ),
    ),
    rivals=(
        Comparison("octaves off, one residual for all layers", error("error_flat")),
        Comparison("octaves off, the frozen network's own", error("error_rest")),
    ),
    also=(
        Comparison("Hamiltonian's gap of a layer where AdamW stops, in nats", mean("gap")),
        Comparison("the same, foretold", mean("gap_predicted")),
    ),
    assumptions=(LEARNS,),
    rule="Supported when the largest residual over layers is below a twentieth at the trained control and on average above a tenth "
    "where AdamW stops, foretold within half an octave and closer than either rival does; refuted above a fifth, below a twentieth, "
    "beyond an octave, or when a rival is as close.",
    reason="A tenth of the slope of the untouched network still moves the control by a tenth of its first step. Within half an octave "
    "a reader can tell a run that has ended from one that was cut.",
    change="A schedule whose end is an optimum, or controls so large that the linearised run goes elsewhere.",
    bad=partial(own, EXPERIMENT, rested),
    bad_is="the same with AdamW on whole batches until it rests, which is then at an extremal too",
    **_PLANTS,
)


def _paid(costs: dict, name: str, place: int, budget: float) -> float:
    """Return what a solver paid for an accuracy, the whole budget where it never reached it."""
    cost = costs[name][place]
    return budget if cost is None else cost


def _budget(cell: Cell) -> float:
    return float(cell.measured.values["budget"])


def _solver_rows(cell: Cell) -> list[Row]:
    """Return a row for every price and accuracy that one of the two solvers reached."""
    rows, budget = [], _budget(cell)
    for told, found in _pairs(cell):
        for place, accuracy in enumerate(ACCURACIES):
            if found["costs"]["lq"][place] is None and found["costs"]["lbfgs"][place] is None:
                continue
            lq, msa, lbfgs, adamw = (_paid(found["costs"], name, place, budget) for name in SOLVERS)
            sure = told["costs"]["lq"][place] is not None
            foretold = octaves(_paid(told["costs"], "lbfgs", place, budget) / told["costs"]["lq"][place]) if sure else 0.0
            held_out = found["held_out"]
            rows.append(
                cell.at(None)
                | {"share": told["share"], "departure": told["eta"], "accuracy_asked": accuracy}
                | {"classes": cell.predicted.values["classes"]}
                | {"cost_lq": lq, "cost_msa": msa, "cost_lbfgs": lbfgs, "cost_adamw": adamw}
                | {"lead": octaves(lbfgs / lq), "lead_predicted": foretold, "sure": sure}
                | {"linear": told["eta"] <= ETA_LIMIT, "reached": found["costs"]["lq"][place] is not None}
                | {"loss_lq": held_out["lq"][place], "loss_lbfgs": held_out["lbfgs"][place]}
            )
    return rows


def _lead_where(column: str, value: bool) -> Statistic:
    """Return the statistic "mean lead over the rows where a column has this value", 0 where there is none."""

    def statistic(columns: Columns) -> float:
        lead = columns["lead"][np.asarray(columns[column], bool) == value]
        return float(np.mean(lead)) if len(lead) else 0.0

    return statistic


CONTROL_SOLVER = Claim(
    id="control-solver",
    view="control",
    nature="prediction",
    title="Iterative LQ reaches the optimum for fewer passes than L-BFGS",
    statement="Iterative LQ, which solves the problem linearised at every control, comes within a share of the optimum for fewer passes "
    "through the network than L-BFGS, and surely where the frozen network foretells that its sweeps contract so far.",
    equation=r'"lead" (a) = log_2 (c_"L-BFGS" (a)) / (c_"LQ" (a)), quad c_"LQ" = 1/2 + k C/2 + "rejected"/2, quad d_(k+1) = - A^(-1) S d_k',
    equation_alt="the lead at accuracy a is the binary logarithm of what L-BFGS paid over what iterative LQ paid, in gradients; an "
    "iteration with C classes costs C over 2 gradients; about rest its steps d shrink by the part S of the curvature that it leaves out",
    derived=DERIVED,
    sources=("litodorov2004", "li2018msa"),
    rows=_solver_rows,
    statistic=Comparison("octaves by which iterative LQ is cheaper than L-BFGS", mean("lead")),
    criteria=(
        Criterion("lead", "octaves by which iterative LQ is cheaper", mean("lead"), (0.5, np.inf), (0.0, np.inf), "octaves"),
        Criterion(
            "sure",
            "the same where sweeps were foretold to contract",
            _lead_where("sure", True),
            (0.75, np.inf),
            (0.25, np.inf),
            "octaves",
        ),
        Criterion("reached", "share of accuracies that iterative LQ reached", mean("reached"), (0.9, 1.1), (0.75, 1.1)),
    ),
    rivals=(
        Comparison("lead where sweeps were not foretold to contract so far", _lead_where("sure", False)),
        Comparison(f"lead where eta is at most {ETA_LIMIT}", _lead_where("linear", True)),
        Comparison(f"lead where eta is above {ETA_LIMIT}", _lead_where("linear", False)),
    ),
    also=(
        Comparison(
            "octaves by which iterative LQ is cheaper than AdamW",
            lambda c: float(np.mean(np.log2(c["cost_adamw"] / c["cost_lq"]))),
        ),
        Comparison("than extended successive approximation", lambda c: float(np.mean(np.log2(c["cost_msa"] / c["cost_lq"])))),
    ),
    assumptions=(LEARNS,),
    rule="Supported when iterative LQ is cheaper by more than half an octave on average and by more than three quarters where its "
    "sweeps were foretold to contract, and reaches nine accuracies of ten that either reaches; refuted when it is dearer, saves less "
    "than a quarter of an octave where it was foretold to contract, or misses one accuracy of four.",
    reason="Half an octave is a third of the passes, about what another solver in the loop must save before anyone changes it.",
    change="Many classes, whose response costs half a gradient each, or outputs that bend so much that what LQ leaves out leads.",
    **_PLANTS,
    **_RIPPLED,
)


def _condition_rule(name: str, share: float, accuracy: float) -> float:
    """Return the gradients that the condition number K foretells: K/2 ln 1/(1-a) for gradient steps, sqrt K/4 ln 4/(1-a) else."""
    condition = 1.0 + 1.0 / share
    if name == "msa":
        return max(1.0, 0.5 * condition * np.log(1.0 / (1.0 - accuracy)))
    return max(1.0, 0.25 * np.sqrt(condition) * np.log(4.0 / (1.0 - accuracy)))


def _cost_rows(cell: Cell) -> list[Row]:
    """Return a row for every price, accuracy and gradient solver, but where neither race reached the accuracy."""
    rows, budget = [], _budget(cell)
    for told, found in _pairs(cell):
        for name in ("msa", "lbfgs", "adamw"):
            for place, accuracy in enumerate(ACCURACIES):
                if told["costs"][name][place] is None and found["costs"][name][place] is None:
                    continue
                measured, predicted = (_paid(race["costs"], name, place, budget) for race in (found, told))
                rule = min(_condition_rule(name, told["share"], accuracy), budget)
                rows.append(
                    cell.at(None)
                    | {"option": name, "share": told["share"], "departure": told["eta"], "accuracy_asked": accuracy}
                    | {"measured": measured, "predicted": predicted, "error": abs(octaves(measured / predicted))}
                    | {"rule": rule, "error_rule": abs(octaves(measured / rule))}
                )
    return rows


def _path_rows(cell: Cell) -> list[Row]:
    """Return the paths of all solvers: what was paid and the share of the fall still to make, on the network."""
    return [
        cell.at(None) | {"option": name, "share": race["share"], "cost": cost, "left": left}
        for race in cell.measured.values["races"]
        for name, path in race["paths"].items()
        for cost, left in path
    ]


SOLVER_COST = Claim(
    id="solver-cost",
    view="optimization",
    nature="prediction",
    title="What a solver pays is foretold by its race on the frozen network's linearisation",
    statement="The gradients that L-BFGS, AdamW and extended successive approximation need for a share of the whole fall are those that "
    "they need on the linearisation of the frozen network, where a gradient costs next to nothing.",
    equation=r'c(a) = min {c : J(u_c) <= J(0) - a (J(0) - J^*)}, quad hat(c)(a) "the same on" y_0 + G u',
    equation_alt="the cost of accuracy a is the least number of gradients after which a solver has made the share a of the whole fall; "
    "predicted is the same on the linearised network",
    derived=DERIVED,
    sources=("li2018msa", "malladi2023"),
    rows=_cost_rows,
    parts={"paths": _path_rows},
    statistic=Comparison("octaves between foretold and measured cost", error("error")),
    criteria=(
        Criterion("error", "octaves off", error("error"), (-np.inf, 0.5), (-np.inf, 1.0), "octaves"),
        Criterion(
            "margin",
            "octaves closer than the condition number",
            mean_excess("error", "error_rule", less=True),
            (0.25, np.inf),
            (0.0, np.inf),
        ),
    ),
    rivals=(Comparison("octaves off, by the condition number alone", error("error_rule")),),
    assumptions=(LEARNS,),
    rule="Supported when the forecast is within half an octave on average and a quarter of an octave closer than rules of thumb by the "
    "condition number; refuted beyond an octave, or when the rules are as close.",
    reason="Half an octave is the step between two budgets that one would tell apart when planning a run.",
    change="Controls so large that the linearisation ends well before the optimum.",
    **_PLANTS,
    **_RIPPLED,
)
