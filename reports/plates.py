"""Which figure belongs to which claim, and the words around each."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from matplotlib.figure import Figure

from . import figures_advice as advice
from . import figures_control as control
from . import figures_curvature as curvature
from . import figures_disturbance as disturbance
from . import figures_families as families
from . import figures_laws as laws
from . import figures_optimization as optimization
from . import figures_origins as origins
from . import figures_planted as planted
from . import figures_ports as ports
from . import figures_reach as reach
from . import figures_sharpness as sharpness
from . import figures_sweep as sweep
from . import figures_symbolic as symbolic


@dataclass(frozen=True)
class Plate:
    """One figure: the pure function from tables to a Figure, the columns it needs, and the words around it.

    needs: table part -> columns, in the order of the function's arguments. caption: "{n}" becomes the count of rows.
    """

    name: str
    draw: Callable[..., Figure]
    needs: Mapping[str, tuple[str, ...]]
    caption: str
    alt: str


PLATES = (
    Plate(
        "intrinsic-dimension",
        optimization.intrinsic_dimension,
        {"rows": ("task", "measured", "spectrum")},
        "Intrinsic dimension. (a) Measured against predicted dimension; the line is equality, the band a factor of two. Every "
        "point is one cell (a task, a delta and a seed), whiskers are the measurement's own interval, and a caret marks an "
        "open end. (b) Measured over predicted dimension for the prediction and its rivals; bars are medians. {n}. "
        "Nothing was fitted.",
        "Left: measured against predicted dimension on logarithmic axes with the line of equality. Right: ratio of measured to "
        "predicted dimension for each predictor.",
    ),
    Plate(
        "dimension-curve",
        optimization.dimension_curve,
        {"curves": ("task", "seed", "dimension", "measured", "predicted")},
        "Share of the gain that training in a random subspace keeps, against the dimension of the subspace. Lines are predicted "
        "before training, large markers the mean over seeds inside the linear regime, small ones single seeds. {n}. Nothing was "
        "fitted.",
        "Small multiples by task: share of the gain against subspace dimension, predicted as lines and measured as points.",
    ),
    Plate(
        "linearised-optimum",
        optimization.linearised_optimum,
        {"rows": ("task", "r2"), "points": ("predicted", "measured")},
        "The linearised optimum. (a) Logit shifts of held-out examples, measured against predicted; the line is equality. "
        "(b) Share of their variance explained by the prediction, its rivals and a null; every point is one cell (a task, a "
        "delta and a seed), bars are medians, arrows stand for values below −1. {n}. Nothing was fitted for the prediction; the "
        "scales of its rivals were fitted to the outcome.",
        "Left: measured against predicted logit shifts with the line of equality. Right: variance explained by the linearised "
        "optimum and by its rivals.",
    ),
    Plate(
        "restricted-optimum",
        optimization.restricted_optimum,
        {"rows": ("task", "gap")},
        "Gap to the full optimum and its bounds. (a) Bound against gap; a bound holds above the line. (b) How many times the "
        "bound exceeds the gap. Every point is one cell (a task, a delta and a seed), bars are medians. {n}. Nothing was fitted.",
        "Left: three bounds against the gap on logarithmic axes with the line of equality. Right: ratio of bound to gap.",
    ),
    Plate(
        "control-direction",
        control.control_direction,
        {"rows": ("task", "cosine", "eta")},
        "Direction of the control. (a) Cosine between the trained control and the prediction, its rivals and nulls; every point "
        "is one cell (a task, a delta and a seed), bars are medians. (b) The cosine of the prediction against the departure from "
        "linearity. {n}. Nothing was fitted.",
        "Left: cosines of the trained control with the optimal control, the gradient and nulls. Right: cosine against departure "
        "from linearity.",
    ),
    Plate(
        "control-amplitude",
        control.control_amplitude,
        {"rows": ("task", "norm_predicted", "norm_trained", "log_ratio", "eta")},
        "Size of the control. (a) Norm of the trained against the predicted control; every point is one cell (a task, a delta "
        "and a seed). (b) Their ratio against the departure from linearity. Lines are equality, bands a factor of two. {n}. "
        "Nothing was fitted.",
        "Left: trained against predicted norm with the line of equality. Right: their ratio against departure from linearity.",
    ),
    Plate(
        "energy-profile",
        control.energy_profile,
        {"rows": ("task", "js"), "profile": ("task", "delta", "seed", "port", "trained", "predicted")},
        "Where the control spends its energy. (a) Share at each port (block and sublayer): lines are predictions, large markers "
        "the trained mean over the cells inside the linear regime, small ones single cells. (b) Divergence of each prediction "
        "from the trained profile; every point is one cell (a task, a delta and a seed), bars are medians. {n}. Nothing was "
        "fitted.",
        "Top: energy share by port, one panel per delta, trained as points and predicted as lines. Bottom: Jensen–Shannon "
        "divergence of the prediction and its rivals from the trained profile.",
    ),
    Plate(
        "open-loop-price",
        control.open_loop_price,
        {"rows": ("task", "predicted", "measured")},
        "The price of open loop. (a) Measured against predicted excess of the objective over the adapter's; the line is "
        "equality, every point one task and seed. (b) The same by task, in order of the predicted price; bars are the mean "
        "prediction over seeds. {n}. Nothing was fitted.",
        "Left: measured against predicted price with the line of equality. Right: predicted and measured price by task.",
    ),
    Plate(
        "lq-feedback",
        control.lq_feedback,
        {"rows": ("task", "cosine", "sensitivity")},
        "Feedback. (a) Cosine between the adapter's Jacobian and the predicted gain, its rivals and a null. (b) Sensitivity of "
        "the logits to a disturbance with the adapter's loop closed, over that of the frozen network; below one the loop damps. "
        "Every point is one task and seed, bars are medians. {n}. Nothing was fitted.",
        "Left: cosines of the adapter's Jacobian with the predicted gain and its rivals. Right: closed over open loop "
        "sensitivity by task.",
    ),
    Plate(
        "noise-response",
        disturbance.noise_response,
        {"rows": ("task", "eta", "prefix", "adapter", "predicted", "measured")},
        "The price of noise. (a) Observed over predicted rise of the held-out loss per unit of the noise's variance, against the "
        "departure from linearity; the band is the rule's factor of 1.25. (b) How much more noise costs the adapter than the "
        "prefix, observed against predicted; the line is equality. Every point is one task, seed and noise level. {n}. Nothing "
        "was fitted.",
        "Left: ratio of observed to predicted price of noise for prefix and adapter against departure from linearity. Right: "
        "observed against predicted difference between adapter and prefix with the line of equality.",
    ),
    Plate(
        "worst-case-gain",
        disturbance.worst_case_gain,
        {"rows": ("task", "tightness_gamma", "cosine", "cosine_random")},
        "The worst disturbance. (a) Shift of the class contrasts that gradient ascent finds on the trained prefix, over "
        "the bound of the frozen network and of rivals, median over examples; the band is the rule's. (b) Cosine of the "
        "disturbance found with the predicted direction and with others. Every point is one task, seed and size of the "
        "disturbance, bars are medians. {n}. Nothing was fitted.",
        "Left: shift found over the bound by the gain and by rival bounds. Right: cosine of the attack with the gain's "
        "direction, with one direction for all examples and with random ones.",
    ),
    Plate(
        "robust-gain",
        disturbance.robust_gain,
        {"rows": ("task", "trained", "robust", "game", "open", "closed")},
        "Adversarial training. (a) Gain of the loop that the trained adapter closes, before and after adversarial training, "
        "beside the open loop's and the least that the disturbance game allows. (b) Share of the distance from the trained "
        "adapter's to the game's gain that each closes; the broken line is the rule's quarter. Every point is one task and seed, "
        "bars are medians. {n}. Nothing was fitted.",
        "Left: gains by task on a logarithmic axis. Right: share of the distance to the game's gain closed by adversarial "
        "training, by random disturbances and by removing the adapter.",
    ),
    Plate(
        "tunable-ports",
        control.tunable_ports,
        {"rows": ("task", "seed", "port", "energy", "loss")},
        "Loss reached by tuning a single port against the energy that the port needs by prediction. Large markers are means over "
        "seeds, small ones single seeds. {n}. Nothing was fitted.",
        "Small multiples by task: loss after tuning one port against the predicted energy, by block and sublayer.",
    ),
    *(
        Plate(
            f"ablation-{rest}",
            ports.ablation,
            {"rows": ("task", "predicted"), "sets": ("count", "predicted", "measured")},
            f"Ports switched off, {others}. (a) Measured against predicted increase of the training objective when the controls "
            "at one port or at two are zeroed; the line is equality, the band a factor of two. (b) Rank correlation with the "
            "measured increase over the sets of ports of a cell; every point is one task and seed, bars are medians. {n}. "
            "Nothing was fitted.",
            "Left: measured against predicted increase on logarithmic axes with the line of equality. Right: rank correlations "
            "of the prediction, its rivals and a null.",
        )
        for rest, others in (("frozen", "the others kept"), ("retrained", "the others trained anew"))
    ),
    Plate(
        "placement",
        ports.placement,
        {"rows": ("task", "count", "value"), "map": ("task", "port", "predicted", "trained")},
        "Where to put a control. (a) What a control at one port alone brings, as a share of what the best port brings: predicted "
        "on the left of each panel, trained on the right, by block and sublayer, means over seeds; the circle marks the best. "
        "(b) Share of the best set's gain that the chosen set of one or two ports gives away; every point is one task, seed and "
        "number of ports, bars are medians. {n}. Nothing was fitted.",
        "Top: by task, two heat maps of the gain of each port, predicted and trained. Bottom: regret of the linear-quadratic "
        "choice, of its rivals and of a random one.",
    ),
    Plate(
        "synthesised-adapter",
        laws.synthesised_adapter,
        {"rows": ("task", "seed", "gain", "gain_trained"), "laws": ("task", "seed", "law", "loss", "energy")},
        "Controllers without training, against the adapter trained at the same ports. (a) Loss that each takes off the frozen "
        "model's on held-out text, all at the trained adapter's signal energy. (b) The same at the energy that each asks for "
        "itself. Every point is one task and seed, bars are medians. {n}. Nothing was fitted to the outcome; in (a) the size of "
        "the control was set to the trained adapter's.",
        "Left: gain on held-out text of the trained adapter, the synthesised one and its rivals at equal energy. Right: the "
        "gain of control laws at their own energy.",
    ),
    Plate(
        "healing-robust",
        laws.healing_robust,
        {"rows": ("task", "lost_oblivious", "healing_oblivious", "healing_embedding", "healing_port", "healing_clean")},
        "Control under perturbation. Loss that the perturbation costs the uncontrolled model, and how much of it each controller "
        "recovers on held-out text: (a) from perturbed text and attacks made against the uncontrolled model, (b) and (c) from "
        "attacks made through the controller, over the loss to the attack made without it. (d) Loss that the controller adds on "
        "clean text. Every point is one task and seed, bars are medians. {n}. Healing's rank and cost were chosen on training "
        "text; nothing was fitted to the outcome.",
        "Four strips of points: loss recovered by controller under oblivious perturbations and under adaptive attacks at the "
        "embedding and at the first port, and loss added on clean text.",
    ),
    Plate(
        "budget-law",
        reach.budget_law,
        {"rows": ("task", "share", "predicted", "measured", "power", "error")},
        "Control under a budget. (a) Share of the frozen model's training loss that a control of bounded norm takes away; the "
        "norm is in units of that at which the linear model ends (upright line). Lines are predictions, large markers trained "
        "means over seeds, small ones single cells. (b) Error of the predicted gain at every radius; bars are medians inside the "
        "linear regime. {n}. The power law was fitted to the trained losses at every second radius and is shown at the others; "
        "nothing was fitted for the prediction.",
        "Top: loss taken away against the norm of the control by task, predicted as lines and trained as points. Bottom: errors "
        "of the convex program, of a fitted power law and of the gradient's direction, on a logarithmic axis.",
    ),
    Plate(
        "minimum-energy",
        reach.minimum_energy,
        {"rows": ("task", "efficiency"), "decays": ("task", "decay", "measured", "predicted", "gradient")},
        "Minimum-energy efficiency. (a) Share of the energy of a trained control that its displacement of the class margins "
        "needs, against the weight decay. Solid lines are predictions, large markers trained means over seeds, small ones single "
        "cells, dotted the gradient that displaces as far. (b) The same share for the control trained at the smallest decay and "
        "for others; every point is one task and seed, bars are medians. {n}. Nothing was fitted.",
        "Top: efficiency against weight decay by task, predicted as lines and trained as points. Bottom: efficiency of trained, "
        "predicted, gradient and random controls.",
    ),
    Plate(
        "subspace-transfer",
        reach.subspace_transfer,
        {"rows": ("task", "gap", "gap_random"), "curves": ("task", "subspace", "dimension", "energy")},
        "The subspace of other tasks. (a) Share of a trained control's energy that the leading directions of each subspace "
        "capture, against their number; means over seeds. (b) Share of the gain lost by training inside the leading directions "
        "of other tasks' responses and inside random subspaces of equal dimension; every point is one task and seed, bars are "
        "medians. {n}. Nothing was fitted.",
        "Top: captured energy against dimension by task, one line per subspace. Bottom: gain lost inside the subspace of other "
        "tasks and inside random ones, trained and predicted.",
    ),
    Plate(
        "advice",
        advice.advice,
        {"rows": ("task", "option", "forecast", "trained", "frozen", "frozen_forecast"), "cells": ("task", "forecast")},
        "Advice without training. (a) Change of the held-out loss against the frozen model, forecast and trained, one point per "
        "option, task and seed; the line is equality. (b) Rank correlation of each predictor with the trained loss within a task "
        "and seed; every point is one of them, bars are medians. {n}. Nothing was fitted.",
        "Left: forecast against trained change of the loss for every option with the line of equality. Right: rank correlation "
        "by predictor.",
    ),
    Plate(
        "lora-multiplets",
        sharpness.lora_multiplets,
        {"rows": ("task", "error"), "spectra": ("task", "predicted", "measured")},
        "Both ends of a tuned LoRA's Hessian. (a) Outermost eigenvalues, all modules together, over the penalty: measured at the "
        "tuned delta against predicted from the frozen model; the line is equality. (b) Error of the prediction, of parts of it "
        "and of rivals; every point is one task, seed and penalty, bars are medians. {n}. Nothing was fitted.",
        "Left: measured against predicted eigenvalues, negative and positive, with the line of equality. Right: errors of the "
        "prediction, of its parts and of its rivals.",
    ),
    Plate(
        "convergence-order",
        sharpness.convergence_order,
        {"rows": ("task", "predicted"), "deltas": ("task", "delta", "predicted", "measured")},
        "How fast deltas converge. (a) Steps of gradient descent to nine tenths of the decrease, counted on the network against "
        "predicted from the spectrum and the first gradient; the line is equality, the band a factor of two. (b) Rank "
        "correlation with the counted steps over the deltas of a cell; every point is one task and seed, bars are medians. {n}. "
        "Nothing was fitted.",
        "Left: measured against predicted steps on logarithmic axes with the line of equality. Right: rank correlations of the "
        "prediction, its rivals and a null.",
    ),
    Plate(
        "sharpness-gap",
        sharpness.sharpness_gap,
        {"rows": ("task", "sharpness"), "points": ("task", "seed", "delta", "sharpness", "gap")},
        "Sharpness and generalisation. (a) Held-out less training loss against the Hessian's largest eigenvalue at the tuned "
        "delta, each about the median of its task and seed. (b) Rank correlation with the gap, given the training loss, over the "
        "deltas and penalties of a cell; every point is one task and seed, bars are medians. {n}. Nothing was fitted.",
        "Left: generalisation gap against sharpness. Right: partial rank correlations of sharpness, its variants and its rivals.",
    ),
    Plate(
        "planted-dimension",
        planted.planted_dimension,
        {"rows": ("task", "known", "measured", "low", "high", "error"), "curves": ("task", "relative", "measured")},
        "Problems of known dimension, planted on the frozen network. (a) Share of the gain that training in a random subspace "
        "makes, against its dimension over the known number k of directions; the dark line is the median of all runs, the dashed "
        "one the mean that theory expects, d/k. (b) Measured less known dimension with its 90 % interval. (c) Error of the "
        "measurement, and its distance from what other answers would have been; bars are medians. {n}. Nothing was fitted.",
        "Top left: share of the gain against dimension over k. Top right: intervals about the known dimension. Bottom: errors of "
        "the measurement and of rivals.",
    ),
    Plate(
        "shuffled-labels",
        origins.shuffled_labels,
        {"rows": ("task", "rise", "predicted"), "arms": ("task", "arm", "base", "d90", "learnt")},
        "Permuted labels. (a) Random directions that reach 90 % of full tuning's fall in training loss, for permuted labels "
        "against the true ones; hollow points are a second permutation, the line is equality. (b) Rise of the dimension by "
        "permuted labels, what the linearised problem and measures of the kernel said of it before training, and the second "
        "permutation over the first; bars are medians. {n}. Nothing was fitted.",
        "Left: dimension for permuted labels against true ones. Right: measured rise in octaves beside predicted ones.",
    ),
    Plate(
        "pretraining-lowers",
        origins.pretraining_lowers,
        {"rows": ("task", "arm", "rise", "predicted"), "arms": ("task", "arm", "base", "d90", "learnt")},
        "Pretraining. (a) Random directions that reach 90 % of full tuning's fall in training loss, on a network with shuffled "
        "weights (full points) and on a fresh one (hollow) against the pretrained network; networks on which full tuning takes "
        "away less than half of the loss are left out, the line is equality. (b) Rise of the dimension without pretraining, and "
        "what the linearised problem and measures of the kernel said of it before training; bars are medians. {n}. Nothing was "
        "fitted.",
        "Left: dimension without pretraining against with it. Right: measured rise in octaves beside predicted ones.",
    ),
    Plate(
        "found-subspaces",
        families.found_subspaces,
        {
            "rows": ("task", "measured", "predicted"),
            "curves": ("task", "delta", "seed", "family", "dimension", "measured", "predicted"),
        },
        "Families of subspaces. (a) Share of the gain in the penalised objective that training inside a subspace reaches, "
        "against its dimension, means over tasks and seeds inside the linear regime; lines are predicted before training, the "
        "dotted line is the threshold. (b) By how many octaves a family's threshold dimension lies below that of random "
        "subspaces, with the prediction and two rivals for the Gauss–Newton directions; bars are medians. {n}. Nothing was "
        "fitted.",
        "Top: share of the gain against dimension for families of subspaces, by delta. Bottom: octaves saved against random "
        "subspaces.",
    ),
    Plate(
        "layer-scales",
        families.layer_scales,
        {"rows": ("task", "random", "said", "saved")},
        "A trained scale per layer. (a) Threshold dimension of random subspaces with scales, which it counts, against that "
        "without; the line is equality. (b) Octaves saved, measured and as three predictions have it. Every point is one cell (a "
        "task, a delta and a seed), bars are medians. {n}. Nothing was fitted.",
        "Left: threshold dimension with scales against that without on logarithmic axes. Right: octaves saved, measured and "
        "predicted.",
    ),
    Plate(
        "prefix-limits",
        symbolic.prefix_limits,
        {"digits": ("task", "seed", "arm", "digits", "accuracy")},
        "A task that the decoder does not know. Share of held-out sequences that full tuning, a prefix with more iterations and "
        "LoRA with as many numbers as the prefix solve, by how many different digits a sequence holds; lines are means over "
        "seeds. {n}.",
        "Small multiples by task: share of sequences solved against the number of different digits, one line per way of tuning.",
    ),
    Plate(
        "outlier-count",
        curvature.outlier_count,
        {"rows": ("task", "measured", "distance_predicted"), "spectra": ("task", "seed", "rank", "classes", "hessian")},
        "Outliers. (a) Leading eigenvalues of the trained delta's Hessian over the largest, counted from the place where C − 1 "
        "puts the gap (upright line); thick lines are medians over cells, thin ones single cells, and eigenvalues that are not "
        "positive are left out. (b) Distance between the number of eigenvalues before the widest gap and what each rule says; "
        "every point is one cell (a task, a delta and a seed), bars are medians, the band is the rule's half octave. {n}. "
        "Nothing was fitted.",
        "Left: leading eigenvalues on a logarithmic axis against their place less C minus one, by delta. Right: distance of the "
        "count from C minus one and from rival rules.",
    ),
    Plate(
        "outlier-directions",
        curvature.outlier_directions,
        {"rows": ("task", "between", "logit")},
        "Where the outliers point. Share of the C − 1 leading eigenvectors of the trained delta's Hessian that lies within as "
        "many directions of the frozen model: the means of its logit gradients by class, over all classes and for permuted "
        "labels, and the leading eigenvectors of its Gauss–Newton matrix. Every point is one cell (a task, a delta and a seed), "
        "bars are medians. {n}. Nothing was fitted.",
        "Strip of points: share of the leading Hessian eigenvectors within each subspace.",
    ),
    Plate(
        "gauss-newton-hessian",
        curvature.gauss_newton_hessian,
        {"rows": ("task", "along", "off")},
        "Hessian against Gauss–Newton matrix. (a) Relative difference along leading Gauss–Newton eigenvectors; the line is the "
        "rule's tenth. (b) Frobenius norm of the difference over that of the Gauss–Newton matrix, both off the C − 1 leading "
        "eigenvectors; on the right of the line the difference is the larger. Every point is one cell (a task, a delta and a "
        "seed), bars are medians; differences of zero are left out. {n}. Nothing was fitted.",
        "Left: relative difference along outliers before and after training and along the next eigenvectors. Right: ratio off "
        "the outliers before and after training, both on logarithmic axes.",
    ),
    Plate(
        "residual-fades",
        curvature.residual_fades,
        {"rows": ("task", "predicted", "measured", "error_predicted")},
        "What Gauss–Newton leaves out, after training over before. (a) Measured against predicted change of its Frobenius norm; "
        "the line is equality. (b) Error of the prediction and of its rivals; every point is one cell (a task, a delta and a "
        "seed), bars are medians. {n}. Nothing was fitted.",
        "Left: measured against predicted change in octaves with the line of equality. Right: errors of the prediction, of the "
        "misfit and of no change.",
    ),
    Plate(
        "sweep-curve",
        sweep.sweep_curve,
        {"curves": ("task", "seed", "dimension", "measured", "curve")},
        "Sweeps over random subspaces, head included and starting at zero. Share of full training's gain in the penalised "
        "objective against the dimension of the subspace; markers are trained, lines the linearised problem, in which only the "
        "head moves, in other random subspaces. {n}. Nothing was fitted.",
        "Small multiples by task: share of the gain against subspace dimension, predicted as lines and measured as points.",
    ),
    Plate(
        "low-dimension",
        sweep.low_dimension,
        {"rows": ("task", "delta", "measured", "low", "high", "predicted", "parameters", "head", "reached", "closed")},
        "Threshold dimensions of held-out accuracy. Coloured: the dimension at which accuracy reaches 90 % of full tuning's gain "
        "over the majority class, with its 90 % interval; a dash is an end beyond the dimensions tried, drawn at the last one. "
        "Dark bar: the same for the linearised problem's solutions. Grey bars: the head's numbers, and all tuned ones. {n}. "
        "Nothing was fitted.",
        "Table by task and delta: interval of the threshold dimension on a logarithmic axis, then measured value with interval, "
        "prediction and number of tuned numbers.",
    ),
    Plate(
        "dimensions-alike",
        sweep.dimensions_alike,
        {"rows": ("task", "accuracy", "effective", "coefficient")},
        "Notions of dimension. Threshold dimension of held-out accuracy against (a) the effective dimension of the frozen "
        "features' curvature at 3 % of its largest eigenvalue, (b) the local learning coefficient after training, under a prior "
        "of 3 % of the largest curvature there, (c) the TwoNN dimension of the trained features. Every point is one cell (a "
        "task, a delta and a seed). {n}.",
        "Three scatter plots on logarithmic axes of the threshold dimension against other notions of dimension.",
    ),
)
SHARED = {"published-bound": "restricted-optimum"}  # claims that are shown by another claim's figure
