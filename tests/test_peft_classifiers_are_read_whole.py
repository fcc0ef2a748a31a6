"""The usual PEFT classifier (SEQ_CLS) gives PEFT's logits here, from a folder, in Python and in the commands."""

import json

import pytest
import torch
import zoo
from transformers import AutoConfig, AutoModelForSequenceClassification

peft = pytest.importorskip("peft")

from peft import (  # noqa: E402
    IA3Config,
    LNTuningConfig,
    LoKrConfig,
    LoraConfig,
    PrefixTuningConfig,
    PromptTuningConfig,
    ShiraConfig,
    VeraConfig,
)

from tuning import wrap  # noqa: E402
from tuning.checkpoints import load, save  # noqa: E402
from tuning.peft_format import import_peft, import_peft_classifier  # noqa: E402
from tuning.subjects import Readout, subject  # noqa: E402

TOLERANCE = 1e-5  # float32 on both sides, logits O(1)
QV = {"target_modules": ["query", "value"]}
CASES = {
    "bert": ("bert", LoraConfig(task_type="SEQ_CLS", r=2, **QV)),
    "bert-pooler-adapted": (
        "bert",
        LoraConfig(task_type="SEQ_CLS", r=2, target_modules="all-linear", alpha_pattern={"pooler.dense": 3}),
    ),
    "bert-pooler-dora": (
        "bert",
        LoraConfig(task_type="SEQ_CLS", r=2, target_modules="all-linear", use_dora=True, alpha_pattern={"pooler.dense": 3}),
    ),
    "bert-vera": ("bert", VeraConfig(task_type="SEQ_CLS", r=3)),
    "bert-lokr": ("bert", LoKrConfig(task_type="SEQ_CLS", r=1, **QV)),
    "bert-shira": ("bert", ShiraConfig(task_type="SEQ_CLS", r=2, random_seed=1, **QV)),
    "bert-norms": ("bert", LNTuningConfig(task_type="SEQ_CLS", target_modules=["LayerNorm"])),
    "llama-norms": ("llama", LNTuningConfig(task_type="SEQ_CLS")),
    "llama-dora": ("llama", LoraConfig(task_type="SEQ_CLS", r=2, target_modules="all-linear", use_dora=True)),
    "bert-pooler-trained": ("bert", LoraConfig(task_type="SEQ_CLS", r=2, modules_to_save=["pooler"], **QV)),
    "bert-ia3": ("bert", IA3Config(task_type="SEQ_CLS")),
    "bert-ia3-pooler": (
        "bert",
        IA3Config(
            task_type="SEQ_CLS", target_modules=["pooler.dense", "output.dense", "key"], feedforward_modules=["output.dense"]
        ),
    ),
    "bert-ia3-pooler-inputs": ("bert", IA3Config(task_type="SEQ_CLS", target_modules=["dense"], feedforward_modules=["dense"])),
    "bert-prefix": ("bert", PrefixTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=2)),
    "bert-by-class": ("bert", LoraConfig(r=2, modules_to_save=["classifier"], **QV)),
    "roberta": ("roberta", LoraConfig(task_type="SEQ_CLS", r=2, **QV)),
    "roberta-ia3": ("roberta", IA3Config(task_type="SEQ_CLS")),
    "mpnet": ("mpnet", LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["q", "v"])),
    "distilbert": ("distilbert", LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["q_lin"])),
    "llama": ("llama", LoraConfig(task_type="SEQ_CLS", r=2, target_modules="all-linear")),
    "llama-ia3": ("llama", IA3Config(task_type="SEQ_CLS")),
    "llama-prefix": ("llama", PrefixTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=2)),
    "llama-prompt": ("llama", PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=2)),
    "qwen2": ("qwen2", LoraConfig(task_type="SEQ_CLS", r=2, use_rslora=True)),
    "gpt2": ("gpt2", LoraConfig(task_type="SEQ_CLS", r=2, fan_in_fan_out=True)),
    "gpt2-prefix": ("gpt2", PrefixTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=2)),
    "gpt_neox": ("gpt_neox", IA3Config(task_type="SEQ_CLS")),
}


def classifier(kind):
    """A random classifier of three classes, every parameter away from its default; the same at every call."""
    tokens = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": zoo.padding(kind)}
    config = AutoConfig.for_model(kind, **zoo.KINDS[kind], **tokens, max_position_embeddings=40, num_labels=3)
    model = AutoModelForSequenceClassification.from_config(config, attn_implementation="eager")
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        scale = name.endswith("weight") and parameter.ndim == 1
        parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator) + float(scale)
    return model.eval()


def batch_of(kind, equal=False):
    batch = zoo.batch_of()
    mask = torch.ones_like(batch.mask) if equal else batch.mask
    return batch._replace(tokens=torch.where(mask, batch.tokens, zoo.padding(kind)), mask=mask)


def made(case, folder):
    """PEFT's logits of a moved classifier that went through its folder, the batch, and the backbone of its base."""
    kind, config = CASES[case]
    model = peft.get_peft_model(classifier(kind), config)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    model.eval().save_pretrained(folder)
    batch = batch_of(kind, equal="prompt" in case)
    loaded = peft.PeftModel.from_pretrained(classifier(kind), folder).eval()
    with torch.no_grad():
        logits = loaded(input_ids=batch.tokens, attention_mask=batch.mask.long()).logits
    base = classifier(kind)
    return logits, batch, wrap(getattr(base, base.base_model_prefix), name=f"tiny-{kind}"), trained


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("case", CASES)
def test_the_logits_are_pefts(case, tmp_path):
    theirs, batch, backbone, _ = made(case, tmp_path)
    found = load(tmp_path, backbone)
    ours = found.subject.outputs(found.params, batch)
    assert (ours - theirs).abs().max() < TOLERANCE
    assert (found.subject.steered({}, batch) - theirs).abs().max() > 0.01, "the delta must do something"
    delta, params, readout = import_peft_classifier(tmp_path, backbone)
    assert (subject(backbone, delta, readout, 0).outputs(params, batch) - theirs).abs().max() < TOLERANCE


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    "case",
    ["bert", "bert-ia3", "bert-prefix", "bert-vera", "bert-lokr", "bert-shira", "bert-norms", "llama", "llama-dora", "gpt2"],
)
def test_every_trained_number_is_in_the_delta_or_the_readout(case, tmp_path):
    _, _, backbone, trained = made(case, tmp_path)
    delta, params, readout = import_peft_classifier(tmp_path, backbone)
    bias = readout.bias.numel() if backbone.kind == "encoder" else 0  # decoders' classifiers have none
    assert sum(value.numel() for value in params.values()) + readout.weight.numel() + bias == trained
    assert delta.size(backbone) == sum(value.numel() for value in params.values())


def test_the_delta_alone_warns_once_of_the_classifier(tmp_path):
    _, _, backbone, _ = made("bert", tmp_path)
    with pytest.warns(UserWarning, match=r"51 numbers .*classifier.bias.*import_peft_classifier") as warned:
        delta, params = import_peft(tmp_path, backbone)
    assert len(warned) == 1 and delta == import_peft_classifier(tmp_path, backbone)[0]


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("case", ["bert-ia3-pooler", "llama"])
def test_it_survives_our_own_file(case, tmp_path):
    _, batch, backbone, _ = made(case, tmp_path / "peft")
    found = load(tmp_path / "peft", backbone)
    again = load(save(tmp_path / "own.safetensors", found.subject, found.params, found.provenance), backbone)
    assert torch.equal(again.subject.outputs(again.params, batch), found.subject.outputs(found.params, batch))


def test_ensembles_read_it_too(tmp_path):
    from tuning.ensembles import outputs

    _, batch, backbone, _ = made("bert", tmp_path)
    found = load(tmp_path, backbone)
    two = {name: torch.stack([value, 0 * value]) for name, value in found.params.items()}
    folded = outputs(found.subject, two, type(batch)(*(torch.stack([part, part]) for part in batch)))
    for i in range(2):
        alone = found.subject.outputs({name: value[i] for name, value in two.items()}, batch)
        assert (folded[i] - alone).abs().max() < TOLERANCE


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("kind", "config", "words"),
    [
        ("bert", LoraConfig(task_type="TOKEN_CLS", r=2, **QV), "task_type='TOKEN_CLS'.*fit a readout"),
        ("bert", LoraConfig(r=2, **QV), "classifier.weight.*add 'classifier' to modules_to_save"),
        ("bert", PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=2), "on the text's own tokens"),
        ("roberta", PrefixTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=2), "on the text's own tokens"),
    ],
)
def test_a_classifier_that_cannot_be_read_is_refused_but_its_delta_is_not(kind, config, words, tmp_path):
    model = classifier(kind)
    peft.get_peft_model(model, config).save_pretrained(tmp_path)
    base = classifier(kind)
    backbone = wrap(getattr(base, base.base_model_prefix))
    with pytest.raises(ValueError, match=words) as refusal:
        import_peft_classifier(tmp_path, backbone)
    assert "\n" not in str(refusal.value)
    assert import_peft(tmp_path, backbone)[0].size(backbone) > 0


def test_a_pooler_that_the_base_lacks_is_said(tmp_path):
    made("bert", tmp_path)
    with pytest.raises(ValueError, match="pooler.dense.weight.*add 'pooler' to modules_to_save"):
        import_peft_classifier(tmp_path, without_pooler())


def without_pooler():
    model = zoo.model_of("bert")
    model.pooler = None
    return wrap(model)


def test_a_readout_on_the_first_token_is_what_it_says():
    backbone, batch = zoo.backbone_of("bert"), zoo.batch_of()
    generator = torch.Generator().manual_seed(3)
    weight, dense = (torch.randn(n, 16, generator=generator, dtype=torch.float64) for n in (3, 16))
    states = torch.randn(5, 7, 16, generator=generator, dtype=torch.float64)
    read = Readout(weight, weight[:, 0], (dense, dense[0], "tanh"))
    by_hand = torch.stack([torch.tanh(dense @ states[i, 0] + dense[0]) for i in range(5)])
    assert torch.allclose(read.features(backbone, states, batch.mask), by_hand)


def test_the_commands_take_the_folder(tmp_path, capsys):
    from costate import main
    from tuning import load as backbone_of

    config = AutoConfig.for_model("bert", **zoo.COMMON | {"vocab_size": 8000}, max_position_embeddings=64, num_labels=2)
    base = AutoModelForSequenceClassification.from_config(config)
    base.bert.save_pretrained(tmp_path / "base")
    backbone_of("nano").tokenizer.save_pretrained(tmp_path / "base")
    peft.get_peft_model(base, LoraConfig(task_type="SEQ_CLS", r=2, **QV)).save_pretrained(tmp_path / "adapter")
    place = ["--backbone", str(tmp_path / "base"), "--task", "agreement", "--checkpoint", str(tmp_path / "adapter"), "--json"]
    assert main(["probe", "response", *place, "--examples", "4"]) == 0
    assert json.loads(capsys.readouterr().out)["delta"] == "lora-2"
    assert main(["evaluate", *place]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["frozen"] == said["tuned"]  # an untrained LoRA changes nothing, and the classifier is in both
    assert main(["probe", "response", "--task", "agreement", "--checkpoint", str(tmp_path / "adapter")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
