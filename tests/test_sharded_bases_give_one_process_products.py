"""A base that is cut over two processes gives the losses, products, eigenvalues and traces of one process that holds it whole."""

from contextlib import contextmanager

import pytest
import seeds  # noqa: F401  # a spawned process imports this file alone, and must draw the same problem
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import transformers
from peft import LoraConfig, get_peft_model
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.multiprocessing.reductions import StorageWeakRef

from probes import attach, shard, top_eigenpairs, trace
from probes.live.adapters import base_parameters
from probes.live.health import health
from probes.live.sharded import shards_of
from probes.live.survey import linearity, survey

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


def seen(made, given, seed=0):
    """A survey's numbers, how far the adapter is from linear, and its health, in one vector; the sampled traces apart."""
    attached = attach(made, given, dtype=torch.float64)
    found = survey(attached, seed=seed, steps=6, tol=1e-9)
    start = {name: x * (0.0 if "lora_B" in name else 1.0) for name, x in attached.params.items()}
    lines, state = linearity(attached, start), health(made)
    numbers = [found.loss, found.items, found.sequences, found.gradient, found.largest.value, found.smallest.value]
    numbers += [part.trace.value for part in found.modules] + [found.effective_dimension.value]
    numbers += [lines.cosine, lines.eta, lines.change, state.norm, state.base_norm, base_parameters(made)]
    sampled = [part.gauss_newton_trace.value for part in (*found.modules, *found.layers)]
    return torch.tensor(numbers + [row.ratio for row in state.rows], dtype=torch.float64), torch.tensor(
        sampled, dtype=torch.float64
    )


CASES = {
    "gpt2 in float64": ("gpt2", torch.float32, torch.float64, {}),
    "gpt2 in float32": ("gpt2", torch.float32, None, {}),
    "llama in float32": ("llama", torch.float32, None, {}),
    "no graph kept": ("llama", torch.float32, None, {"memory": 0}),
}


SAME = "gpt2 in float64"  # also with all batches in both processes


def held(made):
    """Bytes of the parameters that require no gradient, each storage once."""
    storages = [x.untyped_storage() for x in made.parameters() if not x.requires_grad]
    return sum({s.data_ptr(): s.nbytes() for s in storages}.values())


def gathered(made, own):
    """(matrices gathered by two products, those that outlive them, graphs kept) of an operator whose graphs are kept."""
    shards, seen = shards_of(made), []
    plain = shards.whole

    def whole(number):
        found = plain(number)
        seen.append(StorageWeakRef(found.untyped_storage()))
        return found

    shards.whole = whole
    op = attach(made, own).hessian()
    built = len(seen)
    op @ torch.ones(op.shape[0], 2)
    return len(seen) - built, sum(not x.expired() for x in seen), op.kept


@contextmanager
def alone():
    """A group of this process alone."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        yield
    finally:
        dist.destroy_process_group()


def refusal(call):
    try:
        call()
    except (ValueError, RuntimeError) as error:
        return f"{type(error).__name__}: {error}"
    return "none"


def refusals(rank):
    """What is said, in this process, of each thing that does not go."""
    cut, own = shard(model("gpt2", torch.float32)), batches()
    empty = dict(own[1], labels=torch.full_like(own[1]["labels"], -100))
    strange = model("gpt2", torch.float32)
    with torch.no_grad():
        next(x for x in strange.parameters() if x.requires_grad).add_(rank)
    other = model("gpt2", torch.float32)
    with torch.no_grad():
        next(x for x in other.parameters() if not x.requires_grad).add_(rank)
    fsdp = model("llama", torch.float32)
    for layer in fsdp.get_base_model().model.layers:
        fully_shard(layer, mesh=init_device_mesh("cpu", (2,)))
    return {
        "twice": refusal(lambda: shard(cut)),
        "one fails": refusal(lambda: attach(cut, [own[0], empty] if rank else own[:1])),
        "other adapters": refusal(lambda: attach(shard(strange), own)),
        "other bases": refusal(lambda: shard(other)),
        "no adapter": refusal(lambda: shard(model("gpt2", torch.float32).requires_grad_(False))),
        "cut numbers": refusal(lambda: attach(cut, own, params="*c_fc.weight")),
        "compiled": refusal(lambda: attach(cut, own).hessian(compiled=True)),
        "FSDP": refusal(lambda: attach(fsdp, own)),
        "after all": refusal(lambda: attach(cut, own[:1]).mean_loss()),
    }


def _rank(rank, place):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{place}/meet", rank=rank, world_size=2)
    found = {}
    own = batches()[:2] if rank == 0 else batches()[2:]
    for case, (name, kind, dtype, options) in CASES.items():
        found[case] = measured(shard(model(name, kind)), own, dtype, **options)
    name, kind, dtype, options = CASES[SAME]
    found["same"] = measured(shard(model(name, kind)), batches(), dtype, **options)
    found["seen"] = seen(shard(model("gpt2", torch.float32)), own)
    found["all seen"] = seen(shard(model("gpt2", torch.float32)), batches())
    made = model("llama", torch.float32)
    found["held"] = held(made), held(shard(made))
    found["gathered"] = gathered(made, own)
    found["refusals"] = refusals(rank)
    attached = attach(made, own)
    responses = attached.response()
    found["response"] = responses.matrix
    found["losses"] = torch.cat(attached.losses())
    torch.save(found, f"{place}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    place = tmp_path_factory.mktemp("ranks")
    mp.spawn(_rank, (str(place),), nprocs=2)
    return [torch.load(place / f"{rank}.pt") for rank in (0, 1)]


@pytest.mark.slow
@pytest.mark.parametrize("case", [*CASES, "same"])
def test_two_processes_equal_one(ranks, case):
    """Loss, products, block, eigenvalues and trace are one process's, whether the processes have parts of the batches or all."""
    name, kind, dtype, options = CASES[SAME if case == "same" else case]
    for label, value in measured(model(name, kind), batches(), dtype, **options).items():
        expected = 2 * value if (label, case) == ("items", "same") else value
        size = float(expected.abs().max())
        for found in ranks:
            assert float((found[case][label] - expected).abs().max()) <= (1e-10 if dtype else 1e-6) * size, label
        assert torch.equal(ranks[0][case][label], ranks[1][case][label])  # bit for bit, so that iterations end together


@pytest.mark.slow
def test_a_survey_and_the_health_of_an_adapter_are_one_processs(ranks):
    """Loss, ends, traces, effective dimension, linearity, norms and sizes are one process's; samples are those of both seeds."""
    whole = model("gpt2", torch.float32)
    exact, first = seen(whole, batches())
    second = seen(whole, batches(), seed=1)[1]
    for found in ranks:
        torch.testing.assert_close(found["seen"][0], exact, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(found["all seen"][1], (first + second) / 2, rtol=1e-9, atol=0)
        assert torch.equal(ranks[0]["seen"][1], found["seen"][1])


@pytest.mark.slow
def test_each_process_holds_its_share(ranks):
    """The frozen numbers of a process are half of the base's, but for norms and the padding of a last row."""
    for found in ranks:
        whole, cut = found["held"]
        assert 0.5 * whole <= cut <= 0.56 * whole


@pytest.mark.slow
def test_kept_graphs_hold_no_gathered_matrix(ranks):
    """Products with kept graphs gather matrices, every one of which is gone when they are made."""
    for found, batches_here in zip(ranks, (2, 1), strict=True):
        times, alive, kept = found["gathered"]
        assert kept == batches_here and times > 0 and alive == 0


@pytest.mark.slow
def test_responses_and_losses_are_of_the_processs_own_batches(ranks):
    """Response and losses of each process's batches are those of the whole model on them."""
    for found, own in zip(ranks, (batches()[:2], batches()[2:]), strict=True):
        attached = attach(model("llama", torch.float32), own)
        torch.testing.assert_close(found["losses"], torch.cat(attached.losses()), rtol=1e-6, atol=1e-6)
        exact = attached.response().matrix
        torch.testing.assert_close(found["response"], exact, rtol=0, atol=2e-6 * float(exact.abs().max()))


SAID = {
    "twice": ("cut already",) * 2,
    "one fails": ("RuntimeError: another of the processes", "ValueError: batches[1]: expected a label"),
    "other adapters": ("same trainable numbers",) * 2,
    "other bases": ("one base model",) * 2,
    "no adapter": ("trainable numbers marked",) * 2,
    "cut numbers": ("numbers that every process holds",) * 2,
    "compiled": ("without group= and compiled=",) * 2,
    "FSDP": ("probes.shard(model)",) * 2,
    "after all": ("none",) * 2,
}


@pytest.mark.slow
@pytest.mark.parametrize("what", SAID)
def test_what_does_not_go_is_said_in_every_process(ranks, what):
    """Each refusal is one sentence in both processes; a batch that one of them refuses leaves the other not waiting."""
    for found, words in zip(ranks, SAID[what], strict=True):
        assert words in found["refusals"][what]


def test_no_group_and_no_place_are_refused():
    """Without a process group nothing is cut; parameters that are not in memory are named."""
    with pytest.raises(ValueError, match="init_process_group"):
        shard(model("gpt2", torch.float32))
    made = model("gpt2", torch.float32)
    made.get_base_model().transformer.h[1].mlp.to("meta")
    with pytest.raises(ValueError, match=r"h\.1\.mlp.*meta device"):
        attach(made, batches())


def test_models_dispatched_on_one_device_are_attached():
    """Accelerate's hooks around a model on one device change no number; where they offload, the parameter is named."""
    accelerate = pytest.importorskip("accelerate")
    plain, made = model("llama", torch.float32), model("llama", torch.float32)
    accelerate.dispatch_model(made, device_map={"": "cpu"}, main_device="cpu", force_hooks=True)
    assert hasattr(made, "_hf_hook")
    v = torch.randn(attach(plain, batches()).size)
    assert torch.equal(attach(made, batches()).hessian() @ v, attach(plain, batches()).hessian() @ v)
    away = accelerate.cpu_offload(model("llama", torch.float32), execution_device="cpu")
    with pytest.raises(ValueError, match="offloaded"):
        attach(away, batches())


def test_frozen_numbers_that_cannot_be_cut_are_named():
    """A mixture of experts, whose matrices are stacked in modules of another kind, is refused by that kind's name."""
    config = transformers.MixtralConfig(**SMALL, intermediate_size=48, num_key_value_heads=1, num_local_experts=4)
    made = transformers.MixtralForCausalLM(config).requires_grad_(False)
    made.lm_head.requires_grad_(True)
    with pytest.raises(ValueError, match="most of them in MixtralExperts"), alone():
        shard(made)
