"""A folder that PEFT wrote is read as PEFT's own function with as many numbers, or refused by the name of its setting."""

import dataclasses
import json
import warnings

import pytest
import torch
import zoo

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

from tuning import IA3, Combined, LoRA, wrap  # noqa: E402
from tuning.backbones import frame, hidden  # noqa: E402
from tuning.peft_format import export_peft, import_peft  # noqa: E402
from tuning.peft_settings import _IDLE, _READ, checked  # noqa: E402

# PEFT computes in float32 and the models are O(1); what it does differently shows at 0.01 and more.
TOLERANCE = 1e-5
QV = {"target_modules": ["query", "value"]}
SLOTS = {"num_virtual_tokens": 3, "task_type": "FEATURE_EXTRACTION"}
CONFIGS = {
    "LORA": LoraConfig,
    "IA3": IA3Config,
    "LOKR": LoKrConfig,
    "VERA": VeraConfig,
    "SHIRA": ShiraConfig,
    "LN_TUNING": LNTuningConfig,
    "PREFIX_TUNING": PrefixTuningConfig,
    "PROMPT_TUNING": PromptTuningConfig,
}


def lora(kind="bert", **settings):
    return kind, LoraConfig, {"r": 2, "lora_alpha": 5} | settings


CASES = {
    "lora": lora(**QV),
    "expression": lora(target_modules=r".*\.[0]\.attention\.(self\.(query|key)|output\.dense)"),
    "endings": lora(target_modules=["self.key", "0.output.dense", "encoder.layer.1.attention.self.value"]),
    "one-layer": lora(**QV, layers_to_transform=[1]),
    "layer-number": lora(**QV, layers_to_transform=0),
    "layers-pattern": lora(**QV, layers_to_transform=[1], layers_pattern="layer"),
    "no-layers": lora(**QV, layers_to_transform=[]),
    "excluded": lora(**QV, exclude_modules=["0.attention.self.value"]),
    "excluded-expression": lora(**QV, exclude_modules=r".*layer\.1\..*query"),
    "ranks": lora(**QV, rank_pattern={"query": 3, r"layer\.1\.attention\.self\.value": 1}),
    "alphas": lora(**QV, alpha_pattern={"value": 7, "0.attention.self.query": 2}),
    "ranks-rslora": lora(**QV, use_rslora=True, rank_pattern={"value": 3}, alpha_pattern={"query": 1}),
    "rslora": lora(**QV, use_rslora=True),
    "dora": lora(**QV, use_dora=True),
    "dora-ranks": lora(**QV, use_dora=True, use_rslora=True, rank_pattern={"query": 3}),
    "dora-gpt2": lora("gpt2", target_modules=["c_attn", "mlp.c_proj"], fan_in_fan_out=True, use_dora=True),
    "dora-llama": lora("llama", target_modules="all-linear", use_dora=True),
    "dropout": lora(**QV, lora_dropout=0.5),
    "stored-otherwise": lora(**QV, fan_in_fan_out=True),
    "gaussian": lora(**QV, init_lora_weights="gaussian"),
    "orthogonal": lora(**QV, init_lora_weights="orthogonal"),
    "random-start": lora(**QV, init_lora_weights=False),
    "eva": lora(**QV, init_lora_weights="eva"),
    "unused-settings": lora(**QV, revision="main", qalora_group_size=8, megatron_core="other"),
    "gpt2": lora("gpt2", target_modules=["c_attn", "mlp.c_proj"], fan_in_fan_out=True, rank_pattern={"c_attn": 3}),
    "gpt_neox": lora("gpt_neox", target_modules="all-linear"),
    "llama": lora("llama", target_modules="all-linear"),
    "llama-gate": lora("llama", target_modules=["gate_proj", "down_proj"], layers_to_transform=[0], layers_pattern="layers"),
    "qwen2": lora("qwen2"),
    "distilbert": lora("distilbert", target_modules="all-linear"),
    "mpnet": lora("mpnet", target_modules=["q", "o", "intermediate.dense"]),
    **{f"ia3-{kind}": (kind, IA3Config, {}) for kind in ("bert", "roberta", "gpt2", "llama", "qwen2", "gpt_neox")},
    "ia3-distilbert": ("distilbert", IA3Config, {"target_modules": ["k_lin", "lin2"], "feedforward_modules": ["lin2"]}),
    "ia3-inputs": ("bert", IA3Config, {"target_modules": ["query", "key"], "feedforward_modules": ["query"]}),
    "ia3-outputs": ("bert", IA3Config, {**QV, "feedforward_modules": [], "init_ia3_weights": False}),
    "ia3-blocks": (
        "bert",
        IA3Config,
        {
            "target_modules": r".*layer\.(0\.attention\.self\.key|1\.(attention\.)?output\.dense)",
            "feedforward_modules": r".*output\.dense",
            "exclude_modules": ["1.attention.output.dense"],
        },
    ),
    **{f"vera-{kind}": (kind, VeraConfig, {"r": 3}) for kind in ("bert", "gpt2", "llama", "qwen2", "gpt_neox")},
    "vera-wide": ("bert", VeraConfig, {"r": 3, "target_modules": ["query", "output.dense"], "projection_prng_key": 7}),
    "vera-drawn": ("bert", VeraConfig, {"r": 3, "save_projection": False, "layers_to_transform": [1]}),
    "lokr": ("bert", LoKrConfig, {"r": 1, "alpha": 3, **QV}),
    "lokr-whole": ("bert", LoKrConfig, {"r": 8, **QV, "decompose_factor": 2, "layers_to_transform": [1]}),
    "lokr-ranks": (
        "bert",
        LoKrConfig,
        {"r": 1, **QV, "rank_pattern": {"query": 4}, "alpha_pattern": {"1.attention.self.value": 2}},
    ),
    "lokr-llama": ("llama", LoKrConfig, {"r": 1, "target_modules": ["q_proj", "v_proj", "down_proj"]}),
    **{f"shira-{kind}": (kind, ShiraConfig, {"r": 2, "random_seed": 3}) for kind in ("bert", "llama", "gpt_neox")},
    "shira-blocks": ("bert", ShiraConfig, {"r": 2, "random_seed": 0, "target_modules": r".*(query|1\.attention\.self\.key)"}),
    **{f"ln-{kind}": (kind, LNTuningConfig, {}) for kind in ("gpt2", "llama", "qwen2", "gemma2")},
    "ln-bert": ("bert", LNTuningConfig, {"target_modules": ["LayerNorm"]}),
    "ln-some": (
        "bert",
        LNTuningConfig,
        {"target_modules": ["output.LayerNorm"], "exclude_modules": ["attention.output.LayerNorm"]},
    ),
    **{
        f"{name}-{kind}": (kind, config, SLOTS)
        for name, config in (("prefix", PrefixTuningConfig), ("prompt", PromptTuningConfig))
        for kind in ("bert", "gpt2", "llama")
    },
    "prefix-projected": ("bert", PrefixTuningConfig, {**SLOTS, "prefix_projection": True, "encoder_hidden_size": 5}),
    "prefix-zero": ("bert", PrefixTuningConfig, SLOTS | {"init_weights": "zero"}),
    "prompt-vocabulary": ("bert", PromptTuningConfig, SLOTS | {"prompt_tuning_init": "SAMPLE_VOCAB"}),
}


def made(kind, config, folder, size=0.3):
    """A moved PEFT model saved to the folder and loaded again, as a user would."""
    model = peft.get_peft_model(zoo.model_of(kind, dtype=torch.float32), config)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(size * torch.randn(parameter.shape, generator=generator))
    model.eval().save_pretrained(folder)
    return peft.PeftModel.from_pretrained(zoo.model_of(kind, dtype=torch.float32), folder).eval()


def numbers(model):
    """How many numbers the adapter has as PEFT loads it."""
    names = ("lora_", "ia3_", "vera_lambda", "lokr_", "shira_weight", "ln_tuning_", "prompt_encoder", "modules_to_save")
    return sum(p.numel() for name, p in model.named_parameters() if any(part in name for part in names))


def states(model, batch):
    with torch.no_grad():
        found = model(input_ids=batch.tokens, attention_mask=batch.mask.long()).last_hidden_state
    return found[:, -batch.tokens.shape[1] :]


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("case", CASES)
def test_the_function_and_the_numbers_are_pefts(case, tmp_path):
    kind, config, settings = CASES[case]
    model = made(kind, config(**settings), tmp_path)
    backbone, batch = zoo.backbone_of(kind, dtype=torch.float32), zoo.batch_of()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        delta, params = import_peft(tmp_path, backbone)
    real = batch.mask[..., None]
    ours = hidden(backbone, batch, frame(backbone, delta.edits(backbone, params))) * real
    assert (ours - states(model, batch) * real).abs().max() < TOLERANCE
    assert (ours - hidden(backbone, batch, frame(backbone)) * real).abs().max() > 0.01, "or agreement says nothing"
    assert sum(value.numel() for value in params.values()) == numbers(model) == delta.size(backbone)
    assert {name: tuple(value.shape) for name, value in params.items()} == delta.shapes(backbone)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("case", [case for case in CASES if "layer-number" not in case])
def test_what_is_read_is_written_back(case, tmp_path):
    kind, config, settings = CASES[case]
    made(kind, config(**settings), tmp_path / "theirs")
    backbone = zoo.backbone_of(kind, dtype=torch.float32)
    delta, params = import_peft(tmp_path / "theirs", backbone)
    export_peft(tmp_path / "ours", backbone, delta, params)
    again, back = import_peft(tmp_path / "ours", backbone)
    assert again.shapes(backbone) == delta.shapes(backbone)
    batch = zoo.batch_of()
    first, second = (hidden(backbone, batch, frame(backbone, d.edits(backbone, p))) for d, p in ((delta, params), (again, back)))
    assert (first - second).abs().max() < TOLERANCE
    model = peft.PeftModel.from_pretrained(zoo.model_of(kind, dtype=torch.float32), tmp_path / "ours").eval()
    assert ((states(model, batch) - first) * batch.mask[..., None]).abs().max() < TOLERANCE
    assert numbers(model) == delta.size(backbone)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("start", ["pissa", "pissa_niter_4", "olora", "mica"])
def test_starts_that_change_the_base_weights_are_refused(start, tmp_path):
    made("bert", LoraConfig(r=2, init_lora_weights=start, **QV), tmp_path)
    with pytest.raises(ValueError, match=f"init_lora_weights='{start}'.*path_initial_model_for_weight_conversion"):
        import_peft(tmp_path, zoo.backbone_of("bert"))


def test_a_converted_pissa_adapter_is_read(tmp_path):
    torch.manual_seed(0)
    model = peft.get_peft_model(zoo.model_of("bert", dtype=torch.float32), LoraConfig(r=2, init_lora_weights="pissa", **QV))
    model.peft_config["default"].init_lora_weights = True
    model.save_pretrained(tmp_path / "start")
    model.peft_config["default"].init_lora_weights = "pissa"
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.add_(0.3 * torch.randn_like(parameter))
    batch, backbone = zoo.batch_of(), zoo.backbone_of("bert", dtype=torch.float32)
    theirs = states(model.eval(), batch)
    model.save_pretrained(tmp_path / "plain", path_initial_model_for_weight_conversion=tmp_path / "start")
    delta, params = import_peft(tmp_path / "plain", backbone)
    ours = hidden(backbone, batch, frame(backbone, delta.edits(backbone, params)))
    assert delta.rank == 4 and ((theirs - ours) * batch.mask[..., None]).abs().max() < 1e-4


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"bias": "all"}, "bias='all'.*trains biases"),
        ({"bias": "lora_only"}, "bias='lora_only'"),
        ({"lora_bias": True}, "lora_bias=True"),
        ({"trainable_token_indices": [3]}, r"trainable_token_indices=\[3\]"),
        ({"modules_to_save": ["LayerNorm"]}, "LayerNorm"),
        ({"modules_to_save": ["word_embeddings"]}, "word_embeddings"),
        ({"target_modules": ["query", "word_embeddings"]}, "word_embeddings"),
        ({"layer_replication": [[0, 1], [0, 2]]}, "layer_replication"),
    ],
)
def test_what_is_no_lora_of_the_blocks_is_refused_by_its_name(settings, words, tmp_path):
    model = peft.get_peft_model(zoo.model_of("bert", dtype=torch.float32), LoraConfig(**{"r": 2} | QV | settings))
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=words) as refusal:
        import_peft(tmp_path, zoo.backbone_of("bert"))
    assert "\n" not in str(refusal.value)


def fields():
    return [(method, entry.name) for method, config in CONFIGS.items() for entry in dataclasses.fields(config)]


@pytest.mark.parametrize(("method", "name"), fields(), ids="-".join)
def test_every_setting_of_peft_is_read_idle_or_refused(method, name):
    """A setting of a later PEFT falls under the last case: it is refused until someone says what it means."""
    config = {key: value for key, value in CONFIGS[method]().to_dict().items() if key not in ("peft_type", "task_type")}
    base = json.loads(json.dumps(config | {"peft_type": method, "task_type": None}, default=list))
    assert checked(base) is base, "what PEFT writes by default must pass"
    if name in _READ[""] | _READ[method]:
        with pytest.raises(ValueError, match=f"expected {name} of a PEFT|expected positive {name}"):
            checked(base | {name: 1.5j})
    elif name not in _IDLE[""] | _IDLE[method]:
        for value in (True, 3, "other", ["x"], {"x": 1}):
            with pytest.raises(ValueError, match=f"without {name}, got {name}="):
                checked(base | {name: value})


def test_a_setting_that_nobody_knows_is_refused_when_set():
    assert checked({"peft_type": "IA3", "invented": None})
    with pytest.raises(ValueError, match="without invented, got invented=2; merge it"):
        checked({"peft_type": "IA3", "invented": 2})


@pytest.fixture
def folder(tmp_path):
    made("bert", LoraConfig(r=2, **QV), tmp_path)
    return tmp_path


def rewritten(folder, **settings):
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | settings), encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"layers_to_transform": [0]}, "expected no tensors of encoder.layer.1.attention.self.query"),
        ({"target_modules": ["query", "value", "key"]}, "expected the tensors of encoder.layer.0.attention.self.key"),
        ({"target_modules": "*query"}, "expected a regular expression"),
        ({"target_modules": None}, "expected no tensors"),
        ({"r": 4}, r"expected numbers of shape \(4, 16\)"),
        ({"r": "2"}, "expected r of a PEFT LORA adapter to be int, got '2'"),
        ({"r": True}, "expected r of a PEFT LORA adapter"),
        ({"lora_alpha": 0}, "expected positive lora_alpha"),
        ({"rank_pattern": {"query": 1.5}}, "expected positive r and rank_pattern"),
        ({"peft_type": "LOHA"}, "expected a PEFT method among LORA, IA3, LOKR"),
        ({"peft_type": "IA3"}, "expected a PEFT IA3 adapter without init_lora_weights"),
    ],
)
def test_settings_that_disagree_with_the_tensors_are_refused(settings, words, folder):
    with pytest.raises(ValueError, match=words):
        import_peft(rewritten(folder, **settings), zoo.backbone_of("bert"))


@pytest.mark.parametrize("text", ["[]", "null", "{", "3", '"LORA"', "\x00"])
def test_a_configuration_that_is_none_is_refused(text, folder):
    (folder / "adapter_config.json").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match="expected a PEFT"):
        import_peft(folder, zoo.backbone_of("bert"))


def test_every_tensor_has_its_place(folder):
    from safetensors.torch import load_file, save_file

    file = folder / "adapter_model.safetensors"
    tensors = load_file(file)
    name = "base_model.model.encoder.layer.0.attention.self.query.lora_A.weight"
    cases = {
        "found none or a part": {k: v for k, v in tensors.items() if k != name},
        "got vision.layer.query.lora_A.weight": tensors | {"vision.layer.query.lora_A.weight": tensors[name] + 1},
        "got base_model.model.encoder.layer.0.new": tensors | {"base_model.model.encoder.layer.0.new": tensors[name] + 1},
        "got NaN or infinity": tensors | {name: tensors[name] * float("nan")},
        "got base_model.model.vision.encoder": {k.replace("encoder", "vision.encoder"): v for k, v in tensors.items()},
    }
    for words, changed in cases.items():
        save_file(changed, file)
        with pytest.raises(ValueError, match=words):
            import_peft(folder, zoo.backbone_of("bert"))


def test_another_shape_of_model_is_refused(tmp_path):
    backbone = zoo.backbone_of("llama", dtype=torch.float32)
    for config, words in (
        (PrefixTuningConfig(**SLOTS), "num_attention_heads=2.*got 4|token_dim=8.*got 16"),
        (PromptTuningConfig(**SLOTS), None),
    ):
        folder = tmp_path / config.peft_type.value
        made("bert", config, folder)
        if words is not None:
            with pytest.raises(ValueError, match=words):
                import_peft(folder, backbone)
        else:
            assert import_peft(folder, backbone)[0].length == 3
    rewritten(folder, num_transformer_submodules=2)
    with pytest.raises(ValueError, match="num_transformer_submodules=2"):
        import_peft(folder, backbone)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_frozen_matrices_that_no_seed_draws_are_refused(tmp_path):
    from safetensors.torch import load_file, save_file

    made("bert", VeraConfig(r=3), tmp_path)
    file = tmp_path / "adapter_model.safetensors"
    save_file(load_file(file) | {"base_model.vera_A": torch.zeros(3, 16)}, file)
    with pytest.raises(ValueError, match="expected base_model.vera_A .* as projection_prng_key=0 draws it"):
        import_peft(tmp_path, zoo.backbone_of("bert"))
    made("bert", VeraConfig(r=3, target_modules=r".*(0\.attention\.self\.query|1\.attention\.self\.value)"), tmp_path)
    with pytest.raises(ValueError, match="expected VeRA in the same blocks"):
        import_peft(tmp_path, zoo.backbone_of("bert"))


def test_entries_that_no_seed_draws_are_refused(tmp_path):
    made("bert", ShiraConfig(r=2), tmp_path)
    with pytest.raises(ValueError, match="random_seed=None draws, got others; train it with a random_seed"):
        import_peft(tmp_path, zoo.backbone_of("bert"))


def test_modules_that_differ_make_a_combination(tmp_path):
    kind, config, settings = CASES["ranks"]
    made(kind, config(**settings), tmp_path)
    delta, _ = import_peft(tmp_path, zoo.backbone_of(kind))
    assert delta == Combined(
        (
            ("lora-0", LoRA(3, 5, ("q",))),
            ("lora-1", LoRA(2, 5, ("v",), (0,))),
            ("lora-2", LoRA(1, 5, ("v",), (1,))),
        )
    )


def test_the_pooler_of_a_base_model_is_left_out_with_one_warning(tmp_path):
    model = made("bert", LoraConfig(r=2, target_modules="all-linear"), tmp_path)
    backbone, batch = wrap(zoo.model_of("bert", dtype=torch.float32)), zoo.batch_of()
    with pytest.warns(UserWarning, match=r"64 numbers of .* stand on the hidden states \(pooler.dense") as warned:
        delta, params = import_peft(tmp_path, backbone)
    assert len(warned) == 1
    ours = hidden(backbone, batch, frame(backbone, delta.edits(backbone, params)))
    assert ((ours - states(model, batch)) * batch.mask[..., None]).abs().max() < TOLERANCE
    assert delta.size(backbone) + 64 == numbers(model)


def test_ia3_scales_the_side_that_peft_scales():
    assert IA3().inputs == ("down",) and IA3(targets=("o",), inputs=("o",)).shapes(zoo.backbone_of("bert")) == {
        "0.attention.o": (16,),
        "1.attention.o": (16,),
    }
    with pytest.raises(ValueError, match="expected inputs of whole maps"):
        IA3(targets=("k",), inputs=("k",)).shapes(zoo.backbone_of("gpt2"))
    with pytest.raises(ValueError, match="expected IA3 targets"):
        IA3(targets=())
