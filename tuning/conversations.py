"""Rows of conversations, completions, texts or labelled texts as batches for a live language model.

Which tokens are the response needs no marks in the chat template: a turn of the assistant is what the template adds
when the turn follows the messages before it, with the end of turn and whatever stands behind that.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tuning.tasks.files import SUFFIXES, class_index, named, raw_rows, read_rows, suffix, text

IGNORED = -100  # the label that losses leave out, in torch and in Hugging Face's models
ASKED = "messages, prompt and completion, or text"
_MARKS = re.compile(r"\{%[-+]?\s*generation\s*[-+]?%\}")

Source = str | Path | Iterable[Mapping[str, Any]]


@dataclass(frozen=True, eq=False)
class Conversations:
    """batches: {input_ids, attention_mask, labels}, each (B, T); rows: the number of each sequence's row, from 1; per
    sequence the tokens that are only read and those that count; notes: what was cut, left out or decided."""

    batches: list[dict[str, Tensor]]
    rows: tuple[int, ...]
    prompt_tokens: tuple[int, ...]
    response_tokens: tuple[int, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Classified:
    """batches: {input_ids, attention_mask (B, T), labels (B,)}; classes: their names by label; notes: what was cut."""

    batches: list[dict[str, Tensor]]
    classes: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Sequence:
    """The tokens of one row before they are cut; labels align with ids, or with the decoder; split: a token spans a border."""

    number: int
    ids: list[int]
    labels: list[int]
    split: bool = False


def conversations(
    source: Source,
    tokenizer: Any,
    *,
    length: int = 1024,
    batch_size: int = 8,
    side: str = "right",
    last: bool = False,
    encoder_decoder: bool = False,
) -> Conversations:
    """Return the rows of a file (jsonl, csv, also .gz, parquet) or of a list as batches in which responses count.

    A row has `messages` (every turn of the assistant counts, or its `last`; also `tools`), else `prompt` and
    `completion` (texts, or lists of messages), else `text` (all counts but the first token, which nothing predicts).
    Texts get the tokenizer's special tokens and end in its end token, as in TRL. Labels are -100 elsewhere, at the
    same places as input_ids, so that a causal model's own shift applies; padding goes to that `side`. With
    `encoder_decoder`, prompts are input_ids and completions labels, each of its own width. Both are cut to `length`.
    Raises ValueError naming the rows that have no response, and in one sentence for whatever else cannot be read.
    """
    _check(length, batch_size, side)
    rows, where = _rows(source)
    silent: list[int] = []
    found: list[_Sequence] = []
    for number, row in enumerate(rows, start=1):
        place = f"row {number} of {where}"
        one = _aligned(row, tokenizer, number, place) if encoder_decoder else _causal(row, tokenizer, number, place, last)
        if one is None:
            silent.append(number)
        else:
            found.append(one)
    if silent:
        raise ValueError(f"expected a response in every row of {where}, got none in {_those(silent)}: fill or remove them")
    cut = [one for one in found if len(one.ids) > length or len(one.labels) > length]
    shortened = [one.number for one in cut if _counted(one.labels[length:])]
    lost = [one.number for one in cut if not _counted(one.labels[:length])]
    kept = [one for one in found if one.number not in set(lost)]
    if not kept:
        raise ValueError(f"no response of {where} begins within its row's first {length} tokens: allow a larger length")
    notes = (
        ("{n} of {m} responses cut at {length} tokens, in {rows}", [n for n in shortened if n not in set(lost)]),
        ("{n} of {m} responses lost and left out, for they begin behind {length} tokens, in {rows}", lost),
        ("{n} of {m} rows have a token with both prompt and response in it, which counts, in {rows}", _split(kept)),
    )
    ids, labels = [one.ids[:length] for one in kept], [one.labels[:length] for one in kept]
    count = [_counted(each) for each in labels]
    batches = []
    for i in range(0, len(ids), batch_size):
        answers = _filled(labels[i : i + batch_size], IGNORED, "right" if encoder_decoder else side)
        batches.append(_padded(ids[i : i + batch_size], tokenizer, side) | {"labels": answers})
    return Conversations(
        batches,
        tuple(one.number for one in kept),
        tuple(len(each) - (0 if encoder_decoder else n) for each, n in zip(ids, count, strict=True)),
        tuple(count),
        tuple(said.format(n=len(of), m=len(rows), length=length, rows=_those(of)) for said, of in notes if of),
    )


def classified(
    source: Source,
    tokenizer: Any,
    *,
    classes: Sequence[str] | None = None,
    columns: Mapping[str, str] | None = None,
    length: int = 512,
    batch_size: int = 8,
    side: str = "right",
) -> Classified:
    """Return rows of a text, or a pair of texts, and a label as batches for a classifier of sequences.

    Columns are found by their usual names or named by `columns` (text_a, text_b, label). Whole numbers are the model's
    own labels; names are placed in `classes` (a model's config.id2label in order), or without it in their own order.
    Raises ValueError in one sentence naming row and column for a text or label that is missing or unknown.
    """
    _check(length, batch_size, side)
    if isinstance(source, str | Path):
        where = str(source)
        rows = read_rows(Path(source), columns)
    else:
        where = "the rows"
        rows = named([dict(row) for row in source], columns, where)
    if not rows:
        raise ValueError(f"{where} are empty: expected rows with text and label")
    if classes is None:
        labels = {row.get("label") for row in rows} - {None, ""}
        numbers = all(isinstance(label, int) for label in labels)
        classes = [str(n) for n in range(max(labels, default=0) + 1)] if numbers else sorted(map(str, labels))
    places = [f"row {number} of {where}" for number in range(1, len(rows) + 1)]
    at = list(zip(rows, places, strict=True))
    label = [class_index(row.get("label"), list(classes), True, place) for row, place in at]
    texts = [[text(row, part, place) for part in ("text_a", "text_b") if row.get(part) is not None] for row, place in at]
    ids = [tokenizer(*each, truncation=False, verbose=False)["input_ids"] for each in texts]
    long = [number for number, each in enumerate(ids, start=1) if len(each) > length]
    if long:
        ids = [tokenizer(*each, truncation=True, max_length=length)["input_ids"] for each in texts]
    batches = []
    for i in range(0, len(ids), batch_size):
        answers = torch.tensor(label[i : i + batch_size])
        batches.append(_padded(ids[i : i + batch_size], tokenizer, side) | {"labels": answers})
    notes = [f"{len(long)} of {len(ids)} texts cut at {length} tokens, in {_those(long)}"] if long else []
    if getattr(tokenizer, "pad_token_id", None) is None:
        notes.append("the tokenizer has no token for padding: a decoder needs config.pad_token_id to find each text's end")
    return Classified(batches, tuple(classes), tuple(notes))


def _check(length: int, batch_size: int, side: str) -> None:
    if side not in ("right", "left"):
        raise ValueError(f"expected side 'right' or 'left', got {side!r}")
    for name, value, least in (("length", length, 2), ("batch_size", batch_size, 1)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"expected a whole number of at least {least} for {name}, got {value!r}")


def _rows(source: Source) -> tuple[list[Mapping[str, Any]], str]:
    """The rows, and what to call them."""
    if not isinstance(source, str | Path):
        rows, where = list(source), "the rows given"
        for number, row in enumerate(rows, start=1):
            if not isinstance(row, Mapping):
                raise ValueError(f"row {number} of {where} is {type(row).__name__}, expected a mapping with {ASKED}")
    else:
        path, where = Path(source), str(source)
        end = suffix(path)
        if not path.is_file() or end is None:
            what = "is no file" if not path.is_file() else "has an unknown ending"
            raise ValueError(f"{path} {what}, expected one of {', '.join(SUFFIXES)} with {ASKED}: check the path")
        rows = raw_rows(path)
    if not rows:
        raise ValueError(f"{where} holds no rows: expected rows with {ASKED}")
    return rows, where


def _causal(row: Mapping, tokenizer: Any, number: int, where: str, last: bool) -> _Sequence | None:
    """The row as one sequence; None where nothing of it counts."""
    prompt, completion = (row.get(part) for part in ("prompt", "completion"))
    if row.get("messages") is not None:
        return _chat(row["messages"], 0, row, tokenizer, number, where, last)
    if isinstance(prompt, list | tuple) and isinstance(completion, list | tuple):
        return _chat([*prompt, *completion], len(prompt), row, tokenizer, number, where, last)
    if prompt is not None or completion is not None:
        _check_texts(prompt, completion, where)
        return _written(prompt, completion, tokenizer, number, where)
    if not isinstance(row.get("text"), str):
        got = ", ".join(str(name) for name, value in row.items() if value is not None)
        raise ValueError(f"{where} has {got or 'nothing'}, expected {ASKED}: rename its columns")
    return _written("", row["text"], tokenizer, number, where)


def _check_texts(prompt: object, completion: object, where: str) -> None:
    if not (isinstance(prompt, str) and isinstance(completion, str)):
        raise ValueError(
            f"prompt in {where} is {type(prompt).__name__} and completion {type(completion).__name__}, expected two texts (or, "
            "for a decoder, two lists of messages): correct that row"
        )


def _written(prompt: str, completion: str, tokenizer: Any, number: int, where: str) -> _Sequence | None:
    """Plain texts, with the tokenizer's special tokens and its end token behind them."""
    if not completion.strip():
        return None
    ids, counts, split = _tokens(tokenizer, prompt + completion, [(len(prompt), len(prompt + completion))], where, special=True)
    end = getattr(tokenizer, "eos_token_id", None)
    if end is not None and ids[-1] != end:
        ids, counts = [*ids, end], [*counts, True]
    elif end is not None:
        counts[-1] = True
    if not prompt:
        counts = [True] * len(ids)
    return _labelled(number, ids, counts, split)


def _chat(messages: Any, first: int, row: Mapping, tokenizer: Any, number: int, where: str, last: bool) -> _Sequence | None:
    """Messages through the chat template; turns of the assistant from `first` on count."""
    messages = list(messages) if isinstance(messages, list | tuple) else messages
    good = isinstance(messages, list) and all(isinstance(m, Mapping) and isinstance(m.get("role"), str) for m in messages)
    if not good:
        raise ValueError(f"messages in {where} are {str(messages)[:60]!r}, expected a list of {{role, content}}: correct them")
    turns = [i for i, m in enumerate(messages) if i >= first and m["role"] == "assistant" and _says(m)]
    turns = turns[-1:] if last else turns
    if not turns:
        return None
    if not getattr(tokenizer, "chat_template", None):
        raise ValueError(
            f"the tokenizer has no chat template for the messages in {where}: give prompt and completion as texts, or set "
            "tokenizer.chat_template"
        )
    if turns[0] == 0:
        raise ValueError(f"the messages in {where} begin with the assistant: put what it answers before it")

    def render(count: int, **options) -> Any:
        try:
            return tokenizer.apply_chat_template(messages[:count], tools=row.get("tools") or None, **options)
        except Exception as error:  # whatever a template raises
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise ValueError(f"the chat template refuses the messages in {where} ({reason}): correct them") from error

    whole = render(len(messages), tokenize=False)
    spans = []
    for i in turns:
        before = render(i, tokenize=False, add_generation_prompt=True)
        after = whole if i + 1 == len(messages) else render(i + 1, tokenize=False)
        if not (after.startswith(before) and whole.startswith(after)):
            return _labelled(number, *_marked(render, messages, turns, tokenizer, where))
        spans.append((len(before), len(after)))
    return _labelled(number, *_tokens(tokenizer, whole, spans, where, special=False))


def _says(message: Mapping) -> bool:
    content = message.get("content")
    return bool(content.strip() if isinstance(content, str) else content) or bool(message.get("tool_calls"))


def _marked(
    render: Any, messages: Sequence[Mapping], turns: Sequence[int], tokenizer: Any, where: str
) -> tuple[list[int], list[bool], bool]:
    """The tokens and which of them the template's marks give to these turns, where its text of a turn depends on what follows."""
    template = tokenizer.chat_template
    marks = _MARKS.search(template if isinstance(template, str) else "".join(map(str, dict(template).values())))
    found = render(len(messages), tokenize=True, return_dict=True, return_assistant_tokens_mask=True) if marks else {}
    inside = [False, *map(bool, found.get("assistant_masks", ())), False]
    starts = [i for i in range(len(inside) - 1) if inside[i + 1] and not inside[i]]
    ends = [i for i in range(len(inside) - 1) if inside[i] and not inside[i + 1]]
    answers = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
    if len(starts) != len(answers):
        has = f"marks {len(starts)} of its {len(answers)} turns" if marks else "has no {% generation %} marks"
        raise ValueError(
            f"the chat template writes {where} otherwise when a turn of the assistant follows, and {has}, so that no tokens "
            "are surely the response: take the last turn alone (last=True), use another template, or give prompt and completion "
            "as texts"
        )
    spans = [(a, b) for a, b, turn in zip(starts, ends, answers, strict=True) if turn in turns]
    return list(found["input_ids"]), [any(a <= i < b for a, b in spans) for i in range(len(inside) - 2)], False


def _tokens(
    tokenizer: Any, text: str, spans: Sequence[tuple[int, int]], where: str, *, special: bool
) -> tuple[list[int], list[bool], bool]:
    """The text's tokens, which of them hold any of the spans' characters, and whether one holds some from before a span too."""
    fast = bool(getattr(tokenizer, "is_fast", False))
    found = tokenizer(text, add_special_tokens=special, return_offsets_mapping=fast, verbose=False)
    ids = list(found["input_ids"])
    if fast:
        places = found["offset_mapping"]
        counts = [any(a < end and start < b and start < end for a, b in spans) for start, end in places]
        return ids, counts, any(start < a < end for start, end in places for a, _ in spans)
    counts = [False] * len(ids)
    for a, b in spans:
        ends = [len(_prefix(tokenizer, text[:end], ids, where, special)) if end < len(text) else len(ids) for end in (a, b)]
        counts[ends[0] : ends[1]] = [True] * (ends[1] - ends[0])
    return ids, counts, False


def _prefix(tokenizer: Any, text: str, ids: list[int], where: str, special: bool) -> list[int]:
    """The tokens of the text's beginning, which must begin the whole's."""
    found = list(tokenizer(text, add_special_tokens=special, verbose=False)["input_ids"]) if text else []
    end = getattr(tokenizer, "eos_token_id", None)
    found = found[:-1] if special and found and found[-1] == end else found
    if ids[: len(found)] != found:
        raise ValueError(
            f"the tokenizer joins the end of the prompt and the response in {where} and does not say where tokens begin: use a "
            "fast tokenizer, or move spaces from the prompt's end to the response"
        )
    return found


def _labelled(number: int, ids: list[int], counts: list[bool], split: bool) -> _Sequence | None:
    labels = [token if counted and i else IGNORED for i, (token, counted) in enumerate(zip(ids, counts, strict=True))]
    return _Sequence(number, ids, labels, split) if _counted(labels) else None


def _aligned(row: Mapping, tokenizer: Any, number: int, where: str) -> _Sequence | None:
    """The row for a model with encoder and decoder."""
    prompt, completion = row.get("prompt"), row.get("completion")
    _check_texts(prompt, completion, where)
    if not completion.strip():
        return None
    ids = list(tokenizer(prompt, verbose=False)["input_ids"])
    labels = list(tokenizer(text_target=completion, verbose=False)["input_ids"])
    end = getattr(tokenizer, "eos_token_id", None)
    if end is not None and labels[-1] != end:
        labels.append(end)
    if not ids:
        raise ValueError(f"prompt in {where} has no tokens, expected some text for the encoder: fill or remove that row")
    return _Sequence(number, ids, labels)


def _counted(labels: Sequence[int]) -> int:
    return sum(label != IGNORED for label in labels)


def _split(found: Iterable[_Sequence]) -> list[int]:
    return [one.number for one in found if one.split]


def _padded(ids: Sequence[list[int]], tokenizer: Any, side: str) -> dict[str, Tensor]:
    fill = next((n for n in (getattr(tokenizer, f"{which}_token_id", None) for which in ("pad", "eos")) if n is not None), 0)
    return {"input_ids": _filled(ids, fill, side), "attention_mask": _filled([[1] * len(each) for each in ids], 0, side)}


def _filled(lines: Sequence[Sequence[int]], value: int, side: str) -> Tensor:
    width = max(map(len, lines))
    filled = [[value] * (width - len(line)) for line in lines]
    return torch.tensor([[*a, *b] if side == "left" else [*b, *a] for a, b in zip(filled, lines, strict=True)])


def _those(numbers: Sequence[int]) -> str:
    few = ", ".join(map(str, numbers[:8])) + (", ..." if len(numbers) > 8 else "")
    return f"row {few}" if len(numbers) == 1 else f"rows {few}"
