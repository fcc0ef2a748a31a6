"""A delta is trained, saved, scored and exported by commands; a bad request ends with one sentence and status 2."""

import json

import pytest
import torch

import costate
from costate import main

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
QUICK = ["--task", "agreement", "--length", "24"]


def run(capsys, *arguments: str) -> tuple[int, str, str]:
    status = main(arguments)
    captured = capsys.readouterr()
    return status, captured.out, captured.err


@pytest.mark.parametrize("arm", ["minibatch", "full"])
def test_train_then_evaluate_agree(capsys, tmp_path, arm):
    file = str(tmp_path / "a.safetensors")
    options = [
        "--delta",
        "lora:rank=1 & port-bias",
        "--examples",
        "40",
        "--steps",
        "12",
        "--arm",
        arm,
        "--out",
        file,
    ]
    status, out, err = run(capsys, "train", *QUICK, *options, "--json")
    assert status == 0, err
    trained = json.loads(out)
    assert trained["examples"] == 40 and trained["size"] == 4 * (2 * 256 + 2 * 128) and trained["tuned"] != trained["frozen"]
    status, out, err = run(capsys, "evaluate", *QUICK, "--checkpoint", file, "--json")
    assert status == 0, err
    scored = json.loads(out)
    assert scored["tuned"] == trained["tuned"] and scored["frozen"] == trained["frozen"]
    status, out, _ = run(capsys, "evaluate", *QUICK, "--checkpoint", file)
    assert status == 0 and "tuned: loss" in out


def test_export_writes_a_peft_folder_of_the_same_numbers(capsys, tmp_path):
    file, folder = str(tmp_path / "a.safetensors"), tmp_path / "peft"
    trained = ["--delta", "lora:rank=2", "--examples", "40", "--steps", "4", "--out", file]
    assert run(capsys, "train", *QUICK, *trained)[0] == 0
    status, out, err = run(capsys, "export", "--checkpoint", file, "--out", str(folder), "--json")
    assert status == 0, err
    assert json.loads(out)["files"] == ["adapter_config.json", "adapter_model.safetensors"]
    nano = costate.load("nano")
    delta, params = costate.import_peft(folder, nano)
    saved = costate.checkpoints.load(file, nano).params
    assert delta == costate.parse("lora:rank=2") and set(params) == set(saved)
    assert all(torch.equal(params[name], saved[name]) for name in params)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", *QUICK, "--delta", "magic"], "expected a delta among"),
        (["train", "--task", "no-such-task", "--delta", "bitfit"], "no-such-task"),
        (["train", *QUICK, "--delta", "bitfit", "--backbone", "/no/such/folder"], "expected a model folder"),
        (["train", *QUICK, "--delta", "bitfit", "--split", "validation"], "expected a split"),
        (["train", *QUICK, "--delta", "lora:rank=0"], "positive rank"),
        (["evaluate", *QUICK, "--checkpoint", "/no/such/file"], "expected a checkpoint file"),
        (["export", "--checkpoint", "/no/such/file", "--out", "/no/such"], ""),
    ],
)
def test_a_bad_request_is_one_sentence(capsys, arguments, words):
    status, out, err = run(capsys, *arguments)
    assert status == 2 and out == "" and words in err
    assert err.startswith("error: ") and err.count("\n") == 1


def test_usage_errors_end_with_two(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["train"])
    assert ended.value.code == 2
