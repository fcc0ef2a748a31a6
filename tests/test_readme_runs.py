"""Every command of the README runs: cheap ones for real with small settings, long ones up to their parser; so does its Python."""

import json
import os
import pathlib
import re
import shlex
import subprocess
import sys

import pandas
import peft
import pytest
import stranger
from chats import speaker, tokenizer_of

import costate
from validations import calibrate
from validations.commands import line

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SMALL = {  # commands that run for real, and what makes them small; the others are parsed
    "probe": "--examples 6 --length 16 --probes 1 --steps 2 --budget 4 --by all",
    "train": "--examples 8 --length 12 --steps 1",
    "export": "",
}


def block(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def commands() -> list[list[str]]:
    """The command lines of the README's blocks and those in the middle of its sentences."""
    lines = [text for found in block("sh") for text in found.splitlines()]
    lines += re.findall(r"`((?:make|costate) [a-z][^`]*)`", README)
    return [words for words in (shlex.split(text, comments=True) for text in lines) if words]


def called(words: list[str]) -> list[str]:
    """The words after costate; exits where they do not parse."""
    line.parse(costate.COMMANDS, words)
    return words


def expanded(target: list[str], ready: pathlib.Path) -> list[list[str]]:
    """The command lines that make would run for a target, its environment standing already."""
    ready.mkdir(exist_ok=True)
    (ready / ".ready").touch()
    done = subprocess.run(["make", "-n", *target, f"VENV={ready}"], cwd=ROOT, capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    return [shlex.split(text) for text in done.stdout.replace("\\\n", " ").splitlines() if text.strip()]


def test_what_the_readme_names_is_there(tmp_path):
    found = commands()
    assert {"report", "test", "check", "calibrate"} <= {words[1] for words in found if words[0] == "make"}
    assert {"validate", "advise", "probe", "train", "show"} <= {words[1] for words in found if words[0] == "costate"}
    for words in found:
        if words[0] == "costate":
            called(words[1:])
            continue
        for command in expanded(words[1:], tmp_path / "venv"):
            if command[0].endswith("/costate"):
                called(command[1:])
    for path in re.findall(r"\]\(([^)]+)\)", README) + re.findall(r"`([a-z]+/[a-zA-Z/.]*)`", README):
        assert (ROOT / path).exists(), path


def test_the_cheap_commands_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    speaker().save_pretrained("my-model")
    tokenizer_of().save_pretrained("my-model")
    peft.get_peft_model(speaker(), peft.LoraConfig(target_modules=["q_proj"], task_type="CAUSAL_LM")).save_pretrained("my-lora")
    row = {"prompt": "which colour", "completion": "red"}
    pathlib.Path("rows.jsonl").write_text(json.dumps(row), encoding="utf-8")
    lines = [f"the film number {i} was {('bad', 'good')[i % 2]},{i % 2}" for i in range(60)]
    pathlib.Path("reviews.csv").write_text("\n".join(["sentence,label", *lines]), encoding="utf-8")
    brought, ran = {path.name for path in tmp_path.iterdir()}, []
    for words in commands():
        if words[:2] == ["costate", "probe"] and words[2:3] == ["my-model"]:
            assert costate.main(words[1:]) == 0, capsys.readouterr().err
        elif words[0] == "costate" and words[1] in SMALL and len(words) > 2 and not words[2].startswith("build/"):
            assert costate.main([*words[1:], *shlex.split(SMALL[words[1]])]) == 0, capsys.readouterr().err
            ran.append(words[1])
    assert set(ran) == set(SMALL)
    written = {"curvature.svg", "delta.safetensors", "peft-folder", "page.html"}
    assert {path.name for path in tmp_path.iterdir()} == written | brought


def test_a_folder_as_the_readme_describes_it_is_read(tmp_path):
    for name in ("train", "test"):
        rows = [{"sentence": f"{name} text {i}", "label": ("bad", "good")[i % 2]} for i in range(40)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    assert costate.tasks.load(str(tmp_path)).classes == ("bad", "good")


def test_a_strangers_hour_is_on_the_page():
    """What `tests/stranger.py` runs in a fresh clone: a probe, a study, its table, its report, and a question to it."""
    found = stranger.commands(README)
    assert [words[1] for words in found] == ["probe", "validate", "export", "report"]
    assert {"--seeds", "2", "--deltas", "lora,prefix"} <= set(found[1]) and "costate.trainings" in stranger.question(README)
    assert len(set(stranger.reviews(400))) == 400 and {mood for _, mood in stranger.reviews(400)} == {"good", "bad"}


GIVEN = """
import torch
loader = [{"input_ids": torch.arange(8).reshape(2, 4), "labels": torch.arange(8).reshape(2, 4)}]
"""  # what a reader brings to the first lines


@pytest.mark.slow
@pytest.mark.parametrize("code", [text for text in block("python") if "build/" not in text])
def test_the_python_runs(code, tmp_path):
    speaker().save_pretrained(tmp_path / "my-model")
    peft.get_peft_model(speaker(), peft.LoraConfig(target_modules=["q_proj"])).save_pretrained(tmp_path / "my-lora")
    done = subprocess.run(
        [sys.executable, "-c", GIVEN + code],
        capture_output=True,
        text=True,
        encoding="utf-8",
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0 and "tensor" in done.stdout, done.stderr


def test_a_peft_user_comes_first():
    """Five lines that are no comment, before anything else that is shown."""
    first = re.search(r"```(\w+)\n(.*?)```", README, flags=re.DOTALL)
    assert first[1] == "python" and "peft" in first[2] and len([text for text in first[2].splitlines() if text]) <= 5
    assert "PEFT" in README.split("```")[0]


def test_what_is_asked_of_results_is_a_worked_question():
    """Which tests run on results of their own (`test_questions_are_answered`)."""
    asked = [text for text in block("python") if "build/" in text]
    page = (ROOT / "validations" / "QUESTIONS.md").read_text(encoding="utf-8")
    assert asked and all(text.removeprefix("import costate\n\n") in page for text in asked)


def test_every_target_of_make_parses(tmp_path):
    """Each with the settings that it asks for, and help tells of all of them in lines that fit."""
    targets = re.findall(r"^([a-z-]+):.* ## (.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    given = [
        "DATA=a b",
        "TASK=agreement",
        "PROBE=curvature",
        "MODEL=my-model",
        "DELTA=lora:rank=4 & port-bias",
        "FIGURE=f.svg",
        "TEXT=body",
        "SEEDS=3",
        "DELTAS=lora,prefix",
        "EXAMPLES=60",
    ]
    for target, told in targets:
        assert len(told) < 115, target
        one = [words if words != "DATA=a b" or target == "validate" else "DATA=a" for words in given]
        for command in expanded([target, *one], tmp_path / "venv"):
            if command[0].endswith("/costate"):
                called(command[1:])


def test_what_the_readme_quotes_is_what_was_found():
    page = (ROOT / "VERDICTS.md").read_text(encoding="utf-8")
    quoted = [re.match(r"(supported|refuted|undecided) +(.+?)  ", text) for text in block("text")[0].splitlines()]
    found = [match.groups() for match in quoted if match]
    assert found
    for word, title in found:
        lines = [text for text in page.splitlines() if text.startswith(f"| {title}")]
        assert lines and all(f" {word} |" in text for text in lines), title
    assert f"at most {100 * calibrate.LIMIT:g} %" in README.replace("\n", " ")


def test_the_readmes_table_of_gains_is_that_of_the_practice_page():
    tables = [
        [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if re.match(r"\| .*\d \[", line)]
        for text in (README, (ROOT / "PRACTICE.md").read_text(encoding="utf-8").split("| Predictions |")[0])
    ]
    short, page = tables
    deltas = README.split("\n| | ")[1].split(" |\n")[0].split(" | ")
    known = {line[0].removesuffix(" of the blocks"): line[1:] for line in page}
    assert len(short) == 2 and len(deltas) == 5
    for row, (name, *told) in enumerate(short):
        assert told == [known[delta][row] for delta in deltas], name


def test_what_the_readme_says_of_studies_is_on_their_pages():
    told = README.replace("\n", " ")
    page = (ROOT / "AMOUNTS.md").read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines() if line.startswith("| LoRA,")]
    texts = [re.search(r"\d+", name)[0] for name, *_ in rows]
    gained, forecast = ([row[column].split(" ")[0] for row in rows] for column in (1, 2))
    said = "{0[0]}, {0[1]} and {0[2]} points on {1[0]}, {1[1]} and {1[2]} texts, of which {2[0]}, {2[1]} and {2[2]} were forecast"
    assert len(rows) == 3 and said.format(gained, texts, forecast) in told
    page = (ROOT / "ONELAW.md").read_text(encoding="utf-8")
    cosines = [float(value) for value in re.findall(r"norm of the price: ([\d.]+) \[.* supported \|", page)]
    assert len(cosines) == 5 and f"at cosines of {min(cosines):.2f} to {max(cosines):.2f}" in told
    for name, title, words in (
        ("FEEDBACK", "cosine of the adapter's Jacobian with the shared gain", "at a cosine of {} on nano"),
        ("FEEDBACK-MINILM", "cosine of the adapter's Jacobian with the shared gain", "and {} on MiniLM"),
        ("FEEDBACK-ADAMW", "cosine of the adapter's Jacobian with the shared gain", "AdamW comes to that law at {}"),
        ("FEEDBACK-FLOOR", "cosine of the adapter's Jacobian with the shared gain", "a search on 256 texts at {}"),
        ("ONELAW-SEQUENTIAL", "in the norm of the price", "and a sequential one at {} on ten other tasks"),
        ("INFORMATION", "worth of states", "is foretold within {} octaves"),
        ("INITIALISATION", "share of the trained LoRA's fall of the held-out loss", "the law makes {} of what training gains"),
        ("REGRET", "the MLP's lead over attention, over full tuning's gain", "LoRA on attention is {} of full tuning's gain"),
        ("RECEDING", "share of the trained adapter's fall of the objective", "it makes {} of what training an adapter"),
        ("INTERVENTION", "trained sensitivity under noise", "it comes to what the law says within {} octaves"),
        ("ROBUST", "the attacked adapter save", "saves what a robust law says within {} nats"),
        (
            "ROBUST-PREFIX",
            r"\(values of a prefix\) \| nats between what the law and the attacked prefix save",
            "by the response of its gates within {} nats",
        ),
        ("HEALING", "the displacement between foretold and left", "its schedule foretells within {} of the displacement"),
        ("HEALING", "share of the points recovered, adaptive attacker", "it recovers {} of the points"),
        ("GATES", "cosine of the gates' changes, tuned and foretold", "foretold and trained changes is {} ("),
        (
            "SUBSPACE",
            "corrected E_rel of a code through decoders of other tasks",
            "four numbers keeps {} of what these deltas reach",
        ),
        (
            "SUBSPACE",
            r"LoRA\) \| share of the gain within the foretold subspace",
            "LoRA makes {} of the gain that all its numbers",
        ),
        (
            "SUBSPACE-MINILM",
            "corrected E_rel of a code through decoders of other tasks",
            "four numbers keep {} through decoders of other tasks",
        ),
        ("SUBSPACE-FULL", "corrected E_rel of full tuning within the code", "its weights keeps {} of what it reaches"),
        (
            "FEW-SHOT",
            "the three deltas lead full tuning with 16 texts, mean",
            "deltas lead full tuning by {} points with 16 texts",
        ),
        ("OPTIONS", "rank correlation of gain foretold and measured over options, mean over tasks", "ranks gains at {} on nine"),
        ("OPTIONS", "points of held-out accuracy lost against the whole grid's choice", "passes loses {}, nearly all"),
        ("OPTIONS", "share of options whose gain lies in its interval, mean over tasks", "intervals hold {} of the gains"),
        (
            "OPTIONS",
            "share of deltas whose rate is within a factor of two, mean over tasks",
            "factor of two for {} of the deltas",
        ),
        ("COMBINATION", "the combination leads the best single delta", "lead the best of them alone by {} and"),
        ("SEQUENCE", "the combination leads the best single delta", "and {} points ([COMBINATION"),
        ("COMBINATION-SHOTS", "the combination leads the best single delta", "From 16 texts the lead is {} points"),
        ("COMBINATION-TEMPLATE", "the combination leads the best single delta", "with all texts in a template it is {} on"),
        (
            "EXPLAINED",
            "rank correlation of the step foretold with the measured one, mean over tasks",
            "the tangent model's path at a rank correlation of {}, accuracies",
        ),
        (
            "EXPLAINED",
            "rank correlation of accuracy with the dev loss foretold, mean over tasks",
            "the tangent optimum at {}, where",
        ),
        (
            "EXPLAINED",
            "points by which the gap foretold is off, mean over deltas and tasks",
            "gaps to full tuning are foretold within {} points",
        ),
        (
            "EXPLAINED",
            "rank correlation over tasks of the worth of states with the adapter's lead",
            "an adapter beats a prefix at {} (",
        ),
        *(
            ("FACTS", rf"\({delta}\) \| accuracy above the largest class, over full tuning's", words)
            for delta, words in (
                ("LoRA", "LoRA reaches {} of what full tuning reaches"),
                ("adapter", "an adapter {}"),
                ("prefix", "a prefix {} (all undecided)"),
                ("prompt", "a prompt {} (refuted)"),
            )
        ),
        *(
            ("FACTS-REAL", rf"\({delta}\) \| accuracy above the largest class, over full tuning's", words)
            for delta, words in (
                ("LoRA", "LoRA reaches {} of full tuning (supported)"),
                ("adapter", "an adapter {}, a prefix"),
                ("prefix", "a prefix {} and a prompt"),
                ("prompt", "and a prompt {}, and the published"),
            )
        ),
        (
            "FACTS-REAL",
            "rank correlation of accuracy with the published order, mean over tasks",
            "at a rank correlation of {} ([FACTS-REAL",
        ),
        (
            "FEEDBACK-PRICES",
            r"ten times the price\) \| cosine of the adapter's Jacobian with the shared gain",
            "64 texts to {} and",
        ),
        (
            "FEEDBACK-PRICES",
            r"a hundred times the price\) \| cosine of the adapter's Jacobian with the shared gain",
            "and {}, and the law to its first-order form",
        ),
        ("FACTS", "rank correlation of accuracy with the published order, mean over tasks", "rank correlation of {}, the time"),
        ("FACTS", "rank correlation of the step with the published stage, mean over tasks", "the time to converge at {} ("),
        *(
            ("TRANSFERABILITY", rf"\({delta}\) \| share of the own gain within groups, less that between them", words)
            for delta, words in (
                ("LoRA", "a LoRA makes {} more of the task's own gain"),
                ("adapter", "an adapter {} and a prompt"),
                ("prompt", "and a prompt {} (all undecided, 18 tasks"),
            )
        ),
        *(
            ("EFFICIENCY", rf"\({delta}\) \| {title}", words)
            for delta, title, words in (
                ("LoRA", "saved share less what is counted, mean size", "that a LoRA saves is within {} of the count"),
                ("adapter", "saved share less what is counted, mean size", "an adapter's within {}, and"),
                ("LoRA", "full tuning's CPU time over the delta's, at the largest batch", "takes {} times a LoRA's CPU time"),
                ("prompt", "full tuning's CPU time over the delta's, at the largest batch", "and {} times a prompt's"),
            )
        ),
        (
            "SCALE",
            r"\(LoRA\) \| share of full tuning's gain per octave of parameters",
            "LoRA's share of that gain rises by {} an octave",
        ),
        ("SCALE", "octaves of steps saved per octave of parameters", "tuning takes {} octaves fewer steps"),
        ("SCALE", "share of the shift explained per octave of parameters", "at the start explains {} more of the shift"),
        ("SOLVERS", "octaves by which iterative LQ is cheaper than L-BFGS", "as L-BFGS for {} octaves fewer passes"),
        ("SOLVERS", "octaves between foretold and measured cost", "is foretold within {} octaves by their race"),
    ):
        (found,) = re.findall(rf"{title}: ([^|]*) \|", (ROOT / f"{name}.md").read_text(encoding="utf-8"))
        assert words.format(found) in told, name


def test_what_the_readme_says_of_published_rows_is_in_them():
    told = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    real, scale = (pandas.read_csv(ROOT / f"reports/published/{name}.csv") for name in ("facts-real", "scale"))
    total = real[real["claim"] == "facts-gap"].groupby("quantity")["value"].sum()
    assert f"the frozen head alone makes {total['over_frozen'] / total['over_full']:.2f} of it" in told
    own = scale[(scale["claim"] == "scale-gap") & (scale["delta"] == "lora")].pivot(
        index="row", columns="quantity", values="value"
    )
    gains = own.groupby("parameters")["full"].mean()
    assert f"full tuning gains {gains.iloc[0]:.0f} points on the smallest member and {gains.iloc[-1]:.0f} on the largest" in told
