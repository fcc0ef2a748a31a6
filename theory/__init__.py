"""What should happen: control, curvature and attention, as numbers and checked derivations. No models, no torch.

The numerical room is listed here. What loads a heavier library is imported by name: `theory.convex` (cvxpy: bounds,
placement, the worst case, oracles) and `theory.derivations` (sympy, with `theory.derive` and `theory.typst`).
"""

from theory.ablation import Ablation, ablation
from theory.attention import (
    PerpendicularBound,
    PrefixedAttention,
    cone_residual,
    perpendicular,
    perpendicular_bound,
    prefixed_attention,
    ratio_deviation,
)
from theory.box import BoxControl, condensed_box
from theory.budget import BudgetLaw, budget_law
from theory.control import OutputRegulator, Regulator, Trajectory, expected_cost, output_lq, riccati
from theory.ensemble import Control, ensemble_lq, per_example_lq
from theory.game import Game, game, induced_gain
from theory.hamiltonian import Adjoint, Extremal, Process, adjoint, hamiltonian, shoot
from theory.healing import PID, Healing, channels, half_space_control, healing, pid, subspaces
from theory.iterative_lq import Descent, Sweeps, error_constant, ilqr, msa, msa_radius
from theory.kernel import curvature_eigenvalues, degrees_of_freedom, gradient_rival, participation_ratio, predict, tangent_kernel
from theory.linear import EndpointRank, endpoint_rank, gramian, minimum_energy, reach, transition
from theory.loss import CrossEntropy, Quadratic
from theory.open_loop import Pass, Path, iterated_lq, successive, sweeps_left
from theory.placement import SparsePath, sparse_path
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
    "Ablation",
    "Adjoint",
    "Bound",
    "BoxControl",
    "BudgetLaw",
    "Control",
    "CrossEntropy",
    "Descent",
    "EndpointRank",
    "Extremal",
    "Game",
    "Healing",
    "OutputRegulator",
    "PID",
    "Pass",
    "Path",
    "PerpendicularBound",
    "PrefixedAttention",
    "Process",
    "Quadratic",
    "Regulator",
    "SparsePath",
    "Sweeps",
    "Trajectory",
    "ablation",
    "adjoint",
    "budget_law",
    "channels",
    "condensed_box",
    "cone_residual",
    "curvature_eigenvalues",
    "degrees_of_freedom",
    "descent_share",
    "effective_dimension",
    "endpoint_rank",
    "ensemble_lq",
    "error_constant",
    "expected_cost",
    "game",
    "gradient_rival",
    "gramian",
    "half_space_control",
    "hamiltonian",
    "healing",
    "ilqr",
    "induced_gain",
    "iterated_lq",
    "minimum_energy",
    "msa",
    "msa_radius",
    "output_lq",
    "participation_ratio",
    "per_example_lq",
    "perpendicular",
    "perpendicular_bound",
    "pid",
    "predict",
    "prefixed_attention",
    "ratio_deviation",
    "reach",
    "restricted_optimum_bounds",
    "riccati",
    "shoot",
    "sparse_path",
    "steps_to_share",
    "subspaces",
    "successive",
    "sweeps_left",
    "tail_exponent",
    "tail_share",
    "tangent_kernel",
    "threshold_dimension",
    "transition",
]
