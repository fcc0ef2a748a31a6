"""The lab behind one door: what an analyst uses, imported when it is first asked for, and the command `costate`.

>>> import costate
>>> backbone = costate.load("nano")
>>> costate.theory.riccati, costate.hessian, costate.tasks.names()
"""

import importlib
import sys
from collections.abc import Sequence
from typing import Any

__version__ = "0.2.0"

_MODULES = {
    "theory": "theory",  # what should happen, as numbers: riccati, ensemble_lq, prefixed_attention, ...
    "tasks": "tuning.tasks",  # load, names, disjoint: embedded tasks, files, folders and hub data
    "deltas": "tuning.deltas",  # the kinds of delta, and parse("lora:rank=4")
    "checkpoints": "tuning.checkpoints",  # save and load trained deltas
    "results": "validations.results",  # verdicts and tables of a finished study
}

_NAMES = (
    # tuning: frozen backbones, and texts as batches
    ("tuning", ("Backbone", "Batch", "Port", "encode", "features", "load", "wrap")),
    # tuning: what is added to a backbone
    ("tuning", ("Adapter", "BitFit", "Combined", "Full", "IA3", "LoRA", "PortBias", "Prefix", "Prompt", "parse")),
    # tuning: texts in parts that share none, a head fitted on its own part, and the subject as pure functions
    ("tuning", ("Feedback", "Prepared", "Readout", "Rollout", "Subject", "fit_readout", "prepare", "subject")),
    # tuning: training, and the Jacobians of every block
    ("tuning", ("Fit", "LayerJacobians", "descend", "fit", "layer_jacobians", "minibatch", "penalized")),
    # tuning: PEFT adapter folders
    ("tuning.peft_format", ("export_peft", "import_peft", "import_peft_classifier")),
    # probes: curvature operators, op @ v
    ("probes", ("Operator", "empirical_fisher", "fisher", "gauss_newton", "hessian")),
    # probes: spectra, densities and traces of an operator, whole and by layer
    ("probes", ("Density", "DensityCurve", "Eigenpairs", "Estimate", "Spectrum", "density", "end_eigenpairs", "frobenius")),
    ("probes", ("BlockSummary", "Extreme", "by_layer", "gauss_newton_spectrum", "summaries", "top_eigenpairs", "trace")),
    # probes: intrinsic dimension by random subspaces, subspaces found elsewhere, and the learning coefficient
    (
        "probes",
        (
            "Curve",
            "DimensionEstimate",
            "LayerScaled",
            "Projection",
            "random_subspace",
            "layer_scaled_subspace",
            "threshold_dimension",
        ),
    ),
    ("probes", ("FoundSubspace", "gauss_newton_directions", "principal_directions", "reachable_directions")),
    ("probes", ("LearningCoefficient", "local_learning_coefficient")),
    # probes: dimensions of representations
    ("probes", ("LayerRepresentation", "ScaleCurve", "gride", "layer_representations", "local_pca", "mle")),
    ("probes", ("participation_ratio", "two_nn")),
    # probes: the response G = dy/dz, linear maps of states, and where they hold
    ("probes", ("LinearMap", "LinearRegime", "Response", "SingularTriples", "block_svd", "jacobian_map", "linear_regime")),
    ("probes", ("output_map", "response")),
    # probes: what can be reached, and at what energy
    ("probes", ("LinearSystem", "OutputGramian", "Reach", "axis_places", "gramian", "linearize", "output_gramian")),
    ("probes", ("LeastEnergy", "Reachability", "departure", "least_energy", "margin_shift", "reach_table", "reachability")),
    ("probes", ("reachable", "token_slots")),
    # probes: what prompts and prefixes reach
    ("probes", ("KEpsilon", "PrefixCone", "PromptReach", "k_epsilon", "prefix_cone", "prompt_reachability")),
    # validations: a finished study as one frame, what its quantities mean, and its verdicts
    ("validations", ("dictionary", "read_verdicts", "rows")),
)
_HOMES = {name: module for module, names in _NAMES for name in names}

__all__ = [*_MODULES, *_HOMES]

COMMANDS = {  # name -> (module, what it does); a module is imported when its command is chosen
    "probe": ("validations.commands.probe", "measure one thing on one subject"),
    "train": ("validations.commands.train", "tune a delta on a task"),
    "evaluate": ("validations.commands.evaluate", "score a saved delta on a task"),
    "export": ("validations.commands.export", "write a saved delta as a PEFT adapter folder"),
    "advise": ("validations.commands.advise", "rank deltas, layers and ranks for a data set, without training any"),
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
