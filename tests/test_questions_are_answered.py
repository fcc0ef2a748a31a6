"""The page of worked questions runs as it stands, in four lines a question, and so does its notebook; tables leave whole."""

import json
import os
import pathlib
import re

import known_results
import numpy as np
import pandas as pd
import pytest

import costate
from costate import main
from validations import notebook, results
from validations.store import Record, Store
from validations.text_tables import KINDS, written

BLOCKS = re.findall(r"```python\n(.*?)```", notebook.PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
DELTAS = {"lora": 4096, "prefix": 2048}
LOSS = {"lora": 0.5, "prefix": 0.25}  # held out, after training


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A study of recorded plants with a training of each kind for two deltas."""
    made = known_results.write(tmp_path_factory.mktemp("asked") / "made", deltas=3, claims=["intrinsic-dimension", "lq-feedback"])
    record, store = results.read_verdicts(made), Store(made)
    for claim in (claim["id"] for claim in record["claims"]):
        assert claim in record["tied"]["tables"]
    tables = {
        tuple(name.split(".")) if "." in name else (name, "rows"): json.loads((made / "rows" / f"{name}.json").read_text("utf-8"))
        for name in record["tied"]["tables"]
    }
    cells = []
    for number, (kind, delta) in enumerate((kind, delta) for kind in ("tuned", "practice") for delta in DELTAS):
        cells.append(f"{number:020d}")
        settings = {"kind": kind, "digest": record["study"]["tasks"][0]["digest"], "deltas": [[delta, {}]], "seed": 0}
        start, best = {"loss": 1.0, "accuracy": 0.5}, {"loss": 0.75, "accuracy": 0.625}
        before = (
            {"reference_loss": 1.0, "reference_accuracy": 0.5, "predicted_loss": 0.75, "norm": 2.0, "size": DELTAS[delta]}
            if kind == "tuned"
            else {"start": start, "forecasts": {"optimum": best}, "numbers": DELTAS[delta], "norm": 2.0, "eta": 0.1}
        )
        after = {"loss": LOSS[delta], "accuracy": 0.75} | ({"rate": 0.01, "step": 40} if kind == "practice" else {"norm": 3.0})
        store.write("predicted", cells[-1], settings, Record(before, {}))
        store.write("cells", cells[-1], settings, Record(after, {}))
        store.write("provenance", cells[-1], {}, Record({"cpu_seconds": 50.0}, {}))
    about = {key: value for key, value in record.items() if key not in ("tied", "seal")}
    about["study"]["deltas"] = [delta | {"size": DELTAS.get(delta["name"], delta["size"])} for delta in record["study"]["deltas"]]
    results.write_verdicts(made, about, tables=tables, cells=cells)
    return made


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_a_question_runs_in_four_lines(folder, capsys, block):
    assert len(block.strip().splitlines()) <= 4 and notebook.ASKED in block
    exec(block.replace(notebook.ASKED, str(folder)), {"costate": costate})
    assert capsys.readouterr().out.strip()


def test_every_question_is_asked():
    page = notebook.PAGE.read_text(encoding="utf-8")
    assert page.count("\n## ") == len(BLOCKS) >= 5


def test_the_notebook_is_the_page_and_executes_in_its_own_folder(folder, tmp_path, monkeypatch, capsys):
    """Its cells of code run one after the other in one namespace, as Jupyter runs them; Jupyter itself is not needed here."""
    (tmp_path / "notes").mkdir()
    monkeypatch.chdir(tmp_path)
    assert main(["export", str(folder), "--out", "notes/questions.ipynb"]) == 0
    monkeypatch.chdir(tmp_path / "notes")
    made = json.loads(pathlib.Path("questions.ipynb").read_text(encoding="utf-8"))
    assert (made["nbformat"], made["nbformat_minor"]) == (4, 5)
    assert len({cell["id"] for cell in made["cells"]}) == len(made["cells"])
    code = [cell["source"] for cell in made["cells"] if cell["cell_type"] == "code"]
    near = os.path.relpath(folder)
    assert code[1:] == [block.strip().replace(notebook.ASKED, near) for block in BLOCKS]
    capsys.readouterr()
    room = {}
    for number, source in enumerate(code):
        exec(source, room)
        assert bool(capsys.readouterr().out.strip()) == (number > 0)  # every question has an answer
    prose = "".join(cell["source"] for cell in made["cells"] if cell["cell_type"] == "markdown")
    assert prose.count("## ") == len(BLOCKS) and notebook.ASKED not in prose


def test_trainings_are_a_row_each_with_what_was_predicted_and_found(folder):
    made = costate.trainings(folder).set_index(["arm", "delta"])
    assert set(made.index) == {(arm, delta) for arm in ("full-batch", "practice") for delta in DELTAS}
    for (arm, delta), row in made.iterrows():
        assert (row["size"], row["loss"], row["accuracy"]) == (DELTAS[delta], LOSS[delta], 0.75)
        assert (row["reference_loss"], row["predicted_loss"], row["reference_accuracy"]) == (1.0, 0.75, 0.5)
        assert (
            row["cpu_seconds"] == 50.0 and row["norm"] == {"practice": 2.0, "full-batch": 3.0}[arm]
        )  # measured, where both are known
    gain = 100 * (made["accuracy"] - made["reference_accuracy"])
    assert (made["cpu_seconds"] / gain == 2.0).all()


def test_the_frame_tells_size_and_unit_of_every_number(folder):
    """And the dictionary is complete: the unit in the frame is the dictionary's, which knows every quantity."""
    frame = costate.measurements(folder)
    known = costate.dictionary(frame)
    assert (known["meaning"] != "not described").all() and (frame["unit"] != "").all()
    units = known["unit"].to_dict()
    assert [units[key] for key in zip(frame["claim"], frame["quantity"], strict=True)] == frame["unit"].tolist()
    kinds = {name: str(kind) for name, kind in frame.dtypes.items()}
    assert kinds["size"] == kinds["seed"] == "Int64" and kinds["value"] == "float64" and kinds["unit"] == "category"
    assert all(frame["size"][frame["delta"] == delta].eq(size).all() for delta, size in DELTAS.items())


def test_tables_come_back_from_files_as_they_were(folder, tmp_path):
    frame = costate.measurements(folder)
    for kind in ("csv", "parquet"):
        assert main(["export", str(folder), "--out", str(tmp_path / f"numbers.{kind}")]) == 0
    back = pd.read_csv(tmp_path / "numbers.csv")
    assert list(back.columns) == list(frame.columns) and (back["value"].to_numpy() == frame["value"].to_numpy()).all()
    pytest.importorskip("pyarrow")
    back = pd.read_parquet(tmp_path / "numbers.parquet")
    for name in (name for name in frame if frame[name].notna().any()):  # a category of nothing is no category
        assert back[name].dtype == frame[name].dtype or str(back[name].dtype) == "category" == str(frame[name].dtype), name


@pytest.mark.parametrize("table", ["numbers", "trainings", "verdicts", "dictionary", "intrinsic-dimension"])
@pytest.mark.parametrize("kind", ["tex", "md"])
def test_every_table_has_a_row_for_each_of_its_lines(folder, tmp_path, capsys, table, kind):
    out = tmp_path / f"out.{kind}"
    assert main(["export", str(folder), "--table", table, "--out", str(out), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    ends = {"tex": " \\\\", "md": " |"}
    lines = [line for line in out.read_text(encoding="utf-8").splitlines() if line.endswith(ends[kind])]
    assert len(lines) == told["rows"] + {"tex": 1, "md": 2}[kind] and told["table"] == table


def test_nothing_in_a_cell_is_markup():
    odd = pd.DataFrame({"na_me": [r"a\b", "50 % & #1_{x}^~$", "a|b\nc"], "value": [1 / 3, np.nan, -2e-9]})
    tex, md = written(odd, "tex"), written(odd, "md")
    assert r"a\textbackslash{}b & 0.3333 \\" in tex and r"50 \% \& \#1\_\{x\}\textasciicircum{}\textasciitilde{}\$ &  \\" in tex
    assert "\\begin{tabular}{lr}" in tex and "| a\\|b c | -2e-09 |" in md and md.splitlines()[1] == "| --- | ---: |"
    with pytest.raises(ValueError, match=f"among {', '.join(KINDS)}"):
        written(odd, "xls")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--out", "a.csv"], "give one of the two"),
        (["{}", "--checkpoint", "a", "--out", "a.csv"], "give one of the two"),
        (["{}", "--out", "a.xls"], "--out must end in .csv or .parquet or .tex or .md or .ipynb"),
        (["{}", "--out", "nowhere/a.csv"], "existing folder"),
        (["{}", "--out", "a.csv", "--table", "wishes"], "--table takes numbers"),
        (["{}", "--out", "a.csv", "--inside", "bert."], "--inside goes with --checkpoint"),
        (["{}", "--out", "a.ipynb", "--table", "verdicts"], "leave out --table"),
        (["nowhere", "--out", "a.csv"], "expected a results folder"),
        (["--checkpoint", "a", "--table", "verdicts", "--out", "b"], "--table goes with RESULTS"),
    ],
)
def test_what_cannot_be_written_is_a_sentence(folder, tmp_path, monkeypatch, capsys, words, says):
    monkeypatch.chdir(tmp_path)
    assert main(["export", *(word.format(folder) for word in words)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and says in said and said.count("\n") == 1 and not list(tmp_path.iterdir())
