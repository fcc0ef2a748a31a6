"""Mistakes that people make end with one sentence that says what to do and with status 2, before any model runs."""

import json
import pathlib

import pytest

import tuning.backbones as backbones
from costate import main

TASK = ["--task", "agreement"]
TRAIN = ["train", *TASK, "--delta", "port-bias"]
PROBE = ["probe", "response", *TASK]
OWN = ["train", "--delta", "port-bias", "--task"]
STUDY = ["validate", "--study", "quick"]

MISTAKES = [  # what is asked, in a folder of the data below, and words of the answer
    # deltas
    (["train", *TASK, "--delta", "lora"], "lora needs a value of rank, got none: write lora:rank=4"),
    (["train", *TASK, "--delta", "prefix"], "write prefix:length=4"),
    (["train", *TASK, "--delta", ""], "expected a delta among"),
    (["train", *TASK, "--delta", "LoRA r=4"], "expected a delta among"),
    (["train", *TASK, "--delta", "lora:r=4"], "expected a setting of lora among rank"),
    (["train", *TASK, "--delta", "lora:rank=4.5"], "lora:rank=4.5"),
    (["train", *TASK, "--delta", "lora:rank=-1"], "positive rank"),
    (["train", *TASK, "--delta", "lora:rank=999"], "rank of at most 128"),
    (["train", *TASK, "--delta", "adapter:bottleneck=4000"], "bottleneck of at most"),
    (["train", *TASK, "--delta", "lora:rank=4,targets=key"], "expected LoRA targets among"),
    (["train", *TASK, "--delta", "lora:rank=4,blocks=7"], "block"),
    (["train", *TASK, "--delta", "lora:rank=4,blocks=3-1"], "blocks=3-1"),
    (["train", *TASK, "--delta", "prefix:length=0"], "positive length"),
    (["train", *TASK, "--delta", "adapter:bottleneck=4,placement=serial"], "placement"),
    (["train", *TASK, "--delta", "adapter:bottleneck=4,activation=swish"], "activation"),
    (["train", *TASK, "--delta", "port-bias:ports=9.mlp"], "9.mlp"),
    (["train", *TASK, "--delta", "full:patterns=nothing.*"], "nothing.*"),
    (["train", *TASK, "--delta", "combined"], "expected a delta among"),
    (["train", *TASK, "--delta", "port-bias & port-bias"], "label"),
    # numbers
    ([*TRAIN, "--lr", "-1"], "--lr must be a number above 0"),
    ([*TRAIN, "--steps", "many"], "invalid int value"),
    ([*TRAIN, "--length", "0"], "--length must be a number of at least 1"),
    ([*TRAIN, "--weight-decay", "-0.1"], "--weight-decay must be"),
    ([*PROBE, "--top", "-3"], "--top must be"),
    (["probe", "representation", *TASK, "--examples", "32", "--neighbours", "50"], "takes at least 50 examples, got 32"),
    (["probe", "representation", *TASK, "--neighbours", "2"], "--neighbours must be"),
    (["probe", "dimension", *TASK, "--dimensions", "8,8,8"], "at least 3 different"),
    (["probe", "dimension", *TASK, "--dimensions", "4,8,-2"], "between 1 and"),
    (["probe", "curvature", *TASK, "--tolerance", "-1"], "--tolerance must be"),
    (["probe", "curvature", *TASK, "--budget", "-5"], "--budget must be"),
    (["probe", "controllability", *TASK, "--margin", "-1"], "--margin must be"),
    (["probe", "controllability", *TASK, "--ridge", "0"], "--ridge must be"),
    ([*STUDY, "--seeds", "0"], "--seeds must be a number of at least 1"),
    ([*STUDY, "--examples", "2"], "--examples must be a number of at least 8"),
    ([*STUDY, "--processes", "-1"], "--processes must be"),
    (["advise", "--data", "agreement", "--length", "2"], "--length must be"),
    # names
    (["train", "--task", "agreemant", "--delta", "port-bias"], "did you mean 'agreement'?"),
    (["train", "--task", "hub:", "--delta", "port-bias"], "the data set has no name"),
    ([*TRAIN, "--backbone", "nanoo"], "expected a model folder"),
    ([*TRAIN, "--backbone", "data"], "expected"),
    (["probe", "curvatures", *TASK], "invalid choice: 'curvatures'"),
    (["list", "delta"], "invalid choice"),
    (["list", "--backbone", "nano"], "costate list deltas"),
    ([*STUDY, "--claim", "everything"], "expected a claim among"),
    (["validate", "--study", "quik"], "expected a study file or one of"),
    ([*STUDY, "--tasks", "agreemant"], "did you mean 'agreement'?"),
    ([*STUDY, "--tasks", "agreement,agreement"], "different names"),
    ([*STUDY, "--tasks", "agreement", "--data", "data"], "both name the tasks"),
    ([*STUDY, "--deltas", "lorra"], "one of quick's own"),
    ([*STUDY, "--deltas", "lora:rank=0"], "positive rank"),
    ([*STUDY, "--deltas", "dora:rank=1,detached=true"], "dora-1 detached; leave that out"),
    ([*STUDY, "--deltas", "lora", "--claim", "lq-feedback"], "leaves nothing to test of lq-feedback"),
    ([*STUDY, "--data", "missing"], "does not exist"),
    ([*TRAIN, "--device", "gpu"], "unrecognized arguments: --device"),
    ([*PROBE, "--device", "gpu"], "expected a device that torch can use"),
    # files
    ([*OWN, "empty"], "holds no train or test file"),
    ([*OWN, "one-class"], "has 1 class(es), expected at least 2"),
    ([*OWN, "gap/reviews.csv"], "is missing"),
    ([*OWN, "blank/reviews.csv"], "is blank"),
    ([*OWN, "mixed/train.jsonl"], "of several kinds (int such as"),
    ([*OWN, "odd/reviews.csv"], "--columns text=NAME,label=NAME"),
    ([*OWN, "odd/reviews.csv", "--columns", "text=words"], "no column 'words'"),
    ([*OWN, "odd/reviews.csv", "--columns", "words"], "--columns takes text, text_b and label"),
    ([*OWN, "odd/reviews.csv", "--text", "body", "--columns", "text=body"], "each once"),
    ([*OWN, "data/notes.txt"], "unknown ending"),
    ([*OWN, "ragged/reviews.csv"], "more fields than the header"),
    (["advise", "--data", "small"], "too few to set 150 aside for dev: ask for fewer with --examples"),
    (["evaluate", *TASK, "--checkpoint", "data/notes.txt"], "data/notes.txt"),
    ([*TRAIN, "--out", "data"], "--out must be a file"),
    ([*TRAIN, "--out", "data/notes.txt/x.safetensors"], "--out must be a file"),
    (["show", "empty"], "expected a results folder"),
    (["show", "hollow"], "hollow"),
    (["report", "empty"], "expected a results folder"),
    (["export", "empty", "--out", "a.csv"], "expected a results folder"),
    (["export", "--out", "a.csv"], "give one of the two"),
    (["export", "--checkpoint", "missing.safetensors", "--out", "peft"], "missing.safetensors"),
    ([*PROBE, "--out", "record.txt"], "--out must end in .json"),
    ([*PROBE, "--figure", ""], "--figure must end in"),
    (["probe", "curvature", *TASK, "--by", "head"], "invalid choice"),
    (["probe", "curvature", *TASK, "--at", "checkpoint"], "--at checkpoint needs --checkpoint"),
    # kinds that were tried by hand later
    ([*OWN, "twice/reviews.csv"], "more than one column called 'text'"),
    ([*OWN, "numbers/reviews.csv"], "60 different labels in 60 rows, expected classes that many rows share"),
    ([*OWN, "copies/reviews.csv"], "of which it has 1, and none fell into"),
    ([*OWN, "rare/reviews.csv"], "which was split by its texts, and none fell into train"),
    ([*OWN, "odd/reviews.csv", "--columns", "text=mood,label=mood"], "one column of odd/reviews.csv for two parts"),
    ([*OWN, ""], "got an empty name"),
    ([*PROBE, "--threads", "100000"], "--threads must be at most"),
    ([*STUDY, "--processes", "100000"], "--processes must be at most"),
    ([*PROBE, "--seed", "99999999999999999999"], "--seed must be at most"),
    (["probe", "curvature", *TASK, "--tolerance", "2"], "--tolerance must be at most 1"),
    (["probe", "controllability", *TASK, "--by", "head"], "no parameters of single heads"),
    (["probe", "controllability", *TASK, "--by", "token", "--against", "prefix:length=2"], "leave out --against"),
    (["probe", "controllability", *TASK, "--against", "lorra"], "expected a delta among"),
    ([*STUDY, "--length", "1"], "--length must be a number of at least 3"),
    (["probe", "some-model", "--data", "missing.jsonl"], "expected a file of rows at --data missing.jsonl"),
    (["probe", "some-model", "--data", "odd/reviews.csv", "--share", "2"], "--share must be at most 1"),
    (["probe", "some-model", "--data", "odd/reviews.csv", "--params", "*.bias", "--adapter", "a"], "give one of the two"),
    (["probe", "some-model", "--data", "odd/reviews.csv", "--rank", "4", "--adapter", "a"], "--rank is of a fresh LoRA"),
    (["probe", "some-model", "--data", "odd/reviews.csv", "--targets", "q", "--params", "b"], "--targets is of a fresh LoRA"),
    (["probe", "dimension", *TASK, "--kind", "sparce"], "kind must be one of"),
]


def table(folder: pathlib.Path, lines: list[str], name: str = "reviews.csv") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Folders of data, each with a mistake."""
    base = tmp_path_factory.mktemp("mistakes")
    rows = [f"text {i} is {'good' if i % 2 else 'bad'},{i % 2}" for i in range(60)]
    (base / "empty").mkdir()
    table(base / "data", ["a note"], "notes.txt")
    table(base / "hollow", ["{}"], "verdicts.json")
    for split in ("train", "test"):
        table(base / "one-class", ["text,label", *(f"{split} {i},0" for i in range(9))], f"{split}.csv")
        own = [json.dumps({"text": f"{split} text {i}", "label": i % 2}) for i in range(30)]
        table(base / "small", own, f"{split}.jsonl")
    table(base / "gap", ["text,label", *rows[:20], "no label here,", *rows[20:]])
    table(base / "blank", ["text,label", *rows[:20], ",1", *rows[20:]])
    table(base / "mixed", [json.dumps({"text": f"t {i}", "label": 1 if i % 2 else "good"}) for i in range(30)], "train.jsonl")
    table(base / "odd", ["body,mood", *rows])
    table(base / "twice", ["text,text,label", *(f"a {i},b {i},{i % 2}" for i in range(60))])
    table(base / "numbers", ["text,label", *(f"text {i},{i}" for i in range(60))])
    table(base / "rare", ["text,label", *(f"text {i},{2 if i == 13 else i % 2}" for i in range(60))])
    table(base / "copies", ["text,label", *(f"the same text,{i % 2}" for i in range(60))])
    table(base / "ragged", ["text,label", *rows[:5], "a, b, c,1"])
    return base


@pytest.mark.parametrize(("words", "says"), MISTAKES, ids=[" ".join(words) for words, _ in MISTAKES])
def test_a_mistake_is_one_sentence_before_any_work(data, monkeypatch, capsys, words, says):
    def worked(*_, **__):
        pytest.fail("a model was run before the request was checked")

    monkeypatch.chdir(data)
    monkeypatch.setattr(backbones, "hidden", worked)
    before = sorted(map(str, data.rglob("*")))
    try:
        code = main(words)
    except SystemExit as end:  # of a flag that does not parse
        code = end.code
    said = capsys.readouterr()
    assert code == 2 and said.out == ""
    (error,) = [line for line in said.err.splitlines() if not line.startswith("data: ")]
    assert error.startswith("error: ") and says in error, error
    assert sorted(map(str, data.rglob("*"))) == before


def test_there_are_more_than_fifty():
    assert len({" ".join(words) for words, _ in MISTAKES}) == len(MISTAKES) > 90
