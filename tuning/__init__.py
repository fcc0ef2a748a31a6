"""The models under study: frozen backbones, deltas, tasks, training."""

from tuning.backbones import ARCHITECTURES, Backbone, Batch, Port, encode, features, load, wrap
from tuning.deltas import (
    IA3,
    Adapter,
    BitFit,
    Combined,
    Full,
    LoRA,
    PortBias,
    Prefix,
    Prompt,
    identity_edits,
    parse,
    place_of,
)
from tuning.edits import Edits
from tuning.jacobians import LayerJacobians, layer_jacobians
from tuning.subjects import Feedback, Readout, Rollout, Subject, fit_readout, subject
from tuning.training import Fit, fit, minibatch, penalized

__all__ = [
    "ARCHITECTURES",
    "IA3",
    "Adapter",
    "Backbone",
    "Batch",
    "BitFit",
    "Combined",
    "Edits",
    "Feedback",
    "Fit",
    "Full",
    "LayerJacobians",
    "LoRA",
    "Port",
    "PortBias",
    "Prefix",
    "Prompt",
    "Readout",
    "Rollout",
    "Subject",
    "encode",
    "features",
    "fit",
    "fit_readout",
    "identity_edits",
    "layer_jacobians",
    "load",
    "minibatch",
    "parse",
    "penalized",
    "place_of",
    "subject",
    "wrap",
]
