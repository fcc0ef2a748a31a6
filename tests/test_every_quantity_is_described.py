"""One tidy frame holds a study's numbers in typed columns, and every quantity in it has a meaning and a unit."""

import ast
import inspect
import pathlib
import textwrap
import tomllib

import known_results
import numpy as np
import pandas as pd
import pytest
import record

from validations import dictionary, measurements, results
from validations.claims import CLAIMS
from validations.claims.tuned import experiment as tuned
from validations.frame import IDENTITY, PRACTICE, TRAINING
from validations.quantities import ASIDE, WORDS, described
from validations.store import Record, Store

ROOT = pathlib.Path(results.__file__).parent
KEPT = (*IDENTITY, "delta", "arm", "option", "role", "status", "ports", "end", "family", "place", "draw")  # words and places
PARTS = ("principal", "found_at_rank", "first", "scaled")  # no columns: share_principal, saved_first and so on are


def keys(function) -> set[str]:
    """Return the columns that a function writes one by one: the words that are keys in its source."""
    function = getattr(function, "func", function)
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    tables = [node for node in ast.walk(tree) if isinstance(node, ast.Dict)]
    return {key.value for table in tables for key in table.keys if isinstance(key, ast.Constant) and isinstance(key.value, str)}


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.id)
def test_every_column_that_a_claim_writes_is_described(claim):
    written = keys(claim.rows) - {*KEPT, *PARTS}
    assert not [name for name in sorted(written) if not described(claim.id, name)]


def test_every_column_of_the_tables_is_described():
    lacking = [
        (claim.id, name)
        for claim in CLAIMS
        for name, value in record.rows(claim.id)[0].items()
        if isinstance(value, int | float) and name not in KEPT and not described(claim.id, name)
    ]
    assert not lacking


def test_every_number_of_a_training_is_described():
    scalars = {"converged", "evaluations", "gradient_ratio"} | keys(tuned.predict) | keys(tuned.measure)
    words = {"bins", "profile", "profile_gradient", "profile_initial"}
    arrays = {"z", "gradient", "permuted", "random", "y0", "shift", "shift_gradient", "shift_permuted", "outputs"}
    assert not [name for name in sorted(scalars - words - arrays) if not described(TRAINING, name)]


def test_no_words_are_kept_of_columns_that_are_gone():
    source = [ast.parse(path.read_text(encoding="utf-8")) for path in sorted(ROOT.rglob("*.py"))]
    said = {node.value for tree in source for node in ast.walk(tree) if isinstance(node, ast.Constant)}
    kept = {table: known for path in WORDS for table, known in tomllib.loads(path.read_text(encoding="utf-8")).items()}
    begun, names = kept["beginnings"], {name for claim, known in kept.items() if claim not in ASIDE[1:] for name in known}
    gone = [
        name
        for name in sorted(names - {"like"} - said)  # energy_first may be written as energy_ and first
        if not any(name.startswith(start) and name.removeprefix(start) in said for start in begun)
    ]
    assert not gone


def test_the_dictionary_is_a_frame_of_words():
    known = dictionary()
    assert list(known.columns) == ["meaning", "unit"] and known.index.is_unique and len(known) > 200
    assert known.map(lambda text: isinstance(text, str) and bool(text.strip())).all(axis=None)
    for claim in {claim for claim, _ in known.index} - {"common", TRAINING, PRACTICE}:
        assert claim in {c.id for c in CLAIMS}


@pytest.fixture
def folder(tmp_path):
    """A study of one claim and two trainings."""
    store, keys_ = Store(tmp_path), ("a" * 20, "b" * 20)
    for seed, key in enumerate(keys_):
        settings = {"kind": "tuned", "name": "reviews", "digest": "d", "deltas": [["lora", {"kind": "LoRA"}]], "seed": seed}
        store.write("predicted", key, settings, Record({"predicted_loss": 0.5 + seed, "size": 64, "bins": ["0.mlp"]}, {}))
        store.write("cells", key, settings, Record({"loss": 0.25 + seed, "converged": True, "profile": [1.0]}, {}))
    rows = [
        {"task": "shop/reviews", "delta": "lora", "seed": s, "eta": 0.1, "inside": s == 0}
        | {"cosine": 0.5, "reached": True, "r2": None}
        for s in range(2)
    ]
    deltas = [{"name": "lora", "size": 64}, {"name": "full", "size": 9}]
    tasks = [{"name": "shop/reviews", "digest": "d"}]
    record = {"claims": [{"id": "control-direction"}], "study": {"deltas": deltas, "tasks": tasks}}
    results.write_verdicts(tmp_path, record, tables={("control-direction", "rows"): rows}, cells=keys_)
    return tmp_path


def test_the_frame_is_tidy_and_typed(folder):
    frame = measurements(folder)
    kinds = frame.dtypes
    assert kinds["value"] == np.float64 and kinds["row"] == np.int64 and str(kinds["seed"]) == "Int64"
    assert str(kinds["inside"]) == "boolean"
    for name in ("claim", "stage", "task", "delta", "port", "quantity"):
        assert isinstance(kinds[name], pd.CategoricalDtype)
    assert np.isfinite(frame["value"]).all() and {type(v) for v in frame["value"]} == {float}
    assert not frame.duplicated(["claim", "row", "stage", "quantity"]).any()
    assert set(frame["quantity"]) == {"eta", "cosine", "reached", "predicted_loss", "loss", "size", "converged"}
    assert {"mean", "std", "50%"} <= set(frame[frame["quantity"] == "eta"]["value"].describe().index)
    assert (dictionary(frame)["meaning"] != "not described").all()


def test_loss_per_parameter_and_prediction_against_training_are_one_line_each(folder):
    frame = measurements(folder)
    wide = frame[frame["claim"] == TRAINING].pivot(index=["task", "delta", "seed"], columns="quantity", values="value")
    assert set(wide.index.get_level_values("task")) == {"shop/reviews"}  # the study's name, not that of an earlier run's cell
    assert list(wide["loss"] / wide["size"]) == [0.25 / 64, 1.25 / 64]
    assert list(wide["predicted_loss"] - wide["loss"]) == [0.25, 0.25]
    sizes = frame[frame["claim"] == "study"].set_index("delta")["value"]
    assert dict(sizes) == {"lora": 64.0, "full": 9.0}


def test_every_table_of_a_study_is_in_the_frame(tmp_path):
    frame = measurements(known_results.write(tmp_path, tasks=2, seeds=1))
    tested = {name for name in results.read_verdicts(tmp_path)["tied"]["tables"] if "." not in name}
    assert set(frame["claim"]) == tested | {"study"}
    assert frame["value"].dtype == np.float64
