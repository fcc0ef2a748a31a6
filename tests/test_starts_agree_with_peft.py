"""A LoRA starts where PEFT starts it, and a start that is taken out of the weights leaves the network as it was."""

import pytest
import torch
import zoo

peft = pytest.importorskip("peft")

from peft.tuners.lora import LoraConfig, LoraGAConfig, initialize_lora_eva_weights  # noqa: E402
from peft.tuners.lora.loraga import preprocess_loraga  # noqa: E402

from tuning import LoRA, features, subject, wrap  # noqa: E402
from tuning.initialisations import GAMMA, eva, kaiming, lora_ga, pissa, readings, started, targets  # noqa: E402
from tuning.peft_format import export_peft  # noqa: E402
from tuning.subjects import Readout  # noqa: E402

RANK, ALPHA, CLASSES = 4, 8, 3
SCALE = ALPHA / RANK
TOLERANCE = 1e-5  # PEFT computes in single precision; weights and gradients here are of order one
NAMES = {"q": "query", "v": "value"}


def model():
    """A tiny network in single precision, whose first block reads states of few directions.

    It has no dropout, so that a pass in training mode is the pass itself.
    """
    made = zoo.model_of("bert", dtype=torch.float32)
    made.embeddings.LayerNorm.weight.data[4:] *= 0.3
    for module in made.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return made


def batch():
    whole = zoo.batch_of()
    return whole._replace(mask=torch.ones_like(whole.mask), labels=whole.labels % CLASSES)


def ours(seed=0):
    backbone = wrap(model())
    drawn = torch.randn(CLASSES, backbone.width, generator=torch.Generator().manual_seed(seed))
    return subject(backbone, LoRA(RANK, alpha=ALPHA), Readout(drawn, torch.zeros(CLASSES)), 0)


def config(start, **more):
    return LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=list(NAMES.values()), init_lora_weights=start, **more)


def theirs(tuned, key):
    """PEFT's B, A and frozen weight of a map, by the lab's key."""
    block, _, role = key.split(".")
    module = tuned.base_model.model.get_submodule(f"encoder.layer.{block}.attention.self.{NAMES[role]}")
    parts = (module.lora_B["default"], module.lora_A["default"], module.base_layer)
    return tuple(part.weight.detach() for part in parts)


def apart(one, other):
    return float((one - other).abs().max())


def test_pissa_is_pefts():
    own, tuned = ours(), peft.get_peft_model(model(), config("pissa"))
    start = pissa(readings(own, batch()), RANK, SCALE)
    left = started(own, start, subtracted=True).backbone
    for key, linear in targets(own):
        B, A, rest = theirs(tuned, key)
        s = torch.linalg.svdvals(own.backbone.model.get_submodule(linear.path).weight.detach())
        known = TOLERANCE * max(1.0, float(s[0] / (s[RANK - 1] - s[RANK])) / 4)  # to which single precision tells the directions
        assert apart(start[key][0] @ start[key][1], B @ A) < known
        assert apart(start[key][1].T @ start[key][1], A.T @ A) < known  # and shared out alike between the factors
        assert apart(left.model.get_submodule(linear.path).weight.detach(), rest) < known


def test_eva_is_pefts_with_ranks_shared_out_anew():
    text = batch()
    tuned = peft.get_peft_model(model(), config("eva", eva_config=peft.EvaConfig(rho=2.0)))
    rows = [{"input_ids": text.tokens, "attention_mask": text.mask.long()}]
    initialize_lora_eva_weights(tuned, rows, prepare_model_inputs_fn=None, prepare_layer_inputs_fn=None, show_progress_bar=False)
    start = eva(readings(ours(), text), RANK)
    assert len({len(A) for _, A in start.values()}) > 1, "ranks that differ are what this test is about"
    for key, (B, A) in start.items():
        if len(A):
            there, that, _ = theirs(tuned, key)
            assert not B.any() and not there.any()
            assert apart(A.T @ A, that.T @ that) < TOLERANCE


def test_lora_ga_reads_pefts_directions_of_the_gradient():
    """The authors' factors are unit singular vectors times d_out^1/4 / 4; PEFT's B is also scaled by the singular values."""
    own, text, net = ours(), batch(), model()
    backbone, asked = wrap(net), config("lora_ga", lora_ga_config=LoraGAConfig(stable_gamma=int(GAMMA)))

    def step():
        logits = torch.nn.functional.linear(features(backbone, text), own.readout.weight, own.readout.bias)
        torch.nn.functional.cross_entropy(logits, text.labels).backward()

    preprocess_loraga(net, asked, step)
    tuned, seen = peft.get_peft_model(net, asked), readings(own, text)
    start = lora_ga(seen, RANK)
    for key, G in seen.gradients().items():
        c = len(G) ** 0.25 / GAMMA**0.5
        B, A, _ = theirs(tuned, key)
        mine, sizes = start[key], torch.linalg.svdvals(G)[RANK : 2 * RANK]
        assert apart(mine[1].T @ mine[1], c**2 * A.T @ A) < TOLERANCE
        assert apart((mine[0] * sizes) @ (mine[0] * sizes).T, B @ B.T) < TOLERANCE


def test_the_default_is_drawn_as_pefts():
    start, tuned = kaiming(readings(ours(), batch()), RANK, 0), peft.get_peft_model(model(), config(True))
    for key, (B, A) in start.items():
        there, that, _ = theirs(tuned, key)
        bound = A.shape[1] ** -0.5
        assert not B.any() and not there.any()
        for drawn in (A, that):  # the largest of 64 uniform numbers is above 0.8 of the bound but once in a million
            assert 0.8 * bound < drawn.abs().max() <= bound


@pytest.mark.parametrize("make", [lora_ga, lambda seen, rank: pissa(seen, rank, SCALE)], ids=["lora_ga", "pissa"])
def test_what_is_taken_out_leaves_the_network_as_it_was(make):
    own, text = ours(), batch()
    begun = started(own, make(readings(own, text), RANK), subtracted=True)
    before = own.outputs(own.initial, text)
    assert apart(begun.outputs(begun.initial, text), before) < TOLERANCE
    untaken = started(own, make(readings(own, text), RANK))
    assert apart(untaken.outputs(untaken.initial, text), before) > 1e-2
    assert apart(own.outputs(own.initial, text), before) == 0.0  # and the subject's own backbone is not touched


def test_gradients_are_those_of_the_loss_in_the_weights():
    own, text = ours(), batch()
    found = readings(own, text).gradients()
    for key, linear in targets(own):
        weight = own.backbone.model.get_submodule(linear.path).weight.requires_grad_()
        (there,) = torch.autograd.grad(own.loss(own.initial, text), weight)
        weight.requires_grad_(False)
        assert apart(found[key], there) < TOLERANCE


def test_a_started_lora_is_exported_to_peft(tmp_path):
    own, text = ours(), batch()
    seen = readings(own, text)
    generator = torch.Generator().manual_seed(3)
    drawn = {key: (torch.randn(B.shape, generator=generator) / 4, A) for key, (B, A) in kaiming(seen, RANK, 0).items()}
    begun = started(own, drawn)
    export_peft(tmp_path, own.backbone, own.delta, begun.initial)
    tuned = peft.PeftModel.from_pretrained(model(), tmp_path).eval()
    with torch.no_grad():
        states = tuned(input_ids=text.tokens, attention_mask=text.mask.long()).last_hidden_state
    there = torch.nn.functional.linear(begun.readout.features(begun.backbone, states, text.mask), own.readout.weight)
    assert apart(begun.outputs(begun.initial, text), there) < TOLERANCE


@pytest.mark.parametrize("delta", [LoRA(2, targets=("q", "k", "v", "o", "mlp")), LoRA(2, blocks=(1,))])
@pytest.mark.parametrize("kind", ["gpt2", "gpt_neox", "llama"])
def test_readings_answer_signals_of_any_map(kind, delta):
    """Fused and transposed maps too: B A h moves the logits by the slopes times the signal, to second order."""
    backbone, text = zoo.backbone_of(kind), zoo.batch_of()
    own = zoo.subject_of(backbone, delta)
    seen = readings(own, text)
    start = {key: (torch.full_like(B, 1e-5), A) for key, (B, A) in kaiming(seen, 2, 0).items()}
    begun = started(own, start)
    with torch.no_grad():
        shift = begun.outputs(begun.initial, text) - own.outputs(own.initial, text)
    signals = {key: seen.inputs[key] @ A.T @ B.T for key, (B, A) in start.items()}
    told = sum(torch.einsum("nctm,ntm->nc", G, signals[key]) for key, G in seen.slopes.items())
    assert apart(shift, told) < 1e-3 * float(shift.abs().max())


def test_bad_requests_are_refused():
    own = ours()
    seen = readings(own, batch())
    with pytest.raises(ValueError, match="twice the rank"):
        lora_ga(seen, 9)
    with pytest.raises(ValueError, match="factors of the maps"):
        started(own, {"0.attention.q": kaiming(seen, RANK, 0)["0.attention.q"]})
    with pytest.raises(ValueError, match="give it a LoRA"):
        targets(zoo.subject_of(own.backbone, zoo.DELTAS["bitfit"]))
