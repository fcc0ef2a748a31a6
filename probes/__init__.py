"""Instruments: callables and tensors in (or a live model), frozen records of measurements out; no theory, no model of its own."""

from probes.curvature.density import Density, DensityCurve, density
from probes.curvature.hessian import empirical_fisher, fisher, gauss_newton, hessian
from probes.curvature.operators import Operator
from probes.curvature.spectrum import Eigenpairs, Spectrum, end_eigenpairs, gauss_newton_spectrum, top_eigenpairs
from probes.curvature.summary import BlockSummary, Extreme, summaries
from probes.curvature.trace import frobenius, trace
from probes.dimension.found_subspaces import FoundSubspace, gauss_newton_directions, principal_directions, reachable_directions
from probes.dimension.layers import LayerRepresentation, layer_representations
from probes.dimension.learning_coefficient import LearningCoefficient, local_learning_coefficient
from probes.dimension.projection import LayerScaled, Projection, layer_scaled_subspace, random_subspace
from probes.dimension.representation import ScaleCurve, gride, local_pca, mle, participation_ratio, two_nn
from probes.dimension.threshold import Curve, DimensionEstimate, threshold_dimension
from probes.layout import by_layer
from probes.live.attached import Attached, attach
from probes.live.sharded import shard
from probes.reach.cone import PrefixCone, prefix_cone
from probes.reach.controllability import (
    LinearSystem,
    OutputGramian,
    Reach,
    axis_places,
    gramian,
    linearize,
    output_gramian,
    reachable,
    token_slots,
)
from probes.reach.energy import LeastEnergy, Reachability, departure, least_energy, margin_shift, reach_table, reachability
from probes.reach.extremal import Extremality, extremality
from probes.reach.linear_maps import LinearMap, LinearRegime, SingularTriples, block_svd, jacobian_map, linear_regime, output_map
from probes.reach.prompts import KEpsilon, PromptReach, k_epsilon, prompt_reachability
from probes.reach.response import Response, response
from probes.records import Estimate

__all__ = [
    "Attached",
    "BlockSummary",
    "Curve",
    "Density",
    "DensityCurve",
    "DimensionEstimate",
    "Eigenpairs",
    "Estimate",
    "Extremality",
    "Extreme",
    "FoundSubspace",
    "KEpsilon",
    "LayerRepresentation",
    "LayerScaled",
    "LearningCoefficient",
    "LeastEnergy",
    "LinearMap",
    "LinearRegime",
    "LinearSystem",
    "Operator",
    "OutputGramian",
    "PrefixCone",
    "Projection",
    "PromptReach",
    "Reach",
    "Reachability",
    "Response",
    "ScaleCurve",
    "SingularTriples",
    "Spectrum",
    "attach",
    "axis_places",
    "block_svd",
    "by_layer",
    "density",
    "departure",
    "empirical_fisher",
    "end_eigenpairs",
    "extremality",
    "fisher",
    "frobenius",
    "gauss_newton",
    "gauss_newton_directions",
    "gauss_newton_spectrum",
    "gramian",
    "gride",
    "hessian",
    "jacobian_map",
    "k_epsilon",
    "layer_representations",
    "layer_scaled_subspace",
    "least_energy",
    "linear_regime",
    "linearize",
    "local_learning_coefficient",
    "local_pca",
    "margin_shift",
    "mle",
    "output_gramian",
    "output_map",
    "participation_ratio",
    "prefix_cone",
    "principal_directions",
    "prompt_reachability",
    "random_subspace",
    "reach_table",
    "reachability",
    "reachable",
    "reachable_directions",
    "response",
    "shard",
    "summaries",
    "threshold_dimension",
    "token_slots",
    "top_eigenpairs",
    "trace",
    "two_nn",
]
