"""The words, letters and settings of the report: what each means, in which unit, and which letters an equation uses."""

import re
from collections.abc import Mapping

# word, meaning, unit
WORDS = (
    ("assumption", "what a prediction takes for granted; each is checked in every cell, and too many failures make a claim not applicable", ""),
    ("backbone", "the pretrained language model, which stays frozen unless a delta says otherwise", ""),
    ("bar", "a threshold of a criterion, fixed in code before the first measurement", "of the criterion"),
    ("cell", "one task, delta and seed: its predictions, its training and its measurement", ""),
    ("control, signal", "what a delta adds to the state at a port", "of the state"),
    ("costate", "the slope of the loss in a hidden state or an output, carried backwards through the layers", "nats per unit of state"),
    ("delta", "the few numbers that are trained beside the frozen ones: a prefix, an adapter, LoRA, biases", ""),
    ("dose", "sum of the learning rates of a run so far", "learning rate"),
    ("effective dimension", "how many directions the curvature holds against a penalty", "directions"),
    ("feedback, open loop", "a control that depends on the state is feedback, as an adapter's; one that does not is open loop, as a bias", ""),
    ("frozen head, readout", "the classifier on the frozen backbone, fitted to texts of its own before any delta is trained", ""),
    ("Gauss-Newton matrix", "the part of the loss's curvature that a model linear in its numbers has", "nats"),
    ("Gramian", "how far controls of energy one move the outputs, over all directions", "logits², over energy"),
    ("held-out text", "text that neither training nor any choice of rate, step or penalty has seen", ""),
    ("kernel", "how far a step on one example moves the logits of another: response times response transposed", "logits²"),
    ("linear regime", "where the network answers the predicted control as its linearisation at the start does, within η", ""),
    ("linearised optimum", "the best numbers for the network linearised at its start, computed without training", ""),
    ("logit", "a class's score before the softmax", "nats"),
    ("LQ", "linear dynamics with a quadratic cost, for which optimal control is known in closed form", ""),
    ("null", "a forecast from which the content was taken, as by permuted labels: what chance reaches", ""),
    ("octave", "a factor of two", "log2"),
    ("plant", "a small system on which the answer is known, to see whether a claim's rule finds it", ""),
    ("point", "a hundredth of accuracy", "percentage points"),
    ("port", "a block and a sublayer, attention or feed-forward, whose output a delta may change", ""),
    ("response", "the derivative of all logits in a delta's numbers or in a port's signal, at the start", "logits per number"),
    ("rival", "a cheaper forecast of the same number, which a prediction has to beat", ""),
    ("seed", "what draws a split, a start and an order of texts anew", ""),
    ("tangent model", "the network linearised at the start of training", ""),
    ("threshold dimension, d90", "the least dimension of a random subspace in which training makes 90 % of the full gain", "directions"),
    ("η", "departure from linearity: distance of the real network's answer from the linear one's, over the latter's size", "ratio"),
)  # fmt: skip

# letter in typst, meaning, unit; a claim's own meanings come first
LETTERS = (
    ("z", "the numbers that are tuned, counted from their start", "of the parameters"),
    ("hat(z)", "their linearised optimum", "of the parameters"),
    ("theta", "the tuned numbers, or their coordinates in a subspace", "of the parameters"),
    ("y", "the logits", "nats"),
    ("y_0", "the frozen network's logits", "nats"),
    ("G", "the response: derivative of the logits in the tuned numbers or signals", "nats per number"),
    ("ell", "the loss of one example", "nats"),
    ("L", "the mean loss", "nats"),
    ("J", "the training objective: mean loss plus penalty", "nats"),
    ("F", "the penalised training loss", "nats"),
    ("r", "the weight of the penalty", "nats per squared number"),
    ("R", "the metric in which the penalty measures", "ratio"),
    ("N", "the number of examples", "examples"),
    ("i", "an example", ""),
    ("j", "another example", ""),
    ("t", "a layer, or a step of training", ""),
    ("s", "a layer, beside t", ""),
    ("k", "a count", ""),
    ("c", "a class", ""),
    ("n", "a number of terms", ""),
    ("S", "the statistic of the claim", "of the claim"),
    ("T", "the last layer", ""),
    ("u", "a control: the signal that is added at a port", "of the state"),
    ("h", "a hidden state", "of the state"),
    ("K", "a feedback gain: the control's derivative in the state", "ratio"),
    ("pi", "the delta as a law: the control as a function of the state", "of the state"),
    ("B", "where a control enters the state", "ratio"),
    ("C", "the logits' derivative in the last state", "nats per unit of state"),
    ("Phi", "the transition of the linearised network from one layer to another", "ratio"),
    ("W", "the output Gramian of the layers from t on", "logits², over energy"),
    ("M", "the curvature of the loss in the logits", "per nat"),
    ("H", "the Hessian of the loss", "nats"),
    ("hat(nu)", "the slopes of the loss at the predicted logits", "ratio"),
    ("lambda", "an eigenvalue of the curvature", "nats"),
    ("mu", "an eigenvalue of the curvature, penalty included", "nats"),
    ("eta", "a learning rate", "learning rate"),
    ("d", "a dimension", "directions"),
    ("D", "the number of all tuned numbers", "numbers"),
    ("p", "the softmax's probabilities", "ratio"),
    ("phi", "whitened coordinates of the state", "ratio"),
    ("rho", "a ratio or a rank correlation, as the words say", "ratio"),
    ("I", "the identity", ""),
    ("U", "left singular vectors, or leading directions", ""),
    ("V", "right singular vectors, or leading directions", ""),
    ("Sigma", "singular values, or a second moment", ""),
    ("epsilon", "a small size, as the words say", ""),
    ("P", "a random subspace's directions", ""),
    ("delta", "a delta's numbers, or one where two indices agree", ""),
    ("psi", "the map from a delta's numbers to those of full tuning", ""),
    ("Delta", "a difference", ""),
    ("w", "a disturbance of the states, or a weight", ""),
    ("gamma", "the largest gain from disturbances to logits", "nats per unit of state"),
    ("e", "the true class as a vector of one and zeros", "ratio"),
    ("v", "a vector", ""),
    ("g", "a gradient", "nats per number"),
    ("x", "a text", ""),
    ("m", "a count, or a mean gradient", ""),
)  # fmt: skip

OWN: Mapping[str, tuple[tuple[str, str], ...]] = {
    "intrinsic-dimension": (
        ("d", "the dimension, starred where predicted"), ("R", "the length of the optimum"), ("epsilon", "the tenth of the gain that is given up"),
    ),
    "dimension-curve": (("s", "the share of the gain"), ("P", "a random subspace of dimension d")),
    "restricted-optimum": (
        ("theta", "the numbers of full tuning, with a plus at their optimum"),
        ("delta", "the delta's numbers, with a plus at their optimum, with a prime those nearest to full tuning's optimum"),
        ("epsilon", "what of full tuning's optimum the delta cannot represent"), ("H", "the Hessian of F at full tuning's optimum"),
    ),
    "published-bound": (
        ("theta", "the numbers of full tuning, with a plus at their optimum"),
        ("delta", "the delta's numbers, with a plus at their optimum, with a prime those nearest to full tuning's optimum"),
        ("epsilon", "what of full tuning's optimum the delta cannot represent"),
        ("L", "Lipschitz constants: the largest gradient norms on the two segments between these points"),
    ),
    "control-direction": (("S", "the cosine of trained and predicted control"),),
    "control-amplitude": (("R", "R², the share of the trained control that is explained"), ("ell", "the logarithm of the ratio of norms")),
    "energy-profile": (("e", "the share of the control's energy at a layer"), ("hat(u)", "the predicted control")),
    "linearised-optimum": (("hat(y)", "the predicted logits"),),
    "practice-direction": (("S", "the cosine of the predicted and the tuned shift"),),
    "practice-gain": (("L", "the loss on held-out text"), ("rho", "the share of the measured fall that was forecast")),
    "practice-path": (("R", "R², the share of the shift that is explained"), ("t", "a step of training"), ("B", "the texts of a minibatch")),
    "practice-horizon": (
        ("R", "R², the share of the shift that is explained"), ("d", "the dose, starred at the measured horizon"), ("hat(d)", "the predicted horizon"),
        ("s", "the sign of the gradient, against which numbers move that have no response at the start"), ("t", "a step of training"),
    ),
    "practice-rate": (("c", "one constant for all deltas and tasks"), ("hat(eta)", "the predicted rate"), ("D", "the roots of Adam's second moments v"),
                      ("v", "Adam's second moments"), ("H", "the curvature of the loss in the logits")),
    "practice-steps": (("t", "a step of training, 90 where nine tenths of the fall are made"), ("hat(t)", "the predicted step")),
    "practice-refined": (("rho", "the share of the measured fall that is reached"), ("k", "which linearisation")),
    "practice-features": (("S", "Spearman's correlation over tasks"),),
    "practice-size": (("Delta", "how much more is explained on the larger backbone"), ("R", "R², the share of the shift that is explained")),
    "regret-rate": (("lambda", "the largest eigenvalue in Adam's metric"),),
    "regret-layers": (("A", "the lead of MLP over attention, as a share of the full fall"),),
    "regret-capacity": (("tau", "Kendall's correlation over pairs of ranks"), ("r", "a rank"), ("q", "a larger rank"),
                        ("Delta", "the fall of the held-out loss"), ("t", "the step at which a rank leaves full tuning's curve"),
                        ("u", "a step of training"), ("T", "the last step")),
    "regret-batch": (("E", "what a larger batch costs LoRA more than full tuning"),),
    "regret-early": (("D", "the distance of a rank's early run from that of rank 16"), ("r", "a rank"),
                     ("Delta", "the fall of the held-out loss, or the size of the logits' shift"), ("t", "a step of training"), ("T", "the last step")),
    "open-loop-price": (("Delta", "the price of open loop"), ("k", "the constant part of a control"), ("phi", "coordinates of the state")),
    "lq-feedback": (("R", "the running cost of a control"),),
    "shared-gain": (("tau", "a token"), ("lambda", "the slope of an example's loss at its outputs"), ("Sigma", "the states' second moment")),
    "synthesised-adapter": (("k", "the constant part of the law"),),
    "healing-robust": (("lambda", "the value of the schedule, from the last layer back"), ("c", "the price of a control"),
                       ("V", "the directions of the training states"), ("y", "the state that is healed"), ("macron(y)", "its mean")),
    "noise-response": (("S", "the output Gramian in the loss's curvature"), ("s", "the noise's standard deviation, below a sum a layer"),
                       ("A", "a layer's Jacobian")),
    "worst-case-gain": (("sigma", "a singular value"), ("epsilon", "the size of the disturbance"), ("O", "what is of second order")),
    "robust-gain": (("gamma", "the gain from disturbances to outputs and controls, starred for the game's"),),
    "tunable-ports": (("E", "the energy that a shift needs, starred for the least"), ("p", "a port"), ("d", "the shift of the logits that is asked for")),
    "ablation-frozen": (("S", "the ports that are switched off"), ("M", "the curvature of the objective"), ("H", "the curvature of the loss in the logits")),
    "ablation-retrained": (("S", "the ports that are switched off"), ("M", "the curvature of the objective"), ("H", "the curvature of the loss in the logits")),
    "placement": (("hat(S)", "the best set of ports"), ("S", "a set of ports")),
    "budget-law": (("rho", "the budget: the largest norm of the control"),),
    "minimum-energy": (("d", "the displacement of the outputs"), ("epsilon", "a small ridge")),
    "subspace-transfer": (("V", "the leading directions of the other tasks' responses"),),
    "advice": (("hat(J)", "the forecast of an option's loss"), ("o", "an option"), ("f", "the half in which an example stands")),
    "prefix-limits": (("A", "an attention weight on the text, primed under the prefix"), ("W", "the values' weights"), ("v", "values, as an index"),
                      ("p", "the prefix's input"), ("t", "an output of the head, primed under the prefix")),
    "outlier-count": (("hat(k)", "the count of outliers"), ("C", "the number of classes")),
    "outlier-directions": (("C", "the number of classes"), ("U", "the leading eigenvectors of that sum"),
                           ("V", "the leading eigenvectors of the Hessian"), ("w", "the weight of a class and a logit"), ("k", "the true class"),
                           ("m", "the mean gradient of logit c over class k")),
    "gauss-newton-hessian": (("G", "the Gauss-Newton matrix"), ("v", "a leading eigenvector"), ("P", "the projection off the leading ones")),
    "residual-fades": (("R", "the part of the Hessian that the Gauss-Newton matrix lacks"), ("hat(R)", "its prediction"),
                       ("delta", "one where class and label agree, else zero")),
    "lora-multiplets": (("H", "the Hessian in the two factors A and B of the LoRA"), ("s", "LoRA's scale"), ("hat(G)", "the gradient, cut at the penalty"),
                        ("W", "the frozen weight"), ("B", "the factor that writes")),
    "convergence-order": (("k", "the number of steps"), ("g", "the first gradient along an eigenvector")),
    "sharpness-gap": (("rho", "a rank correlation, given what stands after the bar"),),
    "sweep-curve": (("s", "the share of the gain"), ("B", "a random subspace of dimension d"), ("E", "the mean over such subspaces")),
    "low-dimension": (("a", "held-out accuracy, 0 by chance"),),
    "planted-dimension": (("B", "the k directions"), ("S", "what the network sees of x"), ("x", "the coordinates of the subspace"),
                          ("c", "the size of every direction's effect")),
    "found-subspaces": (("s", "the share of the gain"), ("V", "the leading directions of the Gauss-Newton matrix"), ("H", "the curvature of the loss in the logits")),
    "layer-scales": (("s", "a layer's scale"), ("l", "a layer"), ("m", "the number of scales"), ("P", "a random subspace's directions")),
}  # fmt: skip

# what is set by each name in a study file
SETTINGS = {
    "train": "texts that a delta is trained on and its forecast is made from",
    "dev": "texts on which rate, step and penalty are chosen",
    "test": "held-out texts on which every statistic is computed",
    "readout": "texts on which the frozen head is fitted",
    "length": "tokens that are kept of a text",
    "regime": "largest departure from linearity η for which a penalty is chosen",
    "penalty": "penalty of full tuning, over its largest curvature",
    "tolerance": "training stops when the gradient has fallen to this share of its first norm",
    "evaluations": "gradients that one training by full batches may take",
    "batch_size": "texts of a minibatch",
    "decay": "weight decay of AdamW",
    "head": "whether the head is trained with the delta (joint) or stays frozen",
    "looks": "how often a run is looked at on dev text",
    "steps": "steps of every run",
    "rates": "learning rates that are tried",
    "relinearisations": "how often the network is linearised anew",
}
FOR_ONE = "options of this delta's runs alone, or how its task is asked"

_NAMES = re.compile(r'"[^"]*"|op\("[^"]*"\)|hat\([A-Za-z]+\)|macron\([a-z]+\)|[A-Za-z]+(?:\.[a-z]+)*')
_FUNCTIONS = set(
    """abs approx arg bb chevron chevron.l chevron.r dim dots dots.h eig EE Frac frac ker limits log mat max min nabla
 norm op partial Pr prop quad sqrt sum svd thin tilde times.o top tr upright in in.not sign for all""".split()
)


def names(equation: str) -> list[str]:
    """Return the letters of an equation in typst, in order and once each, without functions, words and indices in words."""
    found = [name for name in _NAMES.findall(equation) if not name.startswith(('"', "op("))]
    return [name for name in dict.fromkeys(found) if name not in _FUNCTIONS]


def symbols(claim: Mapping) -> list[dict]:
    """Return what the letters of a claim's equation stand for, in their order; indices and what the lab has no words for left out."""
    known = {letter: meaning for letter, meaning, _ in LETTERS} | dict(OWN.get(claim["id"], ()))
    equation = claim["equation"]
    found = names(equation)
    if "y_0" in equation or "y_(0" in equation:
        found = [part for name in found for part in ((name, "y_0") if name == "y" else (name,))]
    return [{"symbol": name, "meaning": known[name]} for name in found if name in known]


def settings(rows: Mapping[str, str]) -> list[list[str]]:
    """Return the settings with their values and what each sets."""
    return [[name, value, SETTINGS.get(name.split(": ")[-1].lower().replace(" ", "_"), FOR_ONE)] for name, value in rows.items()]
