"""`costate probe MODEL`: a model of Hugging Face's with its adapter on the user's data, in minutes."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

import probes
from probes import drawing
from probes.live.attached import Attached
from probes.live.health import Health, MergedDifference, health, merged_difference, rank_pattern
from probes.live.survey import Forecast, Survey, forecast, linearity, survey
from probes.reach.linear_maps import LIMIT
from tuning.conversations import classified, conversations
from tuning.shipped import SHIPPED, folder_of, tokenizer_of

from ...store import write_atomic
from ..options import drawn
from ..output import aside, finite, write_record
from .progress import duration

TABLES, PAGES = ("csv", "parquet"), ("html",)
RANK = 8  # of a fresh LoRA
TASKS = {
    "CAUSAL_LM": "AutoModelForCausalLM",
    "SEQ_2_SEQ_LM": "AutoModelForSeq2SeqLM",
    "SEQ_CLS": "AutoModelForSequenceClassification",
}
ENDINGS = {
    "ForCausalLM": "CAUSAL_LM",
    "LMHeadModel": "CAUSAL_LM",
    "ForConditionalGeneration": "SEQ_2_SEQ_LM",
    "ForSequenceClassification": "SEQ_CLS",
}
UNITS = {
    "loss": "nats per response token, or per example",
    "eigenvalues and traces": "nats per squared unit of the adapter's numbers",
    "reach": "share of the Gauss-Newton trace: how far a module's numbers move the predictions",
    "change": "share of the adapter's squared norm",
    "a ± b": "b is a standard error over random vectors",
}


def model(options: argparse.Namespace) -> dict:
    """Return the adapter's health, curvature, dimension and reach; --out, --table, --figure and --html keep all of it."""
    out, table = drawn(options.out, "--out", ("json",)), drawn(options.table, "--table", TABLES)
    figure, html = drawn(options.figure, "--figure", drawing.FORMATS), drawn(options.html, "--html", PAGES)
    begun = time.perf_counter()
    if options.params and options.adapter:
        raise ValueError("--params names numbers of the model itself, --adapter those of an adapter: give one of the two")
    if (options.rank is not None or options.targets) and (options.params or options.adapter):
        flag, given = "--targets" if options.targets else "--rank", "--adapter" if options.adapter else "--params"
        raise ValueError(f"{flag} is of a fresh LoRA, which {given} leaves out: give one of the two")
    rank = RANK if options.rank is None else options.rank
    if not _file(options.data).is_file():
        raise ValueError(f"expected a file of rows at --data {options.data}, found none: check the path")
    aside(f"reading {options.model}{' with ' + options.adapter if options.adapter else ''}")
    live, tokenizer, task = _loaded(options, rank)
    attached, notes = _attached(options, live, tokenizer, task)
    head = {
        "model": options.model,
        "adapter": options.adapter or ("none" if options.params else f"fresh LoRA of rank {rank}, B = 0"),
        "loss kind": attached.kind,
        "numbers": attached.size,
        "sequences": sum(len(b["labels"]) for b in attached.batches),
        "dtype": options.dtype,
        "device": options.device,
    }
    plan, attached, cut = _planned(options, attached)
    aside(_foretold(plan, attached, head["sequences"]))
    if options.dry_run:
        return head | {"forecast": dataclasses.asdict(plan)}
    found = survey(
        attached, ridge=options.ridge, probes=options.probes, steps=options.steps, seed=options.seed, progress=_progress(plan)
    )
    checked, merged = _health(live, attached)
    made = head | {"measured on": f"{found.sequences} sequences, {found.items:g} items", "status": found.status}
    made |= {"whole": _whole(found) | _rounding(options, live, attached, found), "adapter health": _healthy(checked, merged)}
    regime, said = _regime(attached, checked)
    made |= {"linear regime": regime} if regime else {}
    if (
        checked is not None
        and any("LoRA" in row.kind and not row.untrained for row in checked.rows)
        and len(checked.adapters) == 1
    ):
        made["rank pattern"] = {"share": options.share, "rank_pattern": rank_pattern(checked, options.share)}
    made |= {"layers": [_row(part) for part in found.layers], "modules": _modules(found, checked)}
    health_notes = checked.notes if checked is not None else ()
    made["notes"] = [*notes, *cut, *health_notes, *(merged.notes if merged is not None else ()), *said]
    made |= {"units": UNITS, "seconds": round(time.perf_counter() - begun, 1), "products": found.products}
    _keep(made, out, table, figure, html)
    return made


def text(made: Mapping) -> dict:
    """Return the result cut to what a terminal shows: the layers, and the modules of the largest reach."""
    if "modules" not in made:
        return dict(made)
    shown = {key: value for key, value in made.items() if key not in ("modules", "rank pattern")}
    shown["whole"] = {key: _said(value) for key, value in made["whole"].items()}
    shown["layers"] = [_short(row, "layer") for row in made["layers"]]
    rows = sorted(made["modules"], key=lambda row: -row["reach"])[:10]
    shown["modules of the largest reach"] = [_short(row, "module") for row in rows]
    if "rank pattern" in made:
        pattern = made["rank pattern"]["rank_pattern"]
        few = len(pattern) <= 2 * len(rows)
        ranks = f"ranks {min(pattern.values())} to {max(pattern.values())} in {len(pattern)} modules, whole with --html or --out"
        shown["rank_pattern"] = json.dumps(pattern) if few else ranks
    notes = shown.pop("notes")
    return shown | ({"notes": dict(enumerate(notes, start=1))} if notes else {})


def _said(value: object) -> object:
    """An estimate or an eigenvalue as words."""
    if not isinstance(value, Mapping):
        return value
    error = value.get("stderr", value.get("residual"))
    return f"{'' if value.get('converged', True) else '~'}{value['value']:.4g} ± {error:.2g}"


def _loaded(options: argparse.Namespace, rank: int) -> tuple[Any, Any, str]:
    """The live model, its tokenizer and PEFT's name of its task; ValueError for what cannot be loaded, in one sentence."""
    from transformers import AutoConfig, AutoTokenizer
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    settings = _settings(options.adapter)
    place = reader = options.model
    if place in SHIPPED and not Path(place).exists():
        place, reader = str(folder_of(place)), str(tokenizer_of(place))
    if place.startswith((".", "/", "~")) and not (Path(place).expanduser() / "config.json").is_file():
        raise ValueError(f"expected a model folder with config.json or a hub name, got {options.model!r}: check the path")
    try:
        config = AutoConfig.from_pretrained(place, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"expected a model folder or a reachable hub name, got {options.model!r}: {str(error).splitlines()[0]}"
        ) from error
    name = (getattr(config, "architectures", None) or ["?"])[0]
    task = settings.get("task_type") or next((kind for end, kind in ENDINGS.items() if name.endswith(end)), None)
    if task not in TASKS:
        raise ValueError(
            f"expected a causal or encoder-decoder language model, or an adapter of task_type {', '.join(TASKS)}, got {name} "
            f"with task_type={settings.get('task_type')!r}: for an encoder and a labelled task use probe curvature --backbone"
        )
    import transformers

    dtype = getattr(torch, options.dtype)
    own = {"num_labels": _classes(options, config)} if task == "SEQ_CLS" else {}
    live = getattr(transformers, TASKS[task]).from_pretrained(
        place, dtype=dtype, trust_remote_code=False, use_safetensors=True, attn_implementation="eager", **own
    )
    live = live.to(options.device).eval()
    tokenizer = AutoTokenizer.from_pretrained(reader, trust_remote_code=False)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    if live.config.pad_token_id is None:
        live.config.pad_token_id = tokenizer.pad_token_id
    return _adapted(options, rank, live, task), tokenizer, task


def _settings(adapter: str | None) -> dict:
    if adapter is None:
        return {}
    try:
        return json.loads((Path(adapter) / "adapter_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"expected a PEFT folder with adapter_config.json at {adapter}: {error}") from error


def _classes(options: argparse.Namespace, config) -> int:
    """The classes of the adapter's own classifier, else of the model's configuration."""
    from safetensors import safe_open

    path = Path(options.adapter or ".") / "adapter_model.safetensors"
    if options.adapter and path.is_file():
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118 (no mapping)
                if name.endswith(("classifier.weight", "score.weight", "out_proj.weight")):
                    return file.get_slice(name).get_shape()[0]
    return config.num_labels


def _adapted(options: argparse.Namespace, rank: int, live, task: str):
    """The model with the adapter that is asked for, or a fresh one; as it is where --params names its own numbers."""
    if options.params:
        return live
    try:
        import peft
    except ImportError as error:
        raise ValueError("expected the package peft: run pip install peft, or name the model's own --params") from error
    warnings.filterwarnings("ignore", category=FutureWarning)  # transformers' own, about its names
    if options.adapter is None:
        return peft.get_peft_model(live, peft.LoraConfig(r=rank, target_modules=options.targets, task_type=task)).eval()
    try:
        return peft.PeftModel.from_pretrained(live, options.adapter, is_trainable=True).eval()
    except (RuntimeError, KeyError, AttributeError) as error:
        raise ValueError(
            f"expected an adapter of {options.model} at {options.adapter}, PEFT cannot load it: {str(error).splitlines()[0]}"
        ) from error


def _attached(options: argparse.Namespace, live, tokenizer, task: str) -> tuple[Attached, tuple[str, ...]]:
    """The model with the data as batches, and what was noted of the data."""
    path = _file(options.data)
    shape = {"length": options.length, "batch_size": options.batch}
    if task == "SEQ_CLS":
        classes = [live.config.id2label[i] for i in range(live.config.num_labels)]
        data = classified(path, tokenizer, classes=None if classes[0].startswith("LABEL_") else classes, **shape)
    else:
        data = conversations(path, tokenizer, encoder_decoder=task == "SEQ_2_SEQ_LM", **shape)
    batches = data.batches if options.sequences is None else data.batches[: math.ceil(options.sequences / options.batch)]
    attached = probes.attach(live, batches, reduction=options.reduction, params=options.params)
    return attached, (*data.notes, *attached.notes)


def _file(data: str) -> Path:
    """The file, or the one in a folder that a model is best measured on."""
    path = Path(data)
    if path.is_dir():
        for part in ("dev", "validation", "test", "train"):
            for found in sorted(path.glob(f"{part}.*")):
                return found
        raise ValueError(f"expected a file, or a folder with dev, validation, test or train, got {data!r}: name a file")
    return path


def _planned(options: argparse.Namespace, attached: Attached) -> tuple[Forecast, Attached, tuple[str, ...]]:
    """The forecast, and as much of the data as the minutes allow."""
    aside("timing one product")
    shape = {"probes": options.probes, "steps": options.steps}
    plan, whole = forecast(attached, **shape), len(attached.batches)
    if options.minutes is None or plan.seconds <= 60 * options.minutes:
        return plan, attached, ()
    kept = int(whole * 54 * options.minutes / plan.seconds)  # a tenth is left for what a forecast misses
    rows = None
    if kept < 1:
        first = attached.first(1)
        share = forecast(first, **shape).seconds / (54 * options.minutes)
        rows = max(1, int(len(first.batches[0]["labels"]) / share))
    cut = attached.first(max(kept, 1), rows)
    n, every = (sum(len(b["labels"]) for b in a.batches) for a in (cut, attached))
    return (
        forecast(cut, **shape),
        cut,
        (f"measured on the first {n} of {every} sequences, which {options.minutes:g} minutes allow: give more --minutes",),
    )


def _foretold(plan: Forecast, attached: Attached, every: int) -> str:
    n = sum(len(b["labels"]) for b in attached.batches)
    return (
        f"forecast: {plan.products} products of {plan.each:.2g} s on {n} of {every} sequences, "
        f"about {duration(plan.seconds)}, {plan.held / 2**30:.2g} GiB for kept graphs"
    )


def _progress(plan: Forecast):
    begun = time.perf_counter()

    def say(done: int, what: str) -> None:
        gone = time.perf_counter() - begun
        rate = gone / done if done else plan.each
        aside(f"[{done}/{plan.products}] {what}, about {duration(max(plan.products - done, 0) * rate)} left")

    return say


def _health(live, attached: Attached) -> tuple[Health | None, MergedDifference | None]:
    """The adapter's health, and merged against unmerged on the first batch; None where there is no adapter or no merging."""
    if not hasattr(live, "peft_config"):
        return None, None
    aside("the adapter's health")
    checked = health(live)
    try:
        merged = merged_difference(live, [{k: v for k, v in attached.batches[0].items() if k != "labels"}])
    except ValueError as error:
        return dataclasses.replace(checked, notes=(*checked.notes, f"merged against unmerged was not compared: {error}")), None
    return checked, merged


def _regime(attached: Attached, checked: Health | None) -> tuple[dict | None, tuple[str, ...]]:
    """How far the adapter's run is from its linearisation at B = 0, where it is a LoRA that was trained."""
    if (
        checked is None
        or all(row.untrained for row in checked.rows)
        or any(not row.kind.endswith("LoRA") for row in checked.rows)
    ):
        return None, ("the linear regime is that of a trained LoRA, whose start is known (B = 0)",) if checked is not None else ()
    start = {k: x * 0 if "lora_B" in k or "lora_embedding_B" in k else x for k, x in attached.params.items()}
    found = linearity(attached.first(1), start)
    inside = found.eta <= LIMIT
    verdict = (
        "inside the linear regime" if inside else "outside the linear regime: forecasts made at the start do not hold for it"
    )
    return {"cosine": found.cosine, "eta": found.eta, "change": found.change, "verdict": verdict}, ()


def _estimate(e: probes.Estimate) -> dict:
    return {"value": e.value, "stderr": e.stderr, "interval": list(e.interval)}


def _whole(found: Survey) -> dict:
    return {
        "loss": found.loss,
        "gradient": found.gradient,
        "largest eigenvalue": dataclasses.asdict(found.largest),
        "smallest eigenvalue": dataclasses.asdict(found.smallest),
        "gradient descent is stable up to a rate of": 2 / found.largest.value if found.largest.value > 0 else math.inf,
        "trace": _estimate(found.trace),
        "Gauss-Newton trace": _estimate(found.gauss_newton_trace),
        f"effective dimension at ridge {found.ridge:g}": _estimate(found.effective_dimension),
    }


def _rounding(options: argparse.Namespace, live, attached: Attached, found: Survey) -> dict:
    """What rounding moves a product by, where the base is coarse: against the same base computed in float32, on one sequence."""
    if found.status == "exact":
        return {}
    aside("a product in float32, to compare with")
    part = attached.first(1, 1)
    fine = probes.attach(live, part.batches, reduction=options.reduction, params=list(part.params), dtype=torch.float32)
    return {"error of a product against float32": part.hessian(allow_unused=True).product_error(fine.hessian(allow_unused=True))}


def _healthy(checked: Health | None, merged: MergedDifference | None) -> dict:
    if checked is None:
        return {"adapter": "none"}
    untrained = sum(row.untrained for row in checked.rows)
    made = {
        "modules": len(checked.rows),
        "untrained modules": untrained,
        "norm of the change": checked.norm,
        "over that of the weights": checked.norm / checked.base_norm if checked.base_norm else math.nan,
    }
    if merged is not None:
        made |= {
            "largest change of a logit": merged.effect,
            "merged against unmerged": merged.difference,
            "rounding": merged.rounding,
        }
    return made


def _row(part) -> dict:
    return {
        "place": part.name,
        "size": part.size,
        "gradient": part.gradient,
        "trace": _estimate(part.trace),
        "gauss_newton_trace": _estimate(part.gauss_newton_trace),
        "reach": part.reach,
    }


def _modules(found: Survey, checked: Health | None) -> list[dict]:
    """A row per module, with what its adapter has become."""
    known = {row.name: row for row in (checked.rows if checked is not None else ())}
    made = []
    for part in found.modules:
        row, one = _row(part), known.get(part.name)
        made.append(
            row
            | {
                "kind": one.kind if one else "",
                "r": one.r if one else None,
                "change": one.share if one else None,
                "effective_rank": one.effective_rank if one else None,
                "untrained": one.untrained if one else False,
            }
        )
    return made


def _short(row: Mapping, kind: str) -> dict:
    made = {
        kind: row["place"],
        "D": row["size"],
        "gradient": row["gradient"],
        "GN trace": row["gauss_newton_trace"],
        "reach": row["reach"],
    }
    if kind == "module":
        known = {"change": row["change"], "eff. rank": row["effective_rank"], "r": row["r"]}
        made |= {head: "-" if value is None else value for head, value in known.items()}
    return made


def _keep(made: Mapping, out: Path | None, table: Path | None, figure: Path | None, html: Path | None) -> None:
    """Write what is asked for, each file whole or not at all."""
    picture = drawing.modules_figure(made["modules"]) if figure or html else None
    if figure:
        write_atomic(figure, drawing.file_bytes(picture, figure.suffix[1:]))
    if html:
        write_atomic(html, drawing.model_page(finite(made), drawing.file_bytes(picture, "svg").decode()).encode())
    if table:
        write_atomic(table, _tabled(made["modules"], table.suffix[1:]))
    if out:
        write_record(out, made)


def _tabled(rows: list[dict], kind: str) -> bytes:
    import io

    import pandas

    flat = [
        {**row, **{f"{key}_stderr": row[key]["stderr"] for key in _ESTIMATES}, **{key: row[key]["value"] for key in _ESTIMATES}}
        for row in rows
    ]
    frame, held = pandas.DataFrame(flat), io.BytesIO()
    if kind == "csv":
        return frame.to_csv(index=False).encode()
    try:
        frame.to_parquet(held, index=False)
    except ImportError as error:
        raise ValueError("expected the package pyarrow for Parquet: run pip install pyarrow, or give --table FILE.csv") from error
    return held.getvalue()


_ESTIMATES = ("trace", "gauss_newton_trace")
