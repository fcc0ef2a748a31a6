"""Scores of a delta before training, as others have them: gradient, Fisher trace, condition of the kernel, feature norms."""

from typing import Any

import numpy as np
import torch

from ..practice.tangent import Texts, products

FLOOR = 1e-9  # of an eigenvalue over the largest, below which float32 responses have no digits


def scores(subject: Any, texts: Texts, batch: Any) -> dict[str, float]:
    """Return what rivals say of a delta from some training texts, the larger the better by each of them.

    numbers: how many it tunes. gradient: the norm of the loss's gradient in them. fisher: the trace of the empirical Fisher
    matrix, the mean over texts of the squared gradient. condition: minus the decimal logarithm of the condition number of the
    tangent kernel (arXiv 2602.08239). features: minus the mean normalised feature norm of the maps beside which the delta
    stands (Hayou et al., arXiv 2506.20629), 0 where it stands beside none.
    """
    train = texts.train
    flat = train.flat[:, texts.own]
    costates = (train.loss.gradient(train.y0) @ train.basis).astype(flat.dtype)
    each = np.einsum("nc,ncm->nm", costates, flat.reshape(*costates.shape, -1))
    eigenvalues = np.linalg.eigvalsh(products(flat, flat))
    return {
        "numbers": float(flat.shape[1]),
        "gradient": float(np.linalg.norm(each.mean(0))),
        "fisher": float(np.mean(np.sum(each.astype(float) ** 2, axis=1))),
        "condition": -float(np.log10(eigenvalues[-1] / max(eigenvalues[0], FLOOR * eigenvalues[-1]))),
        "features": -_feature_norm(subject, batch),
    }


def _feature_norm(subject: Any, batch: Any) -> float:
    """Return the mean over maps of |W x| sqrt(d) / (|W| |x|), its root mean square over tokens x (d,): one for random features."""
    paths = _maps_beside(subject)
    found: dict[str, float] = {}

    def hook(path: str):
        def noted(module: Any, inputs: tuple, output: Any) -> None:
            x, weight = inputs[0].flatten(0, -2)[live], module.weight.detach()
            y = x @ weight.T
            found[path] = float((y.norm() / (weight.norm() * x.norm())).double()) * weight.shape[1] ** 0.5

        return noted

    live = batch.mask.flatten()
    hooks = [subject.backbone.model.get_submodule(path).register_forward_hook(hook(path)) for path in paths]
    try:
        if paths:
            with torch.no_grad():
                subject.backbone.model(input_ids=batch.tokens, attention_mask=batch.mask.long())
    finally:
        for one in hooks:
            one.remove()
    return float(np.mean([*found.values()])) if found else 0.0


def _maps_beside(subject: Any) -> list[str]:
    """Return the module paths of the maps in whose sublayers a delta has numbers; of those that it names itself, these alone."""
    if not hasattr(subject, "delta"):
        return []
    backbone, paths = subject.backbone, set()
    places = {f"{b}.{s}.{r}": backbone.linear(b, r, s).path for b in range(backbone.blocks) for r in backbone.layout.roles
              for s in backbone.sites(b, r)}  # fmt: skip
    for name in subject.initial:
        own = [path for place, path in places.items() if name.startswith(f"{place}.")]
        sublayer = ".".join(name.split(".")[:2])
        paths.update(own or [path for place, path in places.items() if place.startswith(f"{sublayer}.")])
    return sorted(paths)
