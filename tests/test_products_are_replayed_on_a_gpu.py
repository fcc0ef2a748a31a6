"""On a CUDA device products are replayed from a recording: the same numbers as before it, and as on a CPU."""

import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model
from seeds import shifted

from probes.curvature.hessian import fisher, hessian
from probes.curvature.replay import WARM
from probes.live.attached import attach

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
SIZES = dict(vocab_size=200, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2)


def model(dtype=torch.float32):
    torch.manual_seed(0)
    base = transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES, intermediate_size=48)).to(dtype)
    return get_peft_model(base, LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)).eval()


def batches():
    draw = torch.Generator().manual_seed(shifted(1))
    rows = [torch.randint(200, (n, length), generator=draw) for n, length in ((2, 24), (3, 17))]
    return [{"input_ids": row, "labels": row} for row in rows]


def vectors(size, count, device="cuda"):
    return torch.randn(size, count, generator=torch.Generator().manual_seed(shifted(2))).to(device)


@pytest.mark.parametrize("kind", ["hessian", "gauss_newton"])
def test_a_recording_changes_no_product(kind):
    op = getattr(attach(model().cuda(), batches()), kind)()
    v = vectors(op.shape[0], 3 * WARM + 3)
    first = torch.stack([op @ x for x in v.T[:WARM]], 1)
    rest = op @ v[:, WARM:]
    torch.testing.assert_close(op @ v, torch.cat([first, rest], 1), rtol=1e-4, atol=1e-5 * float(rest.abs().max()))
    on_cpu = getattr(attach(model(), batches()), kind)() @ v.cpu()
    torch.testing.assert_close((op @ v).cpu(), on_cpu, rtol=1e-3, atol=1e-4 * float(on_cpu.abs().max()))


def test_a_block_and_its_whole_are_recorded_apart():
    op = attach(model().cuda(), batches()).hessian()
    block = op.block("*layers.1.*")
    at = torch.cat([torch.full((x.numel(),), ".layers.1." in name) for name, x in op.unflatten(torch.zeros(op.shape[0])).items()])
    v = torch.zeros(op.shape[0], 5, device="cuda")
    v[at.cuda()] = vectors(block.shape[0], 5)
    torch.testing.assert_close((op @ v)[at.cuda()], block @ v[at.cuda()], rtol=1e-3, atol=1e-5)


def test_what_waits_for_the_device_is_not_recorded():
    class Waits(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, g):
            return g * (1.0 if float(g.detach().abs().sum()) >= 0 else 0.0)

    def loss(params, batch):
        return (Waits.apply(params["w"]) @ batch).pow(4).mean()

    w, x = vectors(6, 1)[:, 0], vectors(6, 9)
    op = hessian(loss, {"w": w}, [x], weights="rows")
    exact = torch.func.hessian(lambda w: (w @ x).pow(4).mean())(w)
    for _ in range(WARM + 2):
        torch.testing.assert_close(op.dense(), exact, rtol=1e-4, atol=1e-4)


def test_a_recording_is_let_go_with_its_operator():
    def held():
        op = attach(model().cuda(), batches()).hessian()
        op @ vectors(op.shape[0], WARM + 2)

    held()
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    held()
    torch.cuda.synchronize()
    assert torch.cuda.memory_allocated() == before


def test_an_operator_of_outputs_is_recorded():
    x = vectors(5, 40).T
    outputs = lambda params, batch: torch.tanh(batch @ params["w"])  # noqa: E731
    point = {"w": vectors(15, 1)[:, 0].view(5, 3)}
    op = fisher(outputs, point, [x])
    before = torch.stack([op @ e for e in torch.eye(15, device="cuda")[:WARM]], 1)
    torch.testing.assert_close(op.dense()[:, :WARM], before, rtol=1e-4, atol=1e-6)


def test_a_quantised_base_is_refused(tmp_path):
    pytest.importorskip("bitsandbytes")
    base = transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES | {"hidden_size": 64}, intermediate_size=64))
    base.save_pretrained(tmp_path)
    for bits in ("load_in_4bit", "load_in_8bit"):
        config = transformers.BitsAndBytesConfig(**{bits: True})
        small = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, quantization_config=config, device_map="cuda")
        net = get_peft_model(small, LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
        with pytest.raises(ValueError, match="quantised"):
            attach(net, batches())
