"""Which loss a model of Hugging Face's has: found from its labels, and by comparison with the loss that it gives itself."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from probes.live.calls import LiveModel, Params
from probes.live.head import logit_loss
from probes.live.tokens import check_rows, counted, tokens


def kind_of(made: LiveModel, core: nn.Module, start: Params, batches: list[dict]) -> tuple[str, list[dict]]:
    """Return the kind of the model's loss, and the batches with what else it needs; ValueError where the kind is unknown."""
    labels, config = batches[0]["labels"], getattr(core, "config", None)
    if labels.ndim == 2 and not labels.is_floating_point():
        if getattr(config, "is_encoder_decoder", False):
            batches = [_decoded(core, batch) for batch in batches]
            check_rows(batches, False)
            return "aligned token", batches
        check_rows(batches, False)
        batches = [_placed(made, batch) for batch in batches]
        shift = _agreed(made, start, batches)
        check_rows(batches, shift)
        _refuse_prefix_under_checkpoints(made.module, core)
        return ("next token" if shift else "aligned token"), batches
    with torch.no_grad():
        y = getattr(made.call(start, batches[0]), "logits", None)
    if not isinstance(y, Tensor) or y.ndim != 2 or len(y) != len(labels):
        got = tuple(y.shape) if isinstance(y, Tensor) else type(y).__name__
        raise ValueError(
            f"expected a model whose output has .logits (B, C) for labels {tuple(labels.shape)}, got {got}; pass loss="
        )
    if labels.is_floating_point() or y.shape[1] == 1:
        return ("several classes" if labels.ndim == 2 and y.shape[1] > 1 else "numbers"), batches
    for i, batch in enumerate(batches):
        outside = batch["labels"][(batch["labels"] < 0) | (batch["labels"] >= y.shape[1])]
        if len(outside):
            raise ValueError(
                f"batches[{i}]: expected labels between 0 and {y.shape[1] - 1}, got {int(outside[0])}: leave such rows out"
            )
    return "classes", batches


def _decoded(core: nn.Module, batch: dict) -> dict:
    """The batch of an encoder-decoder with what its decoder reads: the labels, one place later."""
    if "decoder_input_ids" in batch or "decoder_inputs_embeds" in batch:
        return batch
    try:
        return batch | {"decoder_input_ids": core.prepare_decoder_input_ids_from_labels(labels=batch["labels"])}
    except AttributeError as error:
        raise ValueError(f"expected decoder_input_ids in a batch of an encoder-decoder, got none, and {error}") from error


def _placed(made: LiveModel, batch: dict) -> dict:
    """The batch with the positions of its tokens, where padding in front would move them."""
    mask = batch.get("attention_mask")
    missing = "position_ids" not in batch and made.accepted is not None and "position_ids" in made.accepted
    if missing and mask is not None and mask.ndim == 2 and bool((mask[:, 0] == 0).any()):
        return batch | {"position_ids": (mask.long().cumsum(1) - 1).clamp(min=0)}
    return batch


def _row(batch: dict, i: int) -> dict:
    return {k: (v[i : i + 1] if v.ndim else v) for k, v in batch.items()}


def _agreed(made: LiveModel, start: Params, batches: list[dict]) -> bool:
    """Whether the loss reads labels at the next position: what agrees with the model's own loss on one sequence."""
    longer = [(b, int(i)) for b in batches for i in counted(b["labels"], True).any(1).nonzero()[:1]]
    if not longer:
        check_rows(batches, True)
    row = _row(*longer[0])
    with torch.no_grad():
        own = getattr(made.call(start, row, labelled=True), "loss", None)
    if not isinstance(own, Tensor):
        raise ValueError("expected a model that gives a loss for labels (B, T), got none to compare with; pass loss=")
    found = {}
    for shift in (True, False):
        chosen = tokens(row["labels"], shift, "token", made.wide)
        if len(chosen.rows):
            with torch.no_grad():
                found[shift] = float(logit_loss(made.logits(start, row, chosen), chosen.targets, chosen.weights))
    coarse = max(torch.finfo(x.dtype).eps for x in made.module.parameters() if x.is_floating_point())
    best = min(found, key=lambda shift: abs(found[shift] - float(own)))
    if not abs(found[best] - float(own)) <= max(1e-4, 4 * coarse) * max(1.0, abs(float(own))):
        said = ", ".join(f"{x:.6g} with labels {'one place on' if shift else 'in place'}" for shift, x in found.items())
        raise ValueError(
            f"expected a model whose loss is the cross entropy of its labels, its own is {float(own):.6g} on a sequence "
            f"and this would be {said}; pass loss=function of (output, batch) with weights="
        )
    return best


def _refuse_prefix_under_checkpoints(model: nn.Module, core: nn.Module) -> None:
    """Refuse PEFT's prefix with gradient checkpointing, under which a model in training mode leaves its prefix out."""
    config = getattr(model, "peft_config", {})
    kinds = {
        str(getattr(c, "peft_type", "")).rpartition(".")[2] for c in (config.values() if isinstance(config, Mapping) else ())
    }
    if "PREFIX_TUNING" in kinds and _checkpointed(core):
        raise ValueError(
            "expected a prefix without gradient checkpointing, got both: in training mode checkpointing drops the key-value "
            "cache that the prefix stands in, so that it is not trained; call gradient_checkpointing_disable() and train it anew"
        )


def _checkpointed(core: nn.Module) -> bool:
    return any(getattr(part, "gradient_checkpointing", False) is True for part in core.modules())


def is_straight(made: LiveModel, start: Params, batches: list[dict], shift: bool) -> bool:
    """Return whether the logits are a frozen linear map of the states, with no soft cap or scale behind it, on one sequence."""
    if type(made.head) is not nn.Linear:
        return False
    trained = {id(x) for name, x in made.module.named_parameters() if name in made.own}
    if any(id(x) in trained for x in made.head.parameters()):
        return False
    row = _row(batches[0], 0)
    chosen = tokens(row["labels"], shift, "token", made.wide)
    with torch.no_grad():
        h, y = made.states(start, row, chosen), made.logits(start, row, chosen)
        z = linear(h, *made.vocabulary())
    return bool(torch.allclose(z.to(y.dtype), y, rtol=0, atol=8 * torch.finfo(z.dtype).eps * float(z.abs().max())))
