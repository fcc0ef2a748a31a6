"""An adapter trained on the token loss of a live model is AdamW in a plain loop on the model's own loss."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from probes.live.attached import attach
from tuning.training import Diverged, adamw, cosine

STEPS, RATE = 12, 0.05


def adapted():
    """A tiny Llama in float64 under LoRA, and three batches of prompts and responses, padded."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=30,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        intermediate_size=24,
        initializer_range=0.3,
    )
    model = get_peft_model(LlamaForCausalLM(config).double(), LoraConfig(r=2, target_modules=["q_proj", "v_proj", "down_proj"]))
    model = model.double().eval()
    batches = []
    for rows in (3, 2, 3):
        tokens = torch.randint(3, 30, (rows, 9))
        tokens[:, 4:] = 7 + torch.arange(5)
        labels, mask = tokens.clone(), torch.ones_like(tokens)
        labels[:, :4], labels[0, 7:], mask[0, 7:] = -100, -100, 0
        batches.append({"input_ids": tokens, "attention_mask": mask, "labels": labels})
    return model, batches


def test_the_run_is_a_plain_loop():
    """Losses step by step and the numbers at the end agree to rounding, the loss falls, and the model takes the numbers.

    Llama's normalisations round to float32 (6e-8), and Adam divides small gradients by their own size: 1e-5 of the way, at most.
    """
    model, batches = adapted()
    attached = attach(model, batches)
    found = adamw(attached.loss, attached.params, attached.batches, steps=STEPS, lr=RATE, weight_decay=0.01, schedule=cosine)
    assert all(torch.equal(value, dict(model.named_parameters())[name]) for name, value in attached.params.items())

    trained = {name: value for name, value in model.named_parameters() if value.requires_grad}
    start = {name: value.detach().clone() for name, value in trained.items()}
    optimizer = torch.optim.AdamW(trained.values(), lr=RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda n: 1.0 if n == 0 else float(1 + torch.cos(torch.tensor(torch.pi * (n - 1) / (STEPS - 1)).double())) / 2
    )
    losses = []
    for step in range(STEPS):
        loss = model(**batches[step % 3]).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained.values(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    torch.testing.assert_close(torch.tensor([one[1] for one in found.history]), torch.tensor(losses), rtol=1e-6, atol=0)
    assert losses[-1] < 0.9 * losses[2]  # of the same batch
    for name, value in trained.items():
        torch.testing.assert_close(found.params[name], value.detach(), rtol=0, atol=1e-5 * RATE * STEPS)
        with torch.no_grad():
            value.copy_(start[name])
    model.load_state_dict(found.params, strict=False)
    assert attach(model, batches).mean_loss() < attached.mean_loss() - 0.2


def test_refused():
    """No step, no batch, and a loss that is not finite, in one sentence each."""
    params = {"x": torch.zeros(2)}
    loss = lambda params, batch: (params["x"] * batch).sum()  # noqa: E731
    with pytest.raises(ValueError, match="expected at least one step, got 0"):
        adamw(loss, params, [1.0], steps=0)
    with pytest.raises(ValueError, match="expected at least one batch to train on"):
        adamw(loss, params, [], steps=3)
    with pytest.raises(Diverged, match="expected a finite loss, got nan at step 1"):
        adamw(loss, params, [1.0, float("nan")], steps=3)
