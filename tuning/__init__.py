"""The models under study: frozen backbones, deltas, tasks, training. Names are loaded when they are first asked for."""

from __future__ import annotations

import importlib

from tuning.catalogue import kinds

_NAMES = {
    "architectures": ("ARCHITECTURES",),
    "backbones": ("Backbone", "Batch", "Port", "encode", "features", "load", "wrap"),
    "deltas": ("build", "identity_edits", "parse", "place_of", *kinds().values()),
    "edits": ("Edits",),
    "jacobians": ("LayerJacobians", "layer_jacobians"),
    "practice": ("Practised", "Recipe", "practised"),
    "preparation": ("Prepared", "prepare"),
    "subjects": ("Feedback", "Readout", "Rollout", "Subject", "fit_readout", "subject"),
    "training": ("Fit", "gradient_descent", "fit", "minibatch", "penalized"),
}
_MODULE = {name: module for module, names in _NAMES.items() for name in names}

__all__ = sorted(_MODULE)


def __getattr__(name: str) -> object:
    if name not in _MODULE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_MODULE[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULE})
