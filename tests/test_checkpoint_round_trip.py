"""What is saved is what is loaded; everything else is refused in one sentence and leaves nothing behind."""

import dataclasses
import json

import pytest
import torch
import zoo
from safetensors.torch import load_file, save_file

from tuning import IA3, Adapter, BitFit, LoRA, PortBias
from tuning.checkpoints import load, save
from tuning.deltas import KINDS, build, parse, record_of, text_of
from tuning.subjects import subject


@pytest.mark.parametrize("kind", ["bert", "llama"])
@pytest.mark.parametrize("name", zoo.DELTAS)
def test_round_trip(kind, name, tmp_path):
    backbone, batch = zoo.backbone_of(kind), zoo.batch_of()
    made = zoo.subject_of(backbone, zoo.DELTAS[name])
    params = zoo.moved(made.initial)
    file = save(tmp_path / "deep" / "delta.safetensors", made, params, {"task": "none", "n": 3})
    again = load(file, zoo.backbone_of(kind))
    assert again.subject.delta == made.delta and again.provenance == {"task": "none", "n": 3}
    assert list(again.params) == list(params) and all(torch.equal(again.params[k], params[k]) for k in params)
    assert all(torch.equal(again.subject.initial[k], made.initial[k]) for k in params)
    assert torch.equal(again.subject.outputs(again.params, batch), made.outputs(params, batch))
    assert [entry.name for entry in file.parent.iterdir()] == ["delta.safetensors"]


def test_a_trained_readout_comes_back(tmp_path):
    backbone, batch = zoo.backbone_of("bert"), zoo.batch_of()
    made = subject(backbone, LoRA(1), zoo.subject_of(backbone, LoRA(1)).readout, 4, train_readout=True)
    params = zoo.moved(made.initial)
    again = load(save(tmp_path / "a.safetensors", made, params, {}), backbone)
    assert torch.equal(again.subject.outputs(again.params, batch), made.outputs(params, batch))
    assert again.subject.seed == 4


@pytest.fixture
def saved(tmp_path):
    backbone = zoo.backbone_of("bert")
    made = zoo.subject_of(backbone, LoRA(2))
    return backbone, made, save(tmp_path / "delta.safetensors", made, made.initial, {})


def rewritten(file, record=None, tensors=None):
    from safetensors import safe_open

    with safe_open(file, framework="pt") as opened:
        old = json.loads(opened.metadata()["record"])
    save_file(load_file(file) | (tensors or {}), file, metadata={"record": json.dumps(old | (record or {}))})


def test_another_backbone_is_refused(saved):
    _, _, file = saved
    with pytest.raises(ValueError, match="load that backbone"):
        load(file, zoo.backbone_of("bert", seed=9))


def test_a_truncated_file_is_refused(saved):
    backbone, _, file = saved
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ValueError, match="damaged file"):
        load(file, backbone)


def test_an_absent_or_foreign_file_is_refused(saved, tmp_path):
    backbone, _, _ = saved
    with pytest.raises(ValueError, match="found none"):
        load(tmp_path / "nothing", backbone)
    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="expected a checkpoint of format"):
        load(tmp_path / "other.safetensors", backbone)


def test_numbers_that_are_not_finite_are_refused_both_ways(saved):
    backbone, made, file = saved
    name = next(iter(made.initial))
    bad = made.initial | {name: made.initial[name] * float("nan")}
    before = file.read_bytes()
    with pytest.raises(ValueError, match="expected finite numbers"):
        save(file, made, bad, {})
    assert file.read_bytes() == before and len(list(file.parent.iterdir())) == 1
    rewritten(file, tensors={f"params/{name}": bad[name]})
    with pytest.raises(ValueError, match="expected finite numbers"):
        load(file, backbone)


def test_an_unknown_delta_and_foreign_numbers_are_refused(saved):
    backbone, _, file = saved
    rewritten(file, record={"delta": {"kind": "LoRA", "rank": 3, "alpha": None, "targets": ["q", "v"]}})
    with pytest.raises(ValueError, match="names and shapes"):
        load(file, backbone)
    rewritten(file, record={"delta": {"kind": "Telepathy"}})
    with pytest.raises(ValueError, match="expected a delta among"):
        load(file, backbone)
    with pytest.raises(ValueError, match="expected a setting of LoRA among rank"):
        build({"kind": "LoRA", "colour": 1})


def test_a_failed_write_keeps_the_old_file(saved, monkeypatch):
    _, made, file = saved
    before = file.read_bytes()

    def broken(*_, **__):
        raise OSError("planted")

    monkeypatch.setattr("tuning.checkpoints.os.replace", broken)
    with pytest.raises(OSError, match="planted"):
        save(file, made, zoo.moved(made.initial), {})
    assert file.read_bytes() == before and len(list(file.parent.iterdir())) == 1


@pytest.mark.parametrize("name", zoo.DELTAS)
def test_records_are_json(name):
    delta = zoo.DELTAS[name]
    assert build(json.loads(json.dumps(record_of(delta)))) == delta


def test_every_kind_of_delta_is_in_the_zoo():
    assert {type(delta) for delta in zoo.DELTAS.values()} == set(KINDS.values())


@pytest.mark.parametrize("kind", ["adapter", "Adapter"])
def test_mappings_go_by_either_name(kind):
    assert build({"kind": kind, "bottleneck": 2, "ports": ["mlp"], "blocks": [0, 1]}) == Adapter(2, ports=("mlp",), blocks=(0, 1))


@pytest.mark.parametrize("architecture", ["bert", "gpt2"])
def test_a_site_stands_for_all_of_its_ports(architecture):
    backbone = zoo.backbone_of(architecture)
    keys = tuple(port.key for port in backbone.ports if port.site == "mlp")
    assert build({"kind": "PortBias", "ports": "mlp"}).shapes(backbone) == PortBias(ports=keys).shapes(backbone)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"rank": 2}, "expected a delta among prompt, .*, got None"),
        ({"kind": "Palette"}, "expected a delta among .*, got 'Palette'"),
        ({"kind": "LoRA"}, "LoRA needs a value of rank, got none: write lora:rank=4"),
        ({"kind": "LoRA", "rank": "four"}, "expected settings of LoRA of the right kinds"),
        ({"kind": "BitFit", "rank": 1}, "expected a setting of BitFit among blocks, got 'rank'"),
    ],
)
def test_mappings_that_name_no_delta_are_refused(spec, words):
    with pytest.raises(ValueError, match=words) as caught:
        build(spec)
    assert "\n" not in str(caught.value)


def test_deltas_have_short_texts():
    assert parse("lora:rank=4,targets=q+v,alpha=8") == LoRA(4, alpha=8.0, targets=("q", "v"))
    mix = parse("prefix:length=2,shift_positions=true & adapter:bottleneck=3,ports=mlp")
    assert [label for label, _ in mix.parts] == ["prefix", "adapter"] and mix.parts[0][1].shift_positions
    assert dataclasses.astuple(parse("prefix:length=2,blocks=0+1"))[2] == (0, 1)
    for text, words in [
        ("magic", "expected a delta among"),
        ("lora:size=3", "expected a setting of lora"),
        ("lora", "lora needs a value of rank"),
        ("lora:rank=many", "expected a value of kind int"),
    ]:
        with pytest.raises(ValueError, match=words):
            parse(text)


TOLD = {name: delta for name, delta in zoo.DELTAS.items() if name != "stack"} | {
    "blocks": LoRA(4, alpha=2.5, targets=("qkv", "gate"), blocks=(0, 2, 3, 4, 7)),
    "sides": IA3(targets=("k", "o"), inputs=(), blocks=(1,)),
    "biases": BitFit(blocks=(2, 3)),
    "ports": PortBias(ports=("mlp", "0.attention")),
    "half": Adapter(2, blocks=(6, 7, 8)),
}


@pytest.mark.parametrize("name", TOLD)
def test_a_text_names_its_delta(name):
    assert parse(text_of(TOLD[name])) == TOLD[name]


def test_ranges_are_blocks_and_what_has_no_text_is_refused():
    assert parse("bitfit:blocks=0+2-5") == BitFit(blocks=(0, 2, 3, 4, 5))
    assert text_of(Adapter(2, blocks=(6, 7, 8))) == "adapter:bottleneck=2,blocks=6-8"
    with pytest.raises(ValueError, match="expected a value of kind tuple"):
        parse("bitfit:blocks=5-2")
    with pytest.raises(ValueError):
        text_of(zoo.DELTAS["stack"])
    with pytest.raises(ValueError, match="expected blocks between 0 and 1"):
        parse("bitfit:blocks=2").shapes(zoo.backbone_of("bert"))


@pytest.mark.parametrize("kind", ["bert", "llama", "gpt2"])
@pytest.mark.parametrize("name", [name for name, delta in zoo.DELTAS.items() if hasattr(delta, "blocks")])
def test_blocks_leave_only_what_is_inside_them(kind, name):
    backbone, delta = zoo.backbone_of(kind), zoo.DELTAS[name]
    inside = {name: shape for name, shape in delta.shapes(backbone).items() if name.startswith("1.")}
    assert dataclasses.replace(delta, blocks=(1,)).shapes(backbone) == inside and inside
