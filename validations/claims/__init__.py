"""The claims, in the order in which the report tells them, and the experiments that they rest on."""

from .ablation.claim import FROZEN, PLACEMENT, RETRAINED
from .advice.claim import ADVICE
from .bounds.claim import HESSIAN, PUBLISHED
from .budget.claim import BUDGET_LAW
from .choice.claim import CHOICE_FORECAST, CHOICE_GAIN, CHOICE_RACE
from .combination.claim import FACTS_COMBINATION, FACTS_SEQUENCE
from .convergence.claim import CONVERGENCE_ORDER
from .curvature.claim import COUNT, DIRECTIONS, GAUSS_NEWTON, RESIDUAL
from .dimension.claim import CURVE, SPECTRUM
from .disturbance.claim import NOISE_RESPONSE, ROBUST_GAIN, WORST_CASE_GAIN
from .efficiency.claim import MINIMUM_ENERGY
from .explained.claim import EXPLAINED_CONVERGENCE, EXPLAINED_FEEDBACK, EXPLAINED_GAP, EXPLAINED_ORDER
from .facts.claim import FACTS_CONVERGENCE, FACTS_GAP, FACTS_ORDER
from .families.claim import FOUND, SCALES
from .feedback.claim import SHARED_GAIN
from .full_code.claim import CODE_ALIGNMENT, FULL_CONNECTED, FULL_IN_SUBSPACE
from .gates.claim import PREFIX_GATE
from .healing.claim import HEALING_DISPLACEMENT, HEALING_STATE
from .information.claim import INFORMATION_VALUE
from .initialisation.claim import LAW_INSTALLED, LORA_START
from .intervention.claim import AMPLIFICATION, NOISE_INTERVENTION, NOISY_SENSITIVITY
from .loop.claim import LQ_FEEDBACK, OPEN_LOOP_PRICE
from .multiplets.claim import LORA_MULTIPLETS
from .onelaw.claim import ONE_LAW
from .options.claim import OPTIONS_FORECAST, OPTIONS_GAIN, OPTIONS_RACE, OPTIONS_RATE
from .origins.claim import LABELS, PRETRAINING
from .path.claim import PRACTICE_HORIZON, PRACTICE_PATH, PRACTICE_RATE, PRACTICE_STEPS
from .perturbation.claim import HEALING_ROBUST
from .planted.claim import PLANTED_DIMENSION
from .practice.claim import PRACTICE_DIRECTION, PRACTICE_GAIN
from .receding.claim import RECEDING_GAIN, RECEDING_SOLVER
from .refinement.claim import PRACTICE_FEATURES, PRACTICE_REFINED
from .regret.claim import REGRET_BATCH, REGRET_CAPACITY, REGRET_EARLY, REGRET_LAYERS, REGRET_RATE
from .resources.claim import FACTS_MEMORY, FACTS_TIME
from .robust.claim import ROBUST_SHARED_GAIN
from .robust_prefix.claim import ROBUST_PREFIX
from .scale.claim import SCALE_CONVERGENCE, SCALE_D90, SCALE_GAP, SCALE_LINEARITY
from .shared.claim import Assumption, Cell, Claim
from .shared.setting import Experiment
from .sharpness.claim import SHARPNESS_GAP
from .shots.claim import FACTS_FEW_SHOT
from .signals.claim import PREDICTED_SUBSPACE
from .sites.claim import TUNABLE_PORTS
from .size.claim import PRACTICE_SIZE
from .solvers.claim import CONTROL_SOLVER, PMP_RESIDUAL, SOLVER_COST
from .subspace.claim import CODE_LANDSCAPE, CODE_TRANSFER, ONE_SUBSPACE
from .sweep.claim import ALIKE, LOW, SWEEP_CURVE
from .symbolic.claim import PREFIX_LIMITS
from .synthesis.claim import SYNTHESISED_ADAPTER
from .transfer.claim import SUBSPACE_TRANSFER
from .transferability.claim import FACTS_TRANSFER
from .tuned.claim import CONTROL_AMPLITUDE, CONTROL_DIRECTION, ENERGY_PROFILE, LINEARISED_OPTIMUM

CLAIMS: tuple[Claim, ...] = (
    SPECTRUM,
    CURVE,
    HESSIAN,
    PUBLISHED,
    LINEARISED_OPTIMUM,
    CONTROL_DIRECTION,
    CONTROL_AMPLITUDE,
    ENERGY_PROFILE,
    PRACTICE_DIRECTION,
    PRACTICE_GAIN,
    PRACTICE_PATH,
    PRACTICE_HORIZON,
    PRACTICE_RATE,
    PRACTICE_STEPS,
    PRACTICE_REFINED,
    PRACTICE_FEATURES,
    PRACTICE_SIZE,
    CHOICE_FORECAST,
    CHOICE_GAIN,
    CHOICE_RACE,
    OPTIONS_FORECAST,
    OPTIONS_GAIN,
    OPTIONS_RACE,
    OPTIONS_RATE,
    FACTS_ORDER,
    FACTS_GAP,
    FACTS_CONVERGENCE,
    FACTS_FEW_SHOT,
    FACTS_COMBINATION,
    FACTS_SEQUENCE,
    FACTS_TRANSFER,
    FACTS_MEMORY,
    FACTS_TIME,
    EXPLAINED_CONVERGENCE,
    EXPLAINED_ORDER,
    EXPLAINED_GAP,
    EXPLAINED_FEEDBACK,
    SCALE_GAP,
    SCALE_CONVERGENCE,
    SCALE_D90,
    SCALE_LINEARITY,
    REGRET_RATE,
    REGRET_LAYERS,
    REGRET_CAPACITY,
    REGRET_BATCH,
    REGRET_EARLY,
    OPEN_LOOP_PRICE,
    LQ_FEEDBACK,
    SHARED_GAIN,
    ONE_LAW,
    RECEDING_GAIN,
    NOISE_INTERVENTION,
    NOISY_SENSITIVITY,
    AMPLIFICATION,
    INFORMATION_VALUE,
    PREFIX_GATE,
    LORA_START,
    LAW_INSTALLED,
    SYNTHESISED_ADAPTER,
    ROBUST_SHARED_GAIN,
    ROBUST_PREFIX,
    HEALING_ROBUST,
    HEALING_DISPLACEMENT,
    HEALING_STATE,
    NOISE_RESPONSE,
    WORST_CASE_GAIN,
    ROBUST_GAIN,
    TUNABLE_PORTS,
    FROZEN,
    RETRAINED,
    PLACEMENT,
    BUDGET_LAW,
    PMP_RESIDUAL,
    CONTROL_SOLVER,
    SOLVER_COST,
    RECEDING_SOLVER,
    MINIMUM_ENERGY,
    SUBSPACE_TRANSFER,
    ONE_SUBSPACE,
    CODE_TRANSFER,
    CODE_LANDSCAPE,
    FULL_IN_SUBSPACE,
    FULL_CONNECTED,
    CODE_ALIGNMENT,
    PREDICTED_SUBSPACE,
    ADVICE,
    PREFIX_LIMITS,
    COUNT,
    DIRECTIONS,
    GAUSS_NEWTON,
    RESIDUAL,
    LORA_MULTIPLETS,
    CONVERGENCE_ORDER,
    SHARPNESS_GAP,
    SWEEP_CURVE,
    LOW,
    ALIKE,
    PLANTED_DIMENSION,
    LABELS,
    PRETRAINING,
    FOUND,
    SCALES,
)

# by name, which is the folder of their story
EXPERIMENTS: dict[str, Experiment] = {claim.experiment.name: claim.experiment for claim in CLAIMS}


def named(claim: str) -> Claim:
    """Return the claim of that id; raises ValueError listing the known ones."""
    for candidate in CLAIMS:
        if candidate.id == claim:
            return candidate
    raise ValueError(f"expected a claim among {', '.join(c.id for c in CLAIMS)}, got {claim!r}")


__all__ = ["CLAIMS", "EXPERIMENTS", "Assumption", "Cell", "Claim", "named"]
