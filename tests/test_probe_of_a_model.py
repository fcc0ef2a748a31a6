"""`costate probe MODEL` measures a model's adapter on the user's rows, keeps it in every form, and refuses in one sentence."""

import html.parser
import json
import re

import pandas
import pytest
import torch
from chats import speaker, tokenizer_of
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import LlamaForSequenceClassification, T5Config, T5ForConditionalGeneration

from costate import main
from probes.live.attached import attach
from tuning.conversations import conversations

ROWS = [
    [("which colour", "red"), ("again", "blue green")],
    [("which colour again", "green green")],
    [("good", "bad over")],
]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a model, a trained and an untrained adapter, and rows of messages."""
    found = tmp_path_factory.mktemp("model")
    speaker().save_pretrained(found / "base")
    tokenizer_of().save_pretrained(found / "base")
    for name, trained in (("trained", True), ("fresh", False)):
        torch.manual_seed(1)
        made = get_peft_model(speaker(), LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"))
        for key, x in made.named_parameters():
            if trained and "lora_B" in key:
                torch.nn.init.normal_(x.data, std=0.02)
        made.save_pretrained(found / name)
    lines = [
        {
            "messages": [
                {"role": role, "content": text} for turn in row for role, text in zip(("user", "assistant"), turn, strict=True)
            ]
        }
        for row in ROWS
    ]
    (found / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return found


def asked(place, *more, adapter="trained"):
    return ["probe", str(place / "base"), "--adapter", str(place / adapter), "--data", str(place / "rows.jsonl"), *more]


def test_everything_is_measured_and_kept(place, tmp_path, capsys):
    """Loss, modules and ranks agree with the library's own calls; table, JSON, Parquet, figure and page hold them."""
    files = {kind: tmp_path / f"found.{kind}" for kind in ("json", "parquet", "svg", "html")}
    kept = [
        f"--{flag}={files[kind]}" for flag, kind in (("out", "json"), ("table", "parquet"), ("figure", "svg"), ("html", "html"))
    ]
    assert main(asked(place, *kept)) == 0
    said, heard = capsys.readouterr()
    found = json.loads(files["json"].read_text(encoding="utf-8"))
    model = PeftModel.from_pretrained(speaker(), place / "trained", is_trainable=True).eval()
    attached = attach(model, conversations(place / "rows.jsonl", tokenizer_of(), batch_size=4).batches)
    assert found["whole"]["loss"] == pytest.approx(attached.mean_loss(), rel=1e-6)
    values = torch.linalg.eigvalsh(attached.hessian().dense())
    assert found["whole"]["largest eigenvalue"]["value"] == pytest.approx(float(values[-1]), rel=0.02)
    assert found["adapter health"]["untrained modules"] == 0 and len(found["modules"]) == 4
    assert found["linear regime"]["verdict"].startswith("inside")
    assert set(found["rank pattern"]["rank_pattern"].values()) <= {1, 2}
    frame = pandas.read_parquet(files["parquet"])
    assert list(frame["place"]) == [row["place"] for row in found["modules"]] and (frame["reach"] >= 0).all()
    assert "modules of the largest reach" in said and re.search(r"forecast: \d+ products of", heard)
    page = files["html"].read_text(encoding="utf-8")
    html.parser.HTMLParser().feed(page)
    assert page.startswith("<!doctype html>") and "<svg" in page and "rank_pattern=" in page
    assert not re.search(r'(src|href)="(?!#|data:)', page)  # nothing is loaded from elsewhere


def test_untrained_adapters_get_no_verdict(place, capsys):
    """An adapter with B = 0 is said to be equal to the base model; no rank and no regime is told."""
    assert main(asked(place, "--json", adapter="fresh")) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["adapter health"]["untrained modules"] == 4 and "rank pattern" not in found and "linear regime" not in found
    assert any("no verdict" in note for note in found["notes"])


def test_a_model_is_looked_at_before_training_and_without_adapter(place, capsys):
    """Without an adapter a fresh LoRA is put on; with --params the model's own numbers are measured."""
    plain = ["probe", "model", str(place / "base"), "--data", str(place / "rows.jsonl"), "--json"]
    assert main([*plain, "--rank", "3", "--targets", "q_proj"]) == 0
    assert json.loads(capsys.readouterr().out)["numbers"] == 2 * 3 * 32
    assert main([*plain, "--params", "model.norm.*"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["adapter"] == "none" and found["numbers"] == 16
    assert {row["place"] for row in found["modules"]} == {"model.norm"}


def test_encoder_decoders_and_classifiers_are_measured(tmp_path):
    """T5's two stacks have rows of their own in the figure; a classifier that is trained whole stands beside its adapter."""
    config = T5Config(vocab_size=len(tokenizer_of()), d_model=16, d_kv=8, d_ff=24, num_layers=1, num_heads=2)
    config.decoder_start_token_id = 0
    made = {"SEQ_2_SEQ_LM": T5ForConditionalGeneration(config), "SEQ_CLS": LlamaForSequenceClassification(speaker().config)}
    rows = {"SEQ_2_SEQ_LM": {"prompt": "which colour", "completion": "red"}, "SEQ_CLS": {"text": "good red", "label": 1}}
    for task, base in made.items():
        place = tmp_path / task
        base.save_pretrained(place / "base")
        tokenizer_of().save_pretrained(place / "base")
        target = "q" if task == "SEQ_2_SEQ_LM" else "q_proj"
        get_peft_model(base, LoraConfig(r=2, target_modules=[target], task_type=task, init_lora_weights=False)).save_pretrained(
            place / "a"
        )
        (place / "rows.jsonl").write_text(json.dumps(rows[task]) + "\n", encoding="utf-8")
        words = ["probe", str(place / "base"), "--adapter", str(place / "a"), "--data", str(place / "rows.jsonl")]
        assert main([*words, "--html", str(place / "page.html"), "--out", str(place / "found.json")]) == 0
        found = json.loads((place / "found.json").read_text(encoding="utf-8"))
        places = {row["place"] for row in found["modules"]}
        if task == "SEQ_CLS":
            assert found["loss kind"] == "classes" and "score" in places
            assert {row["kind"] for row in found["modules"]} == {"LoRA", "trained whole"}
        else:
            assert found["loss kind"] == "aligned token"
            page = (place / "page.html").read_text(encoding="utf-8")
            assert "encoder.block 0" in page and "layer.1.EncDecAttention.q" in page and len(places) == 3


def test_a_coarse_base_says_what_it_rounds(place, capsys):
    """In bfloat16 the error of a product against float32 is measured and told."""
    assert main(asked(place, "--json", "--dtype", "bfloat16")) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["status"] == "rounded in bfloat16"
    assert 0 < found["whole"]["error of a product against float32"] < 0.3


def test_a_dry_run_says_what_it_would_take(place, capsys):
    """The forecast has the products, seconds and bytes; nothing is measured."""
    assert main(asked(place, "--dry-run", "--json")) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found["forecast"]) == {"products", "each", "seconds", "held"} and "whole" not in found


def test_too_little_time_measures_less_and_says_so(place, capsys):
    """What the minutes do not allow is left out and named."""
    assert main(asked(place, "--json", "--batch", "1", "--minutes", "0.0005")) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["measured on"].startswith("1 sequences") and "the first 1 of 3 sequences" in found["notes"][0]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"--data": "missing.jsonl"}, "expected a file of rows at --data missing.jsonl, found none: check the path"),
        ({"--adapter": "nowhere"}, "adapter_config.json at nowhere"),
        ({"probe": "./nowhere"}, "expected a model folder"),
        ({"--device": "abacus"}, "abacus"),
        ({"--html": "page.txt"}, "--html must end in .html"),
    ],
)
def test_bad_requests_are_refused_in_one_sentence(place, capsys, change, said):
    words = asked(place, "--device", "cpu", "--html", str(place / "page.html"))
    for flag, value in change.items():
        words[words.index(flag) + 1] = value
    assert main(words) == 2
    heard = capsys.readouterr().err.splitlines()[-1]
    assert heard.startswith("error: ") and said in heard and not (place / "page.html").exists()
