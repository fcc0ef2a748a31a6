"""Instruments: callables and tensors in, frozen records of measurements out; no theory, no model."""

from probes.cone import PrefixCone, prefix_cone
from probes.controllability import (
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
from probes.curvature import Operator, empirical_fisher, fisher, gauss_newton, hessian
from probes.dimension import Curve, DimensionEstimate, Projection, random_subspace, threshold_dimension
from probes.energy import (
    LeastEnergy,
    Reachability,
    departure,
    least_energy,
    margin_shift,
    reach_table,
    reachability,
)
from probes.found import FoundSubspace, gauss_newton_directions, principal_directions, reachable_directions
from probes.layers import LayerRepresentation, layer_representations
from probes.learning import LearningCoefficient, local_learning_coefficient
from probes.projection import LayerScaled, said
from probes.prompts import KEpsilon, PromptReach, k_epsilon, prompt_reachability
from probes.records import Estimate
from probes.representation import ScaleCurve, gride, local_pca, mle, participation_ratio, two_nn
from probes.response import Response, response
from probes.spectrum import (
    Density,
    DensityCurve,
    Eigenpairs,
    Spectrum,
    density,
    end_eigenpairs,
    gauss_newton_spectrum,
    top_eigenpairs,
)
from probes.summary import BlockSummary, Extreme, by_layer, summaries
from probes.trace import frobenius, trace
from probes.views import LinearMap, LinearRegime, SingularTriples, block_svd, jacobian_map, linear_regime, output_map

__all__ = [
    "BlockSummary",
    "Curve",
    "Density",
    "DensityCurve",
    "DimensionEstimate",
    "Eigenpairs",
    "Estimate",
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
    "axis_places",
    "block_svd",
    "by_layer",
    "density",
    "departure",
    "empirical_fisher",
    "end_eigenpairs",
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
    "said",
    "summaries",
    "threshold_dimension",
    "token_slots",
    "top_eigenpairs",
    "trace",
    "two_nn",
]
