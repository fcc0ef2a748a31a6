"""A base that is cut over two processes gives the losses, products, eigenvalues and traces of one process that holds it whole."""

import pytest
import seeds  # noqa: F401  # a spawned process imports this file alone, and must draw the same problem
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import transformers
from peft import LoraConfig, get_peft_model

from probes import attach, shard, top_eigenpairs, trace

VOCABULARY = 41  # odd, so that the last process's rows are padded
SMALL = dict(vocab_size=VOCABULARY, hidden_size=16, num_hidden_layers=2, num_attention_heads=2)
SIZES = ((9, 6), (5, 8, 7), (12,))  # two batches for the first process, one for the second


def model(name, dtype):
    torch.manual_seed(0)
    if name == "gpt2":
        config = transformers.GPT2Config(vocab_size=VOCABULARY, n_embd=16, n_layer=2, n_head=2, n_positions=32)
        made, targets = transformers.GPT2LMHeadModel(config), ["c_attn"]
    else:
        config = transformers.LlamaConfig(**SMALL, intermediate_size=24, num_key_value_heads=1)
        made, targets = transformers.LlamaForCausalLM(config), ["q_proj", "v_proj"]
    made = get_peft_model(made.to(dtype), LoraConfig(r=2, target_modules=targets, init_lora_weights=False))
    return made.eval()


def batches():
    generator, found = torch.Generator().manual_seed(1), []
    for sizes in SIZES:
        ids = torch.randint(2, VOCABULARY, (len(sizes), max(sizes)), generator=generator)
        mask = (torch.arange(max(sizes)) < torch.tensor(sizes)[:, None]).long()
        found.append({"input_ids": ids, "attention_mask": mask, "labels": torch.where(mask.bool(), ids, -100)})
    return found


def measured(made, given, dtype=None, **options):
    attached = attach(made, given, dtype=dtype)
    op, flat = attached.hessian(**options), attached.gauss_newton(**options)
    v = torch.randn(op.shape[0], 2, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    some = [name for name in op.names if "lora_B" in name]
    block = op.block(some)
    return {
        "loss": torch.tensor(attached.mean_loss()),
        "hessian": op @ v,
        "gauss-newton": flat @ v,
        "block": block @ v[: block.shape[0]],
        "values": top_eigenpairs(op, 2, tol=1e-8).values,
        "trace": torch.tensor(trace(op, budget=16).value),
        "items": torch.tensor(op.examples),
    }


CASES = {
    "gpt2 in float64": ("gpt2", torch.float32, torch.float64, {}),
    "gpt2 in float32": ("gpt2", torch.float32, None, {}),
    "llama in float32": ("llama", torch.float32, None, {}),
    "no graph kept": ("llama", torch.float32, None, {"memory": 0}),
}


def _bytes(made):
    return sum({x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in made.parameters()}.values())


def _refusal(call):
    try:
        call()
    except (ValueError, RuntimeError) as error:
        return f"{type(error).__name__}: {error}"
    return "none"


def _rank(rank, place):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{place}/meet", rank=rank, world_size=2)
    found = {}
    own = batches()[:2] if rank == 0 else batches()[2:]
    for case, (name, kind, dtype, options) in CASES.items():
        found[case] = measured(shard(model(name, kind)), own, dtype, **options)
        found[case, "same"] = measured(shard(model(name, kind)), batches(), dtype, **options)
    torch.save(found, f"{place}/{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_equal_one(tmp_path):
    """Loss, products, block, eigenvalues and trace are one process's, whether the processes have parts of the batches or all."""
    mp.spawn(_rank, (str(tmp_path),), nprocs=2)
    ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1)]
    for case, (name, kind, dtype, options) in CASES.items():
        whole = measured(model(name, kind), batches(), dtype, **options)
        eps = 1e-10 if dtype is torch.float64 else 1e-6
        for key in (case, (case, "same")):
            for label, value in whole.items():
                expected = 2 * value if label == "items" and key != case else value
                for found in ranks:
                    gap = float((found[key][label] - expected).abs().max()) / float(expected.abs().max())
                    assert gap <= eps, (key, label, gap)
                assert torch.equal(ranks[0][key][label], ranks[1][key][label])
