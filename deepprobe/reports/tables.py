"""Tables: one row a network, the layers by stage for the page, and CSV files that no spreadsheet executes."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from deepprobe.reports.facts import layer_facts, trainings
from deepprobe.reports.source import METRIC_COLUMNS, Network, facet, facets, last_step, networks
from deepprobe.reports.words import STATUSES, clean, number
from deepprobe.runs.atomic import make_folder, write_bytes

SUMMARY = (
    "network", "tap", "view", "n_runs", "n_layers", "finite", "structural", "collapsed", "unresolved", "nonfinite",
    "onset", "onset_live", "horizon", "kappa_median", "kappa_greatest", "live_median", "null_ratio_median", "accuracy",
    "chance",
)  # fmt: skip
"""Columns of ``summary``."""

COLUMNS = (
    "depth", "layer", "type", "n × d", "status", "κ", "κ at least", "κ at most", "κ over live units", "κ Gaussian",
    "numerical rank", "effective rank", "dead", "constant", "duplicate", "reason",
)  # fmt: skip
"""Headings of the table of layers."""

MOST_GROUPS = 12
"""Finest grouping into stages that a page shows."""


def summary(source: Any) -> pd.DataFrame:
    """One row a network, tap and view: numbers that stand for several runs are means over them.

    Args:
        source: Anything that ``write_report`` takes: a wide table, a run, a list or dict of these.

    Returns:
        Frame with the columns SUMMARY. ``onset`` is NaN unless every run has one.

    Raises:
        ShapeError: If source is none of these or a table lacks required columns.
    """
    return summary_of(networks(source))


def summary_of(group: Sequence[Network]) -> pd.DataFrame:
    """As ``summary``, of networks that are already read."""
    rows = []
    for network in group:
        trained = pd.DataFrame(trainings(network), dtype=object)[["accuracy", "chance"]].astype("float64")
        for tap, view in facets(network.layers):
            last = last_step(facet(network.layers, tap, view))
            parts = [layer_facts(part) for _, part in last.groupby("run", sort=False, dropna=False)]
            facts = pd.DataFrame(parts, dtype=object).astype("float64")
            certain = ["onset", "onset_live", "horizon"]
            mean = {**_means(facts.drop(columns=certain), skipna=True), **_means(facts[certain], skipna=False)}
            point = {"network": network.name, "tap": tap, "view": view, "n_runs": len(parts)}
            rows.append({**mean, **_means(trained, skipna=True), **point})
    return pd.DataFrame(rows, columns=list(SUMMARY))


def _means(frame: pd.DataFrame, *, skipna: bool) -> dict[str, float]:
    """Mean of every column."""
    return {str(name): float(frame[name].mean(skipna=skipna)) for name in frame}


@dataclass(frozen=True)
class Cell:
    """One cell of a table on the page: what is read, and what is sorted by (a number, or nothing for text)."""

    text: str
    sort: str = ""


@dataclass(frozen=True)
class Stage:
    """Layers that stand together on the page."""

    name: str
    summary: str
    rows: tuple[tuple[Cell, ...], ...]


def stages(frame: pd.DataFrame) -> tuple[Stage, ...]:
    """Layers of one run, step, tap and view, grouped by the beginning of their names.

    Args:
        frame: Normalised wide table.

    Returns:
        Stages in order of depth, each with cells under the headings COLUMNS.
    """
    stage = _stage_of(frame["layer"])
    names = frame["layer"].map(lambda name: stage[name])
    result = []
    for name, rows in frame.groupby(names, sort=False):
        rows = rows.sort_values("depth", kind="stable")
        cells = tuple(_cells(row) for row in rows.to_dict("records"))
        result.append(Stage(str(name), _stage_words(rows), cells))
    return tuple(result)


def _stage_of(layers: pd.Series) -> dict[str, str]:
    """Stage of each layer: as many leading parts of the dotted name as give two to MOST_GROUPS groups."""
    split = {name: name.split(".") for name in layers.unique()}
    longest = max((len(parts) for parts in split.values()), default=1)
    best = dict.fromkeys(split, "all layers")
    for length in range(1, longest):
        groups = {name: ".".join(parts[:length]) for name, parts in split.items()}
        count = len(set(groups.values()))
        if count > MOST_GROUPS:
            break
        if count > 1:
            best = groups
            if count > 2:
                break
    return best


def _stage_words(rows: pd.DataFrame) -> str:
    """Depths, number of layers and their statuses, for the line that opens a stage."""
    low, high = rows["depth"].min(), rows["depth"].max()
    depths = f"depth {number(low)}" if low == high else f"depths {number(low)}–{number(high)}"
    counts = rows["status"].value_counts()
    parts = [f"{count} {STATUSES.get(str(status), str(status))}" for status, count in counts.items()]
    finite = rows.loc[rows["status"] == "finite", "condition_number"]
    ends = list(dict.fromkeys((number(finite.min()), number(finite.max())))) if len(finite) else []
    kappa = f", κ {' to '.join(ends)}" if ends else ""
    return f"{depths}, {len(rows)} layer{'s' * (len(rows) != 1)}: {', '.join(parts)}{kappa}"


def _cells(row: dict[Any, Any]) -> tuple[Cell, ...]:
    """Cells of one layer, in the order of COLUMNS."""
    call = "" if not row["call"] > 1 else f" (call {row['call']:.0f})"
    shape = f"{number(row['n_rows'])} × {number(row['n_features'])}" + (" sketched" if row["sketched"] > 0 else "")
    status = STATUSES.get(row["status"], row["status"])
    before = [
        _numeric(row["depth"]), Cell(row["layer"] + call), Cell(row["type"]), Cell(shape, _key(row["n_features"])),
        Cell(status),
    ]  # fmt: skip
    names = (
        "condition_number", "condition_number_low", "condition_number_high", "condition_number_live",
        "condition_number_null", "numerical_rank", "effective_rank", "n_dead", "n_constant", "n_duplicate",
    )  # fmt: skip
    numbers = [_numeric(row[name]) for name in names]
    if row["status"] == "singular-at-precision" and np.isfinite(row["condition_number_low"]):
        numbers[0] = Cell(f"≥ {number(row['condition_number_low'])}", numbers[0].sort)
    return (*before, *numbers, Cell(row["reason"]))


def _numeric(value: float) -> Cell:
    """Cell of a number."""
    return Cell(number(value), _key(value))


def _key(value: float) -> str:
    """Number as JavaScript reads it; NaN sorts last."""
    if np.isnan(value):
        return "NaN"
    return repr(float(value)).replace("inf", "Infinity")


def write_tables(source: Any, folder: str | Path) -> tuple[Path, ...]:
    """Write ``layers.csv``, ``metrics.csv``, ``summary.csv`` and, where there are such rows, ``kernels.csv``.

    UTF-8; infinity as ``inf``, NaN as nothing. Text that a spreadsheet would take for a formula (``=``, ``+``, ``-``,
    ``@``, also after blanks) gets an apostrophe in front; control characters become visible escapes.

    Args:
        source: Anything that ``write_report`` takes.
        folder: Where to write; made if it is not there.

    Returns:
        The files' paths.

    Raises:
        ShapeError: If source is none of these or a table lacks required columns.
        RunError: If a file cannot be written.
    """
    group = networks(source)
    target = Path(folder)
    make_folder(target)
    layers = [n.layers for n in group if len(n.layers)]
    metrics = [n.metrics for n in group if len(n.metrics)]
    frames = {
        "layers.csv": pd.concat(layers, ignore_index=True) if layers else pd.DataFrame(columns=["network", "layer"]),
        "metrics.csv": pd.concat(metrics, ignore_index=True) if metrics else pd.DataFrame(columns=list(METRIC_COLUMNS)),
        "summary.csv": summary_of(group),
    }
    if kernels := [n.kernels for n in group if len(n.kernels)]:
        frames["kernels.csv"] = pd.concat(kernels, ignore_index=True)
    for name, frame in frames.items():
        write_bytes(target / name, to_csv(frame).encode())
    return tuple(target / name for name in frames)


def to_csv(frame: pd.DataFrame) -> str:
    """A frame as CSV that no spreadsheet executes."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([_safe(c) for c in frame.columns])
    for row in frame.itertuples(index=False, name=None):
        writer.writerow([_safe(value) for value in row])
    return buffer.getvalue()


def write_csv(frame: pd.DataFrame, path: str | Path) -> Path:
    """Write a frame as ``to_csv`` gives it, in one step; RunError if the file cannot be written."""
    target = Path(path)
    make_folder(target.parent)
    write_bytes(target, to_csv(frame).encode())
    return target


def _safe(value: Any) -> Any:
    """A value as a CSV cell."""
    if isinstance(value, str):
        text = clean(value)
        return "'" + text if text.lstrip(" '\"").startswith(("=", "+", "-", "@", "＝", "＋", "－", "＠")) else text
    if value is None or value is pd.NA or value is pd.NaT or (isinstance(value, float) and np.isnan(value)):
        return ""
    if isinstance(value, float | np.floating):
        return (
            int(value)
            if np.isfinite(value) and float(value).is_integer() and abs(float(value)) < 2**53
            else float(value)
        )
    return value if isinstance(value, bool | int | np.integer | np.bool_) else _safe(str(value))
