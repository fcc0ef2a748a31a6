"""Every supported architecture computes what the library computes; damaged or foreign models are refused."""

import json

import numpy as np
import pytest
import torch
import zoo
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, BertTokenizer

from tuning import Batch, Edits, Prompt, encode, features, load, wrap
from tuning.architectures import ARCHITECTURES
from tuning.backbones import _check_kind, frame, hidden


def test_every_architecture_is_in_the_zoo():
    assert zoo.KINDS.keys() == ARCHITECTURES.keys()


@pytest.mark.parametrize("kind", zoo.KINDS)
def test_states_are_the_library_s(kind):
    backbone, batch = zoo.backbone_of(kind), zoo.batch_of()
    ours = hidden(backbone, batch, frame(backbone))
    theirs = zoo.library_states(zoo.model_of(kind), batch)
    # The library's models without learned positions round through float32 inside the normalisation (and the softmax).
    tolerance = 1e-5 if backbone.layout.first_position is None else 1e-13
    assert theirs.shape == ours.shape
    assert ((theirs - ours) * zoo.real(backbone, batch)).abs().max() < tolerance


@pytest.mark.parametrize("kind", zoo.KINDS)
def test_features_do_not_depend_on_padding_or_company(kind):
    backbone, batch = zoo.backbone_of(kind), zoo.batch_of()
    together = features(backbone, batch)
    wider = Batch(
        torch.cat([batch.tokens, batch.tokens], 1),
        torch.cat([batch.mask, batch.mask & False], 1),
        batch.labels,
    )
    assert (features(backbone, wider) - together).abs().max() < 1e-12
    for i in range(len(batch.labels)):
        length = int(batch.mask[i].sum())
        alone = Batch(batch.tokens[i : i + 1, :length], batch.mask[i : i + 1, :length], batch.labels[i : i + 1])
        assert (features(backbone, alone)[0] - together[i]).abs().max() < 1e-12


@pytest.mark.parametrize("kind", zoo.KINDS)
def test_features_are_the_mean_or_the_last_token(kind):
    backbone, batch = zoo.backbone_of(kind), zoo.batch_of()
    states, found = hidden(backbone, batch, frame(backbone)), features(backbone, batch)
    for i, length in enumerate(batch.mask.sum(-1).tolist()):
        one = 1 if backbone.kind == "encoder-decoder" else length
        expected = states[i, :length].mean(0) if backbone.kind == "encoder" else states[i, one - 1]
        assert (found[i] - expected).abs().max() < 1e-13


@pytest.mark.parametrize("kind", zoo.KINDS)
def test_roles_reach_the_keys_and_the_values(kind):
    """A constant added to what role "v" computes moves the values by it and no key, and conversely."""
    backbone, batch = zoo.backbone_of(kind), zoo.batch_of()
    plain = frame(backbone, record_keys=True)
    hidden(backbone, batch, plain)
    for role, changed, kept in (("k", 0, 1), ("v", 1, 0), ("q", None, None)):
        linear = backbone.linear(0, role)
        push = torch.linspace(1, 2, linear.d_out, dtype=torch.float64)
        full = push if linear.rows is None else torch.zeros(linear.whole).double().index_add(0, linear.rows, push)
        pushed = frame(backbone, Edits(outputs={linear.path: (lambda x, y, w=full: y + w,)}), record_keys=True)
        moved = hidden(backbone, batch, pushed)
        assert not torch.equal(moved, hidden(backbone, batch, frame(backbone)))
        before, after = plain.keys[0], pushed.keys[0]
        if role == "q":
            assert torch.equal(after[0], before[0]) and torch.equal(after[1], before[1])
            continue
        assert torch.equal(after[kept], before[kept])
        if role == "k" and backbone.layout.head_norms:
            assert (after[0] - before[0]).abs().max() > 0.1
            doubled = frame(backbone, Edits(outputs={linear.path: (lambda x, y: 2 * y,)}), record_keys=True)
            hidden(backbone, batch, doubled)
            assert (doubled.keys[0][0] - before[0]).abs().max() < 1e-3, "normalised keys have no length, up to eps"
            continue
        # Rotary keys are turned after the push, which keeps the length of what was added at each position.
        added = (after[changed] - before[changed]).transpose(1, 2)
        expected = push.view(added.shape[2:]).expand_as(added)
        if role == "v" or backbone.layout.first_position is not None:
            assert (added - expected).abs().max() < 1e-12
        else:
            assert (added.norm(dim=-1) - expected.norm(dim=-1)).abs().max() < 1e-6


@pytest.mark.parametrize("kind", zoo.KINDS)
def test_ports_are_what_is_added_to_the_stream(kind):
    """The residual stream is rebuilt from what the ports put out, sum by sum."""
    backbone, batch = zoo.backbone_of(kind), zoo.batch_of()
    run = frame(backbone, record=True)
    states = hidden(backbone, batch, run)
    assert [port.key for port in backbone.ports][:4] == ["0.attention", "0.mlp", "1.attention", "1.mlp"]
    stream, seconds = run.outputs["embedding"], backbone.stacks[1:]
    assert [port.key for port in backbone.ports][4:] == [f"{b}.{s}" for row, own in seconds for b in own for s in row.sites]
    for port in backbone.ports:
        if seconds and port.key == "2.attention":  # the decoder's stream begins anew
            assert (run.inputs["memory"] - stream).abs().max() < 1e-12
            assert torch.equal(run.inputs["crossing"], run.outputs["memory"])
            stream = run.outputs["start"]
        parallel = getattr(backbone.model.config, "use_parallel_residual", False) and port.site == "mlp"
        h = run.inputs[port.key]
        expected = stream - run.outputs[f"{port.block}.attention"] if parallel else stream
        assert (h - expected).abs().max() < 1e-12
        stream = stream + run.outputs[port.key]
        if not backbone.layout.pre_norm:
            assert (run.inputs[f"{port.key}_norm"] - stream).abs().max() < 1e-12
            stream = run.outputs[f"{port.key}_norm"]
    if backbone.layout.pre_norm:
        assert (run.inputs["final"] - stream).abs().max() < 1e-12
        stream = run.outputs["final"]
    assert torch.equal(states, stream)


@pytest.mark.parametrize("kind", zoo.TWO_STACKS)
def test_a_decoder_reads_its_encoder_through_ports_of_its_own(kind):
    """Values of "cross" are maps of the encoder's last states; depths may differ; one embedding module may serve both stacks."""
    model = AutoModel.from_config(zoo.config_of(kind, num_decoder_layers=1), attn_implementation="eager").double().eval()
    plain = zoo.library_states(model, zoo.batch_of())
    model.set_input_embeddings(model.shared)
    backbone, batch = wrap(model), zoo.batch_of()
    assert [port.key for port in backbone.ports][4:] == ["2.attention", "2.cross", "2.mlp"]
    run = frame(backbone, record=True, record_keys=True)
    assert (hidden(backbone, batch, run) - plain).abs().max() < 1e-5
    for what, role in enumerate("kv"):
        linear = backbone.linear(2, role, "cross")
        assert linear.path == f"decoder.block.0.layer.1.EncDecAttention.{role}"
        expected = backbone.model.get_submodule(linear.path)(run.outputs["memory"]).unflatten(-1, (4, 6)).transpose(1, 2)
        assert torch.equal(run.keys["2.cross"][what], expected)
    prompted = features(backbone, batch, Prompt(2).edits(backbone, Prompt(2).initial(backbone, 0)))
    assert prompted.shape == (5, 16) and (prompted - plain[:, 0]).abs().max() > 1e-3
    with pytest.raises(ValueError, match=r"expected a linear map of t5.* \(q, k, v, o, .*\), got 'qkv'"):
        backbone.linear(2, "qkv", "cross")


def test_fingerprints_tell_weights_and_not_precision_apart():
    prints = {zoo.backbone_of("bert", seed, dtype).fingerprint for seed in (0, 1) for dtype in (torch.float32, torch.float64)}
    assert len(prints) == 2
    assert zoo.backbone_of("bert").fingerprint == zoo.backbone_of("bert").fingerprint


def test_an_unsupported_architecture_is_refused_with_the_list():
    config = AutoConfig.for_model("albert", **zoo.COMMON, embedding_size=8)
    with pytest.raises(ValueError, match="expected a model of one of the kinds bert, roberta, .* got 'albert'"):
        wrap(AutoModel.from_config(config))


def test_what_works_instead_is_said():
    """Another encoder-decoder has a loss for the probes; a model of images and texts has a language model inside."""
    with pytest.raises(ValueError, match="got 'bart' .* deltas know T5, .* the probes .* take any loss"):
        _check_kind({"model_type": "bart", "is_encoder_decoder": True}, "a folder")
    with pytest.raises(ValueError, match="got 'gemma3' .* save its language model by itself, which is a gemma3_text"):
        _check_kind({"model_type": "gemma3"}, "a folder")


WINDOWED = {  # settings with a window of w positions, in the last block or in both
    "qwen2": lambda w: {"use_sliding_window": True, "sliding_window": w, "max_window_layers": 1},
    "qwen3": lambda w: {"use_sliding_window": True, "sliding_window": w, "max_window_layers": 1},
    "smollm3": lambda w: {"use_sliding_window": True, "sliding_window": w, "no_rope_layers": [1, 0]},
    "gemma2": lambda w: {"sliding_window": w, "layer_types": ["full_attention", "sliding_attention"]},
    "gemma3_text": lambda w: {"sliding_window": w, "layer_types": ["full_attention", "sliding_attention"]},
    "modernbert": lambda w: {"local_attention": 2 * (w - 1)},
    "mistral": lambda w: {"sliding_window": w},
    "phi3": lambda w: {"sliding_window": w},
}


@pytest.mark.parametrize("kind", WINDOWED)
@pytest.mark.parametrize("window", [1, 4, 6, 7, 8])
def test_a_sliding_window_is_the_library_s(kind, window):
    """Windows shorter than the texts, as long as them and longer."""
    settings = zoo.KINDS[kind] | WINDOWED[kind](window)
    config = AutoConfig.for_model(kind, **settings, max_position_embeddings=40, pad_token_id=0)
    torch.manual_seed(0)
    model, batch = AutoModel.from_config(config, attn_implementation="eager").double().eval(), zoo.batch_of()
    for parameter in model.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    batch = batch._replace(mask=torch.ones_like(batch.mask))  # the library's rows of padding that see no key are NaN
    with torch.no_grad():
        theirs = model(input_ids=batch.tokens, attention_mask=batch.mask.long()).last_hidden_state
        backbone = wrap(model)
        ours = hidden(backbone, batch, frame(backbone))
        assert backbone.windows[1] == window and (theirs - ours).abs().max() < 1e-5
        for module in backbone.attentions:
            module.window = None
        without = hidden(backbone, batch, frame(backbone))
    assert bool((without - ours).abs().max() > 1e-3) == (window < 7)


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({"layer_types": ["full_attention", "chunked_attention"]}, "full or of a sliding window .* got 'chunked_attention'"),
        ({"use_bidirectional_attention": True}, "reads earlier tokens only .* got use_bidirectional_attention"),
        ({"is_decoder": True}, "an encoder that was made a decoder"),
    ],
)
def test_attention_of_another_kind_is_refused(setting, words):
    """What the attention of this family may be but is not here is named."""
    model = zoo.model_of("gemma3_text")
    for name, value in setting.items():
        setattr(model.config, name, value)
    with pytest.raises(ValueError, match=words):
        wrap(model)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(value):
    model = zoo.model_of("bert")
    model.encoder.layer[1].output.dense.weight.data[0, 0] = value
    with pytest.raises(ValueError, match="expected finite weights .* in encoder.layer.1.output.dense.weight"):
        wrap(model)


def test_a_t5_in_float16_is_refused(tmp_path):
    """The library keeps half of its mlp in float32, where float16 overflows; bfloat16 is of one precision."""
    zoo.model_of("t5", dtype=torch.float32).save_pretrained(tmp_path)
    mixed, whole = (AutoModel.from_pretrained(tmp_path, dtype=dtype) for dtype in (torch.float16, torch.bfloat16))
    with pytest.raises(ValueError, match="expected weights of one precision .* float16 and float32; load it in bfloat16"):
        wrap(mixed)
    assert wrap(whole).dtype == torch.bfloat16


@pytest.fixture
def folder(tmp_path):
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{i}" for i in range(45))]
    (tmp_path / "vocab.txt").write_text("\n".join(words), encoding="utf-8")
    BertTokenizer(vocab=str(tmp_path / "vocab.txt")).save_pretrained(tmp_path)
    zoo.model_of("bert", dtype=torch.float32).save_pretrained(tmp_path)
    return tmp_path


def test_a_folder_is_read_in_the_asked_precision(folder):
    backbone = load(str(folder), dtype=torch.float64)
    assert backbone.dtype == torch.float64 and backbone.fingerprint == load(str(folder)).fingerprint
    assert backbone.fingerprint == zoo.backbone_of("bert", dtype=torch.float32).fingerprint


def test_text_is_encoded_as_the_tokenizer_says(folder):
    backbone = load(str(folder))
    first, second = ["w1 w2 w3", "w4", "w5 w6"], ["w7", "w8 w9 w10", "w11"]
    batch = encode(backbone, first, second, [0, 1, 2], length=16)
    theirs = backbone.tokenizer(first, second, padding=True, return_tensors="pt")
    assert torch.equal(batch.mask, theirs["attention_mask"].bool())
    assert torch.equal(batch.tokens * batch.mask, theirs["input_ids"] * batch.mask)
    assert batch.labels.tolist() == [0, 1, 2] and batch.tokens.shape == (3, 7)
    # The segments, which a batch does not carry, are recovered from the separators.
    original = AutoModel.from_pretrained(folder, attn_implementation="eager").eval()
    states = original(**theirs).last_hidden_state
    ours = hidden(backbone, batch, frame(backbone))
    assert ((states - ours) * batch.mask[..., None]).abs().max() < 1e-5
    assert encode(backbone, ["w1 " * 50], length=12).tokens.shape == (1, 12)
    assert encode(backbone, ["w1 " * 50], length=500).tokens.shape == (1, 40), "the model has 40 positions"
    with pytest.raises(ValueError, match="as many labels"):
        encode(backbone, first, None, [0])


def test_a_delta_that_needs_more_positions_than_there_are_is_refused(folder):
    backbone = load(str(folder))
    delta = Prompt(10, shift_positions=True)
    batch = encode(backbone, ["w1 " * 50], length=40)
    with pytest.raises(ValueError, match="expected at most 30 tokens"):
        features(backbone, batch, delta.edits(backbone, delta.initial(backbone, 0)))


def test_damaged_folders_are_refused_in_one_sentence(folder, tmp_path):
    with pytest.raises(ValueError, match="found none"):
        load(str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match="expected a model folder or a reachable hub name"):
        load("no-such-model-here")
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="damaged file"):
        load(str(folder))
    weights.write_bytes(whole)
    tensors = load_file(weights)
    kept = {name: value for name, value in tensors.items() if "layer.1.output.dense" not in name}
    save_file(kept, weights, metadata={"format": "pt"})
    with pytest.raises(ValueError, match="2 are missing"):
        load(str(folder))
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "bart"}), encoding="utf-8")
    with pytest.raises(ValueError, match="got 'bart'"):
        load(str(folder))


def test_stories_is_read_and_predicts_as_the_library_does(shared):
    folder = str(shared / "models" / "stories260K")
    backbone = load(folder)
    assert (backbone.kind, backbone.blocks, backbone.width, backbone.key_value_heads) == ("decoder", 5, 64, 4)
    batch = encode(backbone, ["Once upon a time, there was a little girl.", "The dog", ""])
    assert batch.mask.any(-1).all(), "an empty text still has one token"
    states = AutoModel.from_pretrained(folder)(input_ids=batch.tokens, attention_mask=batch.mask.long()).last_hidden_state
    ours = hidden(backbone, batch, frame(backbone))
    assert ((states - ours) * batch.mask[..., None]).abs().max() < 1e-4, "float32, states of size 10"
    last = states[torch.arange(3), batch.mask.sum(-1) - 1]
    assert (features(backbone, batch) - last).abs().max() < 1e-4


def test_minilm_knows_which_sentences_are_alike():
    try:
        backbone = load("minilm")
    except ValueError as error:
        pytest.skip(str(error))
    texts = [
        "A man is playing a guitar.",
        "Someone plays an instrument.",
        "The stock market fell on Tuesday.",
    ]
    with torch.no_grad():
        x = features(backbone, encode(backbone, texts)).numpy()
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    alike = x @ x.T
    assert backbone.blocks == 6 and backbone.width == 384
    assert alike[0, 1] > 0.4 > alike[0, 2] + 0.2
