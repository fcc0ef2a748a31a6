"""The lab behind one door: what an analyst uses, imported when it is first asked for, and the command `costate`.

>>> import costate
>>> backbone = costate.load("nano")
>>> costate.theory.riccati, costate.hessian, costate.tasks.names()
"""

import importlib
import sys
from collections.abc import Sequence
from typing import Any

from tuning.catalogue import kinds

__version__ = "0.2.0"

_MODULES = {
    "theory": "theory",  # what should happen, as numbers: riccati, ensemble_lq, prefixed_attention, ...
    "tasks": "tuning.tasks",  # load, names, disjoint: embedded tasks, files, folders and hub data
    "deltas": "tuning.deltas",  # the kinds of delta, and parse("lora:rank=4")
    "checkpoints": "tuning.checkpoints",  # save and load trained deltas
}

_NAMES = (
    # tuning: frozen backbones, and texts as batches
    ("tuning", "load wrap encode features Backbone Batch Port"),
    # tuning: what is added to a backbone; parse("lora:rank=4") or LoRA(rank=4)
    ("tuning", " ".join(("parse build", *sorted(kinds().values())))),
    # tuning: texts in parts that share none, a head fitted on its own part, and the subject as pure functions
    ("tuning", "prepare subject fit_readout Prepared Subject Readout Rollout Feedback"),
    # tuning: training by L-BFGS, gradient descent and AdamW, and the Jacobians of every block
    ("tuning", "fit gradient_descent minibatch penalized layer_jacobians Fit LayerJacobians"),
    # tuning: PEFT adapter folders
    ("tuning.peft_format", "import_peft import_peft_classifier export_peft"),
    # probes: a live model or PeftModel with its batches as what every probe takes
    ("probes", "attach Attached shard"),
    # probes: curvature as operators, op @ v
    ("probes", "hessian gauss_newton fisher empirical_fisher Operator"),
    # probes: eigenvalues, densities and traces of an operator, whole and by layer
    ("probes", "top_eigenpairs end_eigenpairs gauss_newton_spectrum density trace frobenius summaries by_layer"),
    ("probes", "Eigenpairs Spectrum Density DensityCurve Estimate BlockSummary Extreme"),
    # probes: dimension by random subspaces, by subspaces found elsewhere, and by the learning coefficient
    ("probes", "random_subspace layer_scaled_subspace threshold_dimension Projection LayerScaled DimensionEstimate Curve"),
    ("probes", "gauss_newton_directions principal_directions reachable_directions FoundSubspace"),
    ("probes", "local_learning_coefficient LearningCoefficient"),
    # probes: dimensions of representations
    ("probes", "two_nn mle gride local_pca participation_ratio layer_representations LayerRepresentation ScaleCurve"),
    # probes: the response G = dy/dz, maps between states, and where they stay linear
    ("probes", "response output_map jacobian_map block_svd linear_regime Response LinearMap SingularTriples LinearRegime"),
    # probes: what can be reached, and at what energy
    ("probes", "linearize gramian reachable output_gramian axis_places token_slots LinearSystem OutputGramian Reach"),
    ("probes", "least_energy reachability reach_table margin_shift departure LeastEnergy Reachability"),
    # probes: how far controls at layers are from the maximum principle
    ("probes", "extremality Extremality"),
    # probes: what prompts and prefixes reach
    ("probes", "prefix_cone prompt_reachability k_epsilon PrefixCone PromptReach KEpsilon"),
    # validations: a finished study's verdicts, trainings and numbers as tidy frames, what they mean, and a frame as text
    ("validations", "read_verdicts rows measurements trainings verdicts dictionary written"),
)
_HOMES = {name: module for module, names in _NAMES for name in names.split()}

__all__ = [*_MODULES, *_HOMES]

COMMANDS = {  # name -> (module, what it does); a module is imported when its command is chosen
    "probe": ("validations.commands.probe", "measure one thing on one subject"),
    "train": ("validations.commands.train", "tune a delta on a task"),
    "evaluate": ("validations.commands.evaluate", "score a saved delta on a task"),
    "export": ("validations.commands.export", "write results as a table or a notebook, a saved delta as a PEFT folder"),
    "advise": ("validations.commands.advise", "which delta to tune for a data set, with the points that it gains"),
    "validate": ("validations.commands.validate", "run a study and decide on its claims"),
    "show": ("validations.commands.show", "print the results of a finished study"),
    "report": ("reports.command", "publish a study's results as a PDF, a page or figures"),
    "derive": ("validations.commands.derive", "print the derivations, each step checked"),
    "list": ("validations.commands.listing", "list claims, studies, tasks, deltas, backbones and instruments"),
    "calibrate": ("validations.commands.calibrate", "count how often verdicts are wrong on planted worlds"),
    "bench": ("bench.command", "measure the lab's solvers beside others"),
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(_MODULES[name])
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"costate has no {name!r}; dir(costate) lists what it has")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__", "main"])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code (`validations.commands.line.main`)."""
    from validations.commands import line

    about = "Test what optimization and optimal control predict about delta tuning, before and after training."
    return line.main(COMMANDS, arguments, about=about, version=__version__)


if __name__ == "__main__":
    sys.exit(main())
