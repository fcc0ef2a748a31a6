"""Frozen features of a backbone on real tasks, and the share of the teacher's worth they keep."""

import gzip
import json
import pathlib
import re

import numpy as np
import torch

from tuning.pretraining.distillation import embed, loaded, unit
from tuning.pretraining.text import SOURCES
from tuning.shipped import folder_of

TASKS = ("trec", "subj", "sst2", "emotion", "clinc10", "mpqa", "sick_e", "agnews")


def rows_of(path: pathlib.Path, limit: int) -> tuple[list[str], list[str] | None, np.ndarray]:
    """Return the first texts, second texts (None where there are none) and labels of a .jsonl.gz file's first rows."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for _, line in zip(range(limit), file, strict=False)]
    second = [r["text_b"] for r in rows] if rows[0].get("text_b") else None
    return [r["text_a"] for r in rows], second, np.array([r["label"] for r in rows])


def features(model: torch.nn.Module, tokenizer, first: list[str], second: list[str] | None) -> np.ndarray:
    """Return unit mean-pooled rows a (n, d), or [a, b, |a - b|, a * b] (n, 4 d) for pairs of texts."""
    a = unit(embed(model, tokenizer, first))
    if second is None:
        return a
    b = unit(embed(model, tokenizer, second))
    return np.hstack([a, b, abs(a - b), a * b])


def frozen_accuracy(model: torch.nn.Module, tokenizer, task: pathlib.Path, *, train: int = 1000, test: int = 500) -> dict:
    """Return the test accuracy of logistic regression on standardised frozen features, and the commonest class's share.

    C is taken from (0.003, 0.03, 0.3) by the accuracy on the first 300 development rows; of every file the
    first rows are used.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    sets = {name: rows_of(task / f"{name}.jsonl.gz", n) for name, n in (("train", train), ("dev", 300), ("test", test))}
    X = {name: features(model, tokenizer, first, second) for name, (first, second, _) in sets.items()}
    y = {name: labels for name, (_, _, labels) in sets.items()}
    scaler = StandardScaler().fit(X["train"])
    X = {name: scaler.transform(x) for name, x in X.items()}
    fits = [LogisticRegression(C=C, max_iter=1000).fit(X["train"], y["train"]) for C in (0.003, 0.03, 0.3)]
    best = max(fits, key=lambda fit: fit.score(X["dev"], y["dev"]))
    majority = np.bincount(y["test"]).max() / len(y["test"])
    return {"accuracy": float(best.score(X["test"], y["test"])), "majority": float(majority)}


def worth(nano: dict, reference: dict) -> float:
    """Return the share of the way from the commonest class: (nano - majority) / (reference - majority)."""
    return (nano["accuracy"] - nano["majority"]) / (reference["accuracy"] - reference["majority"])


def tuned_accuracy(
    folder: pathlib.Path, task: pathlib.Path, seed: int, *, rank: int, steps: int = 310, train: int = 2000
) -> float:
    """Return the test accuracy (500 rows) after AdamW steps of 32 on a linear head over mean-pooled states and on LoRA.

    LoRA of `rank` (none for 0) enters every linear map of every block, scaled by alpha / r = 2; rates 5e-3
    (LoRA) and 1e-2 (head) fall linearly to zero.
    """
    from peft import LoraConfig, get_peft_model

    model, tokenizer = loaded(folder)
    first, _, labels = rows_of(task / "train.jsonl.gz", train)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if rank:
            places = ["query", "key", "value", "intermediate.dense", "output.dense"]
            model = get_peft_model(model, LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=places))
        else:
            model.requires_grad_(False)
        head = torch.nn.Linear(model.config.hidden_size, int(labels.max()) + 1)
    groups = [{"params": head.parameters(), "lr": 1e-2}]
    groups += [{"params": [p for p in model.parameters() if p.requires_grad], "lr": 5e-3}] if rank else []
    optimizer = torch.optim.AdamW(groups, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    passes = np.tile(np.arange(len(first)), (1 + 32 * steps // len(first), 1))
    order = np.random.default_rng(seed).permuted(passes, axis=1).ravel()

    def outputs(texts: list[str]) -> torch.Tensor:
        """Return the logits (B, classes)."""
        batch = tokenizer(texts, padding=True, truncation=True, max_length=64, return_tensors="pt")
        mask = batch["attention_mask"][..., None]
        with torch.autocast("cpu", torch.bfloat16):
            hidden = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state
        return head((hidden.float() * mask).sum(1) / mask.sum(1))

    for step in range(steps):
        take = order[32 * step : 32 * step + 32]
        loss = torch.nn.functional.cross_entropy(outputs([first[i] for i in take]), torch.tensor(labels[take]))
        loss.backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    model.eval()
    first, _, labels = rows_of(task / "test.jsonl.gz", 500)
    with torch.inference_mode():
        guesses = torch.cat([outputs(first[i : i + 100]).argmax(1) for i in range(0, len(first), 100)])
    return float((guesses.numpy() == labels).mean())


def coincidences(work: pathlib.Path, tasks: pathlib.Path) -> dict:
    """Return how many different test lines of the tasks occur in sentences.txt, case and punctuation ignored."""

    def bare(line: str) -> str:
        """Return a text's words only."""
        return " ".join(re.findall(r"[a-z0-9']+", line.lower()))

    seen = {bare(line) for line in (work / "sentences.txt").read_text(encoding="utf-8").split("\n")}
    texts = [rows_of(tasks / name / "test.jsonl.gz", 10**6)[:2] for name in TASKS]
    tested = {bare(line) for first, second in texts for line in first + (second or [])}
    return {"coincidences": len(tested & seen), "tested": len(tested)}


def accuracies(work: pathlib.Path, name: str, model: torch.nn.Module, tokenizer, tasks: pathlib.Path) -> dict[str, dict]:
    """Return {task: frozen_accuracy} of a model, from NAME.worth.json in the work folder where it was measured before."""
    cache = work / f"{name}.worth.json"
    if not cache.exists():
        found = {task: frozen_accuracy(model, tokenizer, tasks / task) for task in TASKS}
        cache.write_text(json.dumps(found, indent=1), encoding="utf-8")
        print(f"{name}: mean accuracy {np.mean([row['accuracy'] for row in found.values()]):.3f}", flush=True)
    return json.loads(cache.read_text(encoding="utf-8"))


def evaluate(work: pathlib.Path, tasks: pathlib.Path, seed: int) -> dict:
    """Write evaluation.json and nano/CARD.md: each task's accuracies and share; tuning on trec."""
    reference = accuracies(work, "minilm", *loaded(folder_of("minilm")), tasks)
    nano = accuracies(work, "nano", *loaded(work / "nano"), tasks)
    shares = {name: worth(nano[name], reference[name]) for name in TASKS}
    for name in TASKS:
        print(f"{name}: majority {nano[name]['majority']:.3f} MiniLM {reference[name]['accuracy']:.3f} "
              f"nano {nano[name]['accuracy']:.3f} share {shares[name]:.2f}", flush=True)  # fmt: skip
    print(f"mean share {np.mean(list(shares.values())):.3f}", flush=True)
    runs = range(seed, seed + 3)
    ranks = {"head": 0, "lora": 4}
    tuned = {k: [tuned_accuracy(work / "nano", tasks / "trec", s, rank=r) for s in runs] for k, r in ranks.items()}
    print(f"trec head {tuned['head']} LoRA r=4 {tuned['lora']}", flush=True)
    counts = json.loads((work / "text.json").read_text(encoding="utf-8"))
    log = json.loads((work / "nano.json").read_text(encoding="utf-8"))
    mean = float(np.mean(list(shares.values())))
    result = {"reference": reference, "nano": nano, "share": shares, "mean_share": mean}
    result |= {"trec_tuned": tuned, "text": counts, "student": log, **coincidences(work, tasks)}
    (work / "evaluation.json").write_text(json.dumps(result, indent=1), encoding="utf-8")
    (work / "nano" / "CARD.md").write_text(card(result), encoding="utf-8")
    return result


CARD = """\
# nano

A BERT encoder: 4 layers, width 128, 4 heads, feed-forward 512, 128 positions, its own lower-case WordPiece
vocabulary of 8000 entries; no head. Made from scratch by `python -m tuning.pretraining`, by distilling the
sentence embeddings of all-MiniLM-L6-v2 (Apache-2.0). Use the mean of the last hidden states over all
tokens, `[CLS]` and `[SEP]` included.

## Trained on

| source | sentences | from | licence as the packages state it |
|---|---|---|---|
{sources}

These lines were shuffled; the vocabulary was learnt on all of them, the student on the first {sentences:,}.
They are lower-cased, have 3 to 40 words (spans and joined paragraphs apart), at least 85 % of their
characters in words, and occur once. The templates (questions, first-person statements, requests, opinions,
descriptions of scenes, news-like statements) were written by hand with the kinds of task below in mind and
filled at random; many make little sense. They carry no labels, but results on such tasks are not those of a
model that never met the form. No text of the tasks below was used for training or for the
vocabulary; {coincidences} of their {tested:,} different test lines, mostly short phrases, occur above all
the same (compared without case and punctuation).

## How

Loss 1 - cosine + 4 x mean squared error of the batch's similarity matrix, through a linear map 128 -> 384;
{steps:,} AdamW steps of {batch} sentences ({millions:.2f} M examples), one-cycle learning rate with peak
{peak}, seed {seed}; matrix products in bfloat16, one thread of a shared processor, {minutes:.0f} minutes, the
schedule following the clock and the first steps taken while the teacher was still embedding, so another run
gives other weights. Token embeddings start from the teacher's embeddings of the single tokens,
reduced by PCA.

## Reaches

Frozen mean-pooled, L2-normalised, standardised features ([a, b, |a - b|, a * b] for pairs) and logistic
regression, C chosen on development rows, the same for both models; first 1000 training and 500 test rows,
so the half-width of a 95 % interval is 0.03 to 0.04. Share = (nano - majority) / (MiniLM - majority).

| task | majority | MiniLM-L6 | nano | share |
|---|---|---|---|---|
{table}
| **mean** | | | | **{mean:.2f}** |

Tuning on trec (2000 training rows, 310 AdamW steps of 32, 500 test rows, mean of {seeds} seeds): head alone
{head:.3f}, LoRA r=4 {lora:.3f} ({gain:+.1f} points).

## Limits

English, lower case, no more than 128 tokens. Much of the text is dictionaries and manuals, some of it from
1913, with the views of its time; conversational and emotional language is thin. The model is a subject for
studies of delta tuning, small on purpose: use MiniLM itself where embeddings matter. Parts of the text are
under share-alike licences (GPL, GFDL, CC BY-SA); none of the text is contained here, and whether such
licences reach trained weights is an open question.
"""


def card(result: dict) -> str:
    """Return the model card of an evaluation: what nano was trained on, how, what it reaches, its limits."""
    made = {
        "spans": ("2 to 6 consecutive words cut from the sentences above", "as their sentences"),
        "paragraphs": ("consecutive sentences joined, 40 to 95 words", "as their sentences"),
        "templates": ("hand-written templates filled with WordNet's common words", "WordNet licence"),
    }
    sources = []
    for name, count in [*result["text"].items(), ("**all**", sum(result["text"].values()))]:
        packages, _, licence = SOURCES.get(name, ("", 0, ""))
        origin, licence = made.get(name, (packages.replace(" ", ", "), licence))
        origin = "installed Python packages" if name == "docstrings" else origin
        sources.append(f"| {name} | {count:,} | {origin} | {licence} |")
    table = []
    for name, row in result["nano"].items():
        shown = row["majority"], result["reference"][name]["accuracy"], row["accuracy"]
        table.append(f"| {name} | {' | '.join(f'{x:.3f}' for x in shown)} | {result['share'][name]:.2f} |")
    log, tuned = result["student"], result["trec_tuned"]
    head, lora = float(np.mean(tuned["head"])), float(np.mean(tuned["lora"]))
    return CARD.format(
        **{key: log[key] for key in ("sentences", "steps", "batch", "peak", "seed")},
        **{key: result[key] for key in ("coincidences", "tested")},
        millions=log["examples"] / 1e6,
        minutes=log["seconds"] / 60,
        sources="\n".join(sources),
        table="\n".join(table),
        mean=result["mean_share"],
        seeds=len(tuned["lora"]),
        head=head,
        lora=lora,
        gain=100 * (lora - head),
    )
