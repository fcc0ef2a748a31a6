"""Tasks from the Hugging Face hub, through the optional package ``datasets``; never trusts remote code."""

from __future__ import annotations

from collections.abc import Mapping

from tuning.tasks.columns import chosen
from tuning.tasks.files import DEV_NAMES, Row, named, task_from_rows
from tuning.tasks.task import Task


def load(name: str, columns: Mapping[str, str] | None) -> Task:
    """Return the task in a hub data set, ``dataset`` or ``dataset:config``.

    Class names come from the label column's own list. Where the test labels are hidden (-1) or there is no
    test split, the validation split is the test split and there is no dev. Raises ValueError when
    ``datasets`` is not installed, when the data set cannot be had, and for whatever ``task_from_rows``
    refuses.
    """
    dataset, _, config = name.partition(":")
    if not dataset:
        raise ValueError("expected hub:<dataset> or hub:<dataset>:<config>, but the data set has no name: add it")
    try:
        import datasets
    except ImportError as error:
        raise ValueError(f"loading {name!r} from the hub needs the package datasets: pip install datasets") from error
    try:
        found = datasets.load_dataset(dataset, config or None)
    except Exception as error:  # the client raises many kinds, none of them its own
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"the hub data set {name!r} could not be loaded ({reason}): check its name and the network") from error
    splits = {"dev" if key in DEV_NAMES else key: table for key, table in found.items()}
    splits = {key: table for key, table in splits.items() if key in ("train", "dev", "test")}
    if "train" not in splits:
        raise ValueError(f"the hub data set {name!r} has the splits {', '.join(found)}, expected train: choose another")
    parts = chosen(list(splits["train"].column_names), columns, f"{name}/train", strict=False)
    rows: dict[str, list[Row]] = {key: named(list(table), parts, f"{name}/{key}") for key, table in splits.items()}
    hidden = all(row["label"] in (-1, None) for row in rows.get("test", ()))
    if hidden and "dev" in rows:
        rows["test"] = rows.pop("dev")
    feature = splits["train"].features.get(parts["label"])
    classes = getattr(feature, "names", None)
    return task_from_rows(dataset.split("/")[-1], "hub", rows, classes, f"hub data set {name}")
