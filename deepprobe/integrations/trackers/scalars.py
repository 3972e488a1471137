"""Rows of the tidy frame as named scalars, under names that every tracker takes."""

from __future__ import annotations

import hashlib
import json
import re
from typing import TYPE_CHECKING, Any

from deepprobe.records.frame import UNIT

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    import pandas as pd

LAYER_MEASURES = ("condition_number_live", "effective_rank", "gradient_norm", "weight_norm", "update_ratio")
"""What is sent of each layer: a network of 164 layers has 245 of them in a probe, and 40 measures each."""

MAX_SEGMENT = 80
"""Letters of a segment of a name: MLflow allows 250 in all."""

_FORBIDDEN = re.compile(r"[^A-Za-z0-9_.-]")


def scalars(frame: pd.DataFrame, *, layer_measures: Collection[str]) -> dict[int, dict[str, float]]:
    """Scalars of tidy rows, by step and name.

    A number that is of no layer is called ``split/measure``. One of a layer is called ``measure/tap/view/layer`` (parts
    that a row does not have left out), with ``centred_`` before the measure of a centred matrix and ``call2`` behind
    the layer for a second call.

    Args:
        frame: Rows with the columns TIDY.
        layer_measures: Measures of layers that are kept, ``centred_`` ones under that name.

    Returns:
        Name to value for each step, steps ascending. Values may be NaN or infinite.

    Example:
        >>> import pandas as pd
        >>> from deepprobe.records.frame import TIDY
        >>> row = {"step": 5, "split": "test", "measure": "accuracy", "value": 0.5}
        >>> scalars(pd.DataFrame([row], columns=list(TIDY)), layer_measures=())
        {5: {'test/accuracy': 0.5}}
    """
    of_layer = frame["layer"].notna()
    measure = frame["measure"].where(~frame["centred"].eq(True), "centred_" + frame["measure"])
    kept = frame.assign(measure=measure)[~of_layer | (measure.isin(list(layer_measures)) & frame[UNIT].isna())]
    found: dict[int, dict[str, float]] = {}
    for row in kept.sort_values("step", kind="stable").to_dict("records"):
        found.setdefault(int(row["step"]), {})[_name(row)] = float(row["value"])
    return found


def settings(config: Mapping[str, Any]) -> dict[str, str]:
    """Nested settings as text under dotted names, which a tracker's table of settings shows.

    Example:
        >>> settings({"model": {"name": "resnet164"}, "training": {"lr": 0.1}})
        {'model.name': 'resnet164', 'training.lr': '0.1'}
    """
    return dict(_flat(config, ""))


def identity(name: str, config: Mapping[str, Any]) -> str:
    """A name for one run of one configuration, at most 100 letters long: the same again when it is resumed.

    Example:
        >>> identity("resnet164-seed0", {"lr": 0.1})
        'resnet164-seed0-c8e24980'
    """
    text = json.dumps(config, sort_keys=True, default=str)
    return f"{clean(name)}-{hashlib.sha256(f'{name}/{text}'.encode()).hexdigest()[:8]}"


def clean(text: str) -> str:
    """The text, if it is made of letters, digits, ``_``, ``-`` and ``.`` only; else such a text, no other's.

    Example:
        >>> clean("features.stage1.0"), clean("lstm[0]")
        ('features.stage1.0', 'lstm_0_-a47cd7')
    """
    made = _FORBIDDEN.sub("_", text)
    if made == text and text.strip(".") and len(text) <= MAX_SEGMENT:
        return text
    return f"{made[: MAX_SEGMENT - 7].strip('.')}-{hashlib.sha256(text.encode()).hexdigest()[:6]}"


def _name(row: Mapping[Any, Any]) -> str:
    """Name of one row."""
    if not _has(row["layer"]):
        return f"{clean(str(row['split']))}/{clean(str(row['measure']))}"
    parts = [str(row[key]) for key in ("measure", "tap", "view", "layer") if _has(row[key])]
    call = [f"call{int(row['call'])}"] if _has(row["call"]) and row["call"] > 1 else []
    return "/".join([*(clean(part) for part in parts if part), *call])


def _has(value: Any) -> bool:
    """Whether a cell is not missing."""
    return value is not None and value == value


def _flat(table: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, str]]:
    """Dotted names and texts."""
    for key, value in table.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value if isinstance(value, str) else json.dumps(value, default=str)
