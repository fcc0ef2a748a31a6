"""In a row of a conversation the tokens of the response count and no others, whatever the template, or the row is refused."""

import gzip
import json
import sys
from pathlib import Path

import pytest
import torch
from chats import tokenizer_of
from transformers import AutoModelForCausalLM, AutoTokenizer

from tuning.conversations import classified, conversations

MARKED = (
    "{% for m in messages %}<|{{ m['role'] }}|> {% if m['role'] == 'assistant' %}{% generation %}{{ m['content'] }} <|end|>"
    "{% endgeneration %}{% else %}{{ m['content'] }} <|end|>{% endif %} {% if loop.last %}over {% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|> {% endif %}"
)
TURNS = [("user", "which colour"), ("assistant", "red"), ("user", "again"), ("assistant", "blue green")]
NAMED = {  # the two conversations of the public report
    "What is the capital of Italy?": ("Rome.", 37, 4),
    "Name three primary colors.": ("The three primary colors are red, yellow and blue.", 35, 13),
}


def said(turns):
    """A row of messages."""
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


def counted(found, tokenizer):
    """The words that count, sequence by sequence."""
    labels = [line for batch in found.batches for line in batch["labels"]]
    return [" ".join(tokenizer.convert_ids_to_tokens(line[line != -100].tolist())) for line in labels]


def test_every_turn_of_the_assistant_counts_with_its_end_or_the_last_alone():
    tokenizer = tokenizer_of()
    found = conversations([said(TURNS)], tokenizer)
    assert counted(found, tokenizer) == ["red <|end|> blue green <|end|>"]
    assert (found.prompt_tokens, found.response_tokens, found.rows, found.notes) == ((9,), (5,), (1,), ())
    assert counted(conversations([said(TURNS)], tokenizer, last=True), tokenizer) == ["blue green <|end|>"]


def test_a_prompt_and_a_completion_of_messages_count_as_the_last_turn_does():
    row = said(TURNS)["messages"]
    tokenizer = tokenizer_of()
    found = conversations([{"prompt": row[:3], "completion": row[3:]}], tokenizer)
    alone = conversations([said(TURNS)], tokenizer, last=True)
    assert all(torch.equal(found.batches[0][name], alone.batches[0][name]) for name in ("input_ids", "labels"))


def test_texts_end_in_the_end_token_which_counts():
    tokenizer = tokenizer_of()
    rows = [{"prompt": "which colour", "completion": " red"}, {"prompt": "again", "completion": " blue <|end|>"}]
    assert counted(conversations(rows, tokenizer), tokenizer) == ["red <|end|>", "blue <|end|>"]
    whole = conversations([{"text": "which colour red"}], tokenizer)
    assert counted(whole, tokenizer) == ["colour red <|end|>"]  # nothing predicts the first
    assert whole.batches[0]["input_ids"].tolist() == [tokenizer("which colour red <|end|>").input_ids]


def test_the_templates_marks_are_read_where_its_text_depends_on_what_follows():
    tokenizer = tokenizer_of(MARKED)
    found = conversations([said(TURNS)], tokenizer)
    assert counted(found, tokenizer) == ["red <|end|> blue green <|end|>"]
    assert counted(conversations([said(TURNS)], tokenizer, last=True), tokenizer)[0].startswith("blue green <|end|>")
    unmarked = MARKED.replace("{% generation %}", "").replace("{% endgeneration %}", "")
    with pytest.raises(ValueError, match=r"^the chat template writes row 1 of the rows given otherwise .*last=True"):
        conversations([said(TURNS)], tokenizer_of(unmarked))


def test_a_token_across_the_border_counts_and_is_told_of():
    tokenizer = tokenizer_of()
    found = conversations([{"prompt": "which col", "completion": "our red"}], tokenizer)
    assert counted(found, tokenizer) == ["colour red <|end|>"]
    assert found.notes == ("1 of 1 rows have a token with both prompt and response in it, which counts, in row 1",)


class Slow:
    """The same tokenizer, as one that does not say where its tokens begin."""

    is_fast = False

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer

    def __getattr__(self, name):
        return getattr(self.tokenizer, name)

    def __call__(self, *texts, return_offsets_mapping=False, **options):
        assert not return_offsets_mapping
        return self.tokenizer(*texts, **options)


def test_a_tokenizer_that_gives_no_places_counts_the_same_or_is_refused():
    fast = tokenizer_of()
    rows = [said(TURNS), {"prompt": "which colour", "completion": " red"}, {"text": "blue green"}]
    found, given = conversations(rows, Slow(fast)), conversations(rows, fast)
    assert all(torch.equal(found.batches[0][name], given.batches[0][name]) for name in given.batches[0])
    with pytest.raises(ValueError, match="joins the end of the prompt and the response in row 1 .*: use a fast tokenizer"):
        conversations([{"prompt": "which col", "completion": "our red"}], Slow(fast))


@pytest.mark.parametrize("side", ["right", "left"])
def test_padding_is_masked_on_its_side(side):
    tokenizer = tokenizer_of()
    batch = conversations([said(TURNS), said(TURNS[:2])], tokenizer, side=side).batches[0]
    length = batch["attention_mask"].sum(1).tolist()
    assert batch["input_ids"].shape == batch["labels"].shape == (2, 14) and length == [14, 7]
    inside = slice(0, 7) if side == "right" else slice(7, 14)
    assert batch["attention_mask"][1, inside].all() and (batch["labels"][1][batch["attention_mask"][1] == 0] == -100).all()
    assert (batch["labels"][1, inside] != -100).tolist() == [False] * 5 + [True] * 2


def test_what_is_cut_is_counted_and_what_is_lost_left_out():
    rows = [said(TURNS[:2]), said(TURNS), said([("user", "again again again again"), *TURNS[1:2]])]
    found = conversations(rows, tokenizer_of(), length=7, batch_size=2)
    assert found.rows == (1, 2) and [len(batch["labels"]) for batch in found.batches] == [2]
    assert found.response_tokens == (2, 2)
    assert found.notes == (
        "1 of 3 responses cut at 7 tokens, in row 2",
        "1 of 3 responses lost and left out, for they begin behind 7 tokens, in row 3",
    )
    with pytest.raises(ValueError, match="no response .* first 2 tokens: allow a larger length"):
        conversations(rows, tokenizer_of(), length=2)


def test_encoder_and_decoder_have_widths_of_their_own():
    rows = [{"prompt": "which colour again", "completion": "red"}, {"prompt": "again", "completion": "blue green"}]
    tokenizer = tokenizer_of()
    found = conversations(rows, tokenizer, encoder_decoder=True, side="left")
    batch = found.batches[0]
    assert batch["input_ids"].shape == batch["attention_mask"].shape == (2, 3) and batch["attention_mask"][1].tolist() == [
        0,
        0,
        1,
    ]
    assert counted(found, tokenizer) == ["red <|end|>", "blue green <|end|>"] and batch["labels"][0, 2] == -100
    assert (found.prompt_tokens, found.response_tokens) == ((3, 1), (2, 3))


@pytest.mark.parametrize("end", [".jsonl", ".jsonl.gz", ".csv", ".parquet"])
def test_a_file_of_any_kind_gives_the_same(tmp_path, end):
    rows = [{"prompt": "which colour", "completion": " red"}, {"prompt": "again", "completion": " blue"}]
    path = tmp_path / f"data{end}"
    if end == ".parquet":
        arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        parquet.write_table(arrow.Table.from_pylist(rows), path)
    else:
        lines = [json.dumps(row) for row in rows]
        lines = lines if "json" in end else ["prompt,completion", *(",".join(row.values()) for row in rows)]
        data = ("\n".join(lines) + "\n").encode()
        path.write_bytes(gzip.compress(data) if end.endswith("gz") else data)
    found, given = conversations(path, tokenizer_of()), conversations(rows, tokenizer_of())
    assert all(torch.equal(found.batches[0][name], given.batches[0][name]) for name in given.batches[0])


@pytest.mark.parametrize(
    ("rows", "match"),
    [
        ([said(TURNS), said(TURNS[:1]), said(TURNS), said([])], "^expected a response in every row .* got none in rows 2, 4: "),
        ([{"prompt": "which", "completion": " "}], "got none in row 1: fill or remove"),
        ([said([("user", "which"), ("assistant", "")])], "got none in row 1"),
        ([{"prompt": "which"}], "prompt in row 1 .* is str and completion NoneType, expected two texts"),
        ([{"question": "which", "text": None}], "row 1 .* has question, expected messages, prompt and completion, or text"),
        ([{"messages": "which"}], "messages in row 1 .* are 'which', expected a list of"),
        ([{"messages": [{"from": "human", "value": "which"}]}], "expected a list of {role, content}"),
        ([said(TURNS[1:])], "begin with the assistant"),
        ([], "holds no rows"),
        (["which"], "row 1 of the rows given is str"),
    ],
)
def test_rows_that_cannot_be_read_are_named(rows, match):
    with pytest.raises(ValueError, match=match):
        conversations(rows, tokenizer_of())


def test_faults_of_file_tokenizer_and_options_are_named(tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_text('{"text": "red"}\n\n{"text": \n', encoding="utf-8")
    with pytest.raises(ValueError, match="^line 3 of .*data.jsonl is not JSON"):
        conversations(path, tokenizer_of())
    for name, what in (("none.jsonl", "is no file"), ("data.txt", "has an unknown ending")):
        (tmp_path / "data.txt").touch()
        with pytest.raises(ValueError, match=what):
            conversations(tmp_path / name, tokenizer_of())
    with pytest.raises(ValueError, match="has no chat template for the messages in row 1"):
        conversations([said(TURNS)], tokenizer_of(None))
    with pytest.raises(ValueError, match=r"refuses the messages in row 1 .* \(only users speak\)"):
        conversations([said(TURNS)], tokenizer_of("{{ raise_exception('only users speak') }}"))
    for option, match in (({"side": "top"}, "side"), ({"length": 1}, "at least 2 for length"), ({"batch_size": 0}, "batch_size")):
        with pytest.raises(ValueError, match=match):
            conversations([said(TURNS)], tokenizer_of(), **option)


def test_labelled_texts_are_batches_for_a_classifier(tmp_path):
    tokenizer = tokenizer_of()
    rows = [{"text": "which colour red", "label": "no"}, {"text": "blue", "label": "yes"}, {"text": "again", "label": "no"}]
    found = classified(rows, tokenizer, batch_size=2, length=2)
    assert found.classes == ("no", "yes") and [b["labels"].tolist() for b in found.batches] == [[0, 1], [0]]
    assert found.batches[0]["attention_mask"].tolist() == [[1, 1], [1, 0]]
    assert found.notes == ("1 of 3 texts cut at 2 tokens, in row 1",)
    assert [b["labels"].tolist() for b in classified(rows, tokenizer, classes=("yes", "no")).batches] == [[1, 0, 1]]
    path = tmp_path / "data.jsonl"
    path.write_text('{"premise": "red", "hypothesis": "blue green", "label": 2}\n', encoding="utf-8")
    pair = classified(path, tokenizer)  # whole numbers are the model's own labels
    assert pair.batches[0]["labels"].tolist() == [2] and pair.batches[0]["input_ids"].shape == (1, 3)
    unpadded = classified(rows, tokenizer_of(pad_token=None))
    assert unpadded.notes == (
        "the tokenizer has no token for padding: a decoder needs config.pad_token_id to find each text's end",
    )
    for bad, match in (({"text": "red"}, "label"), ({"text": " ", "label": "no"}, "row 1 of the rows is blank")):
        with pytest.raises(ValueError, match=match):
            classified([bad], tokenizer)
    with pytest.raises(ValueError, match="label 'no' in row 1 of the rows is not in the list of classes"):
        classified(rows, tokenizer, classes=("yes",))


@pytest.fixture(scope="module")
def folder():
    """SmolLM2-135M-Instruct, where it is installed."""
    path = Path(sys.prefix) / "share" / "costate" / "smollm2"
    if not (path / "model.safetensors").is_file():
        pytest.skip("SmolLM2-135M-Instruct is not installed: run make smollm2")
    return path


def test_a_real_template_without_marks_gives_the_response_alone(folder):
    """4 and 13 tokens count, with the end of turn and its newline; 4.25312 is the loss over the prompt too."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rows = [said([("user", asked), ("assistant", answer)]) for asked, (answer, _, _) in NAMED.items()]
    found = conversations(rows, tokenizer)
    assert list(zip(found.prompt_tokens, found.response_tokens, strict=True)) == [(p, r) for _, p, r in NAMED.values()]
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    batch = found.batches[0]
    everything = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    with torch.no_grad():
        loss, over_all = (float(model(**batch | {"labels": labels}).loss) for labels in (batch["labels"], everything))
    assert abs(loss - 2.46477) < 1e-4 and abs(over_all - 4.25312) < 1e-4  # float32 sums of 49,152 terms
