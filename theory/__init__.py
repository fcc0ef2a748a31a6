"""What should happen: control, curvature and attention, as numbers and checked derivations. No models, no torch.

The numerical room is listed here. Two modules load heavier libraries and are imported by name when needed:
`theory.convex` (cvxpy: bounds, budgets, placement, oracles) and `theory.derivations` (sympy, with `theory.derive` and
`theory.typst`).
"""

from theory.attention import (
    PerpendicularBound,
    PrefixedAttention,
    cone_residual,
    perpendicular,
    perpendicular_bound,
    prefixed_attention,
    ratio_deviation,
)
from theory.control import (
    OutputRegulator,
    Regulator,
    Trajectory,
    expected_cost,
    output_lq,
    riccati,
)
from theory.ensemble import Control, ensemble_lq, per_example_lq
from theory.game import Game, game, induced_gain
from theory.hamiltonian import Adjoint, Extremal, Process, adjoint, hamiltonian, shoot
from theory.kernel import (
    constant_rival,
    curvature_eigenvalues,
    degrees_of_freedom,
    gradient_rival,
    participation_ratio,
    predict,
    tangent_kernel,
)
from theory.linear import gramian, minimum_energy, reach, transition
from theory.loss import CrossEntropy, Quadratic
from theory.manifold import Healing, half_space_control, healing
from theory.prediction import Prediction
from theory.subspace import (
    Bound,
    descent_share,
    effective_dimension,
    restricted_optimum_bounds,
    steps_to_share,
    tail_exponent,
    tail_share,
    threshold_dimension,
)

__all__ = [
    "Adjoint", "Bound", "Control", "CrossEntropy", "Extremal", "Game", "Healing", "OutputRegulator",
    "PerpendicularBound", "Prediction", "PrefixedAttention", "Process", "Quadratic", "Regulator", "Trajectory",
    "adjoint", "cone_residual", "constant_rival", "curvature_eigenvalues", "degrees_of_freedom", "descent_share",
    "effective_dimension", "ensemble_lq", "expected_cost", "game", "gradient_rival", "gramian", "half_space_control",
    "hamiltonian", "healing", "induced_gain", "minimum_energy", "output_lq", "participation_ratio", "per_example_lq",
    "perpendicular", "perpendicular_bound", "predict", "prefixed_attention", "ratio_deviation", "reach",
    "restricted_optimum_bounds", "riccati", "shoot", "steps_to_share", "tail_exponent", "tail_share",
    "tangent_kernel", "threshold_dimension", "transition",
]
