"""The claims, in the order in which the report tells them."""

from .ablation import FROZEN, RETRAINED
from .advice import CLAIM as ADVICE
from .budget_law import CLAIM as BUDGET_LAW
from .claim import Assumption, Cell, Claim
from .control_amplitude import CLAIM as CONTROL_AMPLITUDE
from .control_direction import CLAIM as CONTROL_DIRECTION
from .convergence_order import CLAIM as CONVERGENCE_ORDER
from .curvature import COUNT, DIRECTIONS, GAUSS_NEWTON, RESIDUAL
from .energy_profile import CLAIM as ENERGY_PROFILE
from .healing_robust import CLAIM as HEALING_ROBUST
from .intrinsic_dimension import CURVE, SPECTRUM
from .linearised_optimum import CLAIM as LINEARISED_OPTIMUM
from .lora_multiplets import CLAIM as LORA_MULTIPLETS
from .low_dimension import ALIKE, LOW
from .lq_feedback import CLAIM as LQ_FEEDBACK
from .minimum_energy import CLAIM as MINIMUM_ENERGY
from .noise_response import CLAIM as NOISE_RESPONSE
from .open_loop_price import CLAIM as OPEN_LOOP_PRICE
from .origins import LABELS, PRETRAINING
from .placement import CLAIM as PLACEMENT
from .planted_dimension import CLAIM as PLANTED_DIMENSION
from .prefix_limits import CLAIM as PREFIX_LIMITS
from .restricted_optimum import HESSIAN, PUBLISHED
from .robust_gain import CLAIM as ROBUST_GAIN
from .sharpness_gap import CLAIM as SHARPNESS_GAP
from .subspace_families import FOUND, SCALES
from .subspace_transfer import CLAIM as SUBSPACE_TRANSFER
from .sweep_curve import CLAIM as SWEEP_CURVE
from .synthesised_adapter import CLAIM as SYNTHESISED_ADAPTER
from .tunable_ports import CLAIM as TUNABLE_PORTS
from .worst_case_gain import CLAIM as WORST_CASE_GAIN

CLAIMS: tuple[Claim, ...] = (
    SPECTRUM,
    CURVE,
    HESSIAN,
    PUBLISHED,
    LINEARISED_OPTIMUM,
    CONTROL_DIRECTION,
    CONTROL_AMPLITUDE,
    ENERGY_PROFILE,
    OPEN_LOOP_PRICE,
    LQ_FEEDBACK,
    SYNTHESISED_ADAPTER,
    HEALING_ROBUST,
    NOISE_RESPONSE,
    WORST_CASE_GAIN,
    ROBUST_GAIN,
    TUNABLE_PORTS,
    FROZEN,
    RETRAINED,
    PLACEMENT,
    BUDGET_LAW,
    MINIMUM_ENERGY,
    SUBSPACE_TRANSFER,
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


def named(claim: str) -> Claim:
    """Return the claim of that id; raises ValueError listing the known ones."""
    for candidate in CLAIMS:
        if candidate.id == claim:
            return candidate
    raise ValueError(f"expected a claim among {', '.join(c.id for c in CLAIMS)}, got {claim!r}")


__all__ = ["CLAIMS", "Assumption", "Cell", "Claim", "named"]
