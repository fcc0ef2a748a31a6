"""A new user's first hour: train a LoRA with PEFT in a plain loop, save it, probe it by the command line, look at its page.

python tests/first_hour.py [--model FOLDER|smollm2] [--steps N] [--out DIR]: prints what every part took, and fails when a command
fails, or when the page lacks an answer that the README promises. With Chromium on the path the page is drawn at two widths.
"""

import argparse
import json
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).parents[1]
WORDS = ("river", "lamp", "garden", "window", "letter", "engine", "basket", "tower", "mirror", "pencil", "bridge", "candle")
ASKED = {"backwards": lambda word: word[::-1], "in capitals": lambda word: word.upper(), "twice": lambda word: f"{word} {word}"}
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
ANSWERS = ("rank_pattern", "eigenvalue", "dimension", "merging", "q_proj", "v_proj")  # what the README says the page tells


def rows(count: int) -> list[dict[str, str]]:
    """So many requests, each with its answer."""
    rng = random.Random(0)
    asked = [(rng.choice(WORDS), rng.choice(list(ASKED))) for _ in range(count)]
    return [{"prompt": f"Write the word {word} {how}.", "completion": f" {ASKED[how](word)}"} for word, how in asked]


def train(folder: str, data: list[dict[str, str]], steps: int, out: pathlib.Path) -> tuple[float, float]:
    """Train a LoRA as PEFT's own examples do, save it, and return the loss at the first and the last step."""
    import peft
    import torch
    import transformers

    torch.manual_seed(0)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    base = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model = peft.get_peft_model(base, peft.LoraConfig(r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"]))
    optimiser = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=1e-3)
    losses = []
    for step in range(steps):
        texts = [one["prompt"] + one["completion"] for one in data[4 * step :][:4]]
        batch = [[*tokenizer(text)["input_ids"], tokenizer.eos_token_id] for text in texts]
        start = [len(tokenizer(one["prompt"])["input_ids"]) for one in data[4 * step :][:4]]
        width = max(map(len, batch))
        ids = torch.tensor([one + [0] * (width - len(one)) for one in batch])
        mask = torch.tensor([[1] * len(one) + [0] * (width - len(one)) for one in batch])
        place = torch.arange(width)[None]
        answers = mask.bool() & (place >= torch.tensor(start)[:, None])
        loss = model(input_ids=ids, attention_mask=mask, labels=ids.masked_fill(~answers, -100)).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    model.save_pretrained(out)
    return losses[0], losses[-1]


def drawn(page: pathlib.Path, width: int) -> pathlib.Path | None:
    """Return a picture of a page in a window so wide, by the first browser that is installed."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        return None
    picture = page.with_name(f"page-{width}.png")
    flags = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--window-size={width},2400")
    subprocess.run([browser, *flags, f"--screenshot={picture}", page.as_uri()], check=True, capture_output=True, timeout=120)
    return picture


def main(model: str, steps: int, out: pathlib.Path) -> None:
    """Live the hour in a folder."""
    from tuning.shipped import SHIPPED

    folder, data = str(SHIPPED[model]() if model in SHIPPED else model), rows(4 * steps)
    begun = time.monotonic()
    first, last = train(folder, data, steps, out / "adapter")
    print(f"{time.monotonic() - begun:6.1f} s  {steps} steps of PEFT, loss {first:.2f} to {last:.2f}", flush=True)
    (out / "rows.jsonl").write_text("".join(json.dumps(one) + "\n" for one in data), encoding="utf-8")
    words = ["probe", model, "--adapter", "adapter", "--data", "rows.jsonl", "--html", "page.html", "--out", "page.json"]
    begun = time.monotonic()
    done = subprocess.run([sys.executable, str(ROOT / "costate.py"), *words], cwd=out, capture_output=True, encoding="utf-8")
    print(f"{time.monotonic() - begun:6.1f} s  costate {' '.join(words)}", flush=True)
    if done.returncode:
        sys.exit(f"exit code {done.returncode}:\n{done.stdout}{done.stderr}")
    page = (out / "page.html").read_text(encoding="utf-8").lower()
    if missing := [word for word in ANSWERS if word not in page]:
        sys.exit(f"expected the page to speak of {', '.join(ANSWERS)}; it lacks {', '.join(missing)}")
    probed = json.loads((out / "page.json").read_text(encoding="utf-8"))["whole"]["loss"]
    if not probed < (first + last) / 2:
        sys.exit(f"expected the loss of the adapter as it was trained, about {last:.2f}, got {probed:.2f}")
    print("pictures:", *(drawn(out / "page.html", width) or "no browser" for width in (400, 1200)))


if __name__ == "__main__":
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--model", default="smollm2")
    asked.add_argument("--steps", type=int, default=30)
    asked.add_argument("--out", type=pathlib.Path)
    given = asked.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        kept = given.out or pathlib.Path(temporary)
        kept.mkdir(parents=True, exist_ok=True)
        main(given.model, given.steps, kept.resolve())
