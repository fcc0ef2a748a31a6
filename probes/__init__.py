"""Instruments: callables and tensors in, frozen records of measurements out; no theory, no model."""

from probes.controllability import LinearSystem, Reach, gramian, linearize, reachable
from probes.curvature import Operator, fisher, gauss_newton, hessian
from probes.dimension import Curve, DimensionEstimate, Projection, random_subspace, threshold_dimension
from probes.records import Estimate
from probes.representation import ScaleCurve, gride, local_pca, mle, participation_ratio, two_nn
from probes.response import Response, response
from probes.spectrum import (
    Density,
    DensityCurve,
    Eigenpairs,
    Spectrum,
    density,
    gauss_newton_spectrum,
    top_eigenpairs,
    trace,
)

__all__ = [
    "Curve",
    "Density",
    "DensityCurve",
    "DimensionEstimate",
    "Eigenpairs",
    "Estimate",
    "LinearSystem",
    "Operator",
    "Projection",
    "Reach",
    "Response",
    "ScaleCurve",
    "Spectrum",
    "density",
    "fisher",
    "gauss_newton",
    "gauss_newton_spectrum",
    "gramian",
    "gride",
    "hessian",
    "linearize",
    "local_pca",
    "mle",
    "participation_ratio",
    "random_subspace",
    "reachable",
    "response",
    "threshold_dimension",
    "top_eigenpairs",
    "trace",
    "two_nn",
]
