"""The measured cells that claims share: each kind predicts from the frozen model, writes that down, then trains and measures."""

from . import (
    ablation,
    advice,
    bounds,
    budget,
    convergence,
    curvature,
    dimension,
    disturbance,
    efficiency,
    families,
    loop,
    multiplets,
    origins,
    perturbation,
    planted,
    sharpness,
    sites,
    sweep,
    symbolic,
    synthesis,
    transfer,
    tuned,
)
from .setting import Experiment, Setting

KINDS: dict[str, Experiment] = {
    "tuned": tuned.EXPERIMENT,
    "loop": loop.EXPERIMENT,
    "sites": sites.EXPERIMENT,
    "dimension": dimension.EXPERIMENT,
    "sweep": sweep.EXPERIMENT,
    "bounds": bounds.EXPERIMENT,
    "ablation": ablation.EXPERIMENT,
    "budget": budget.EXPERIMENT,
    "efficiency": efficiency.EXPERIMENT,
    "transfer": transfer.EXPERIMENT,
    "disturbance": disturbance.EXPERIMENT,
    "synthesis": synthesis.EXPERIMENT,
    "perturbation": perturbation.EXPERIMENT,
    "advice": advice.EXPERIMENT,
    "symbolic": symbolic.EXPERIMENT,
    "curvature": curvature.EXPERIMENT,
    "multiplets": multiplets.EXPERIMENT,
    "convergence": convergence.EXPERIMENT,
    "sharpness": sharpness.EXPERIMENT,
    "planted": planted.EXPERIMENT,
    "origins": origins.EXPERIMENT,
    "families": families.EXPERIMENT,
}

__all__ = ["KINDS", "Experiment", "Setting"]
