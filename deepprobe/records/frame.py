"""The tidy frame that every probe and report speaks, and the wide table that people read.

A *wide* table has one row a layer call, a column a measure (``Spectrum.row``). The *tidy* frame has one row a number.
``tidy`` and ``wide`` turn one into the other without loss.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from deepprobe.records.spectrum import MEASURES

POINT = ("run", "seed", "round", "step", "epoch", "split")
"""Where in which experiment a number was taken; columns of every frame that comes from a run."""

LAYER = ("layer", "depth", "call", "tap", "view", "type", "dtype", "n_rows", "n_features", "sketched")
"""What a number of a layer was taken from."""

UNIT_COUNTS = ("n_dead", "n_constant", "n_duplicate", "n_rare", "n_nonfinite")

KERNEL_MEASURES = (
    "weight_norm", "gradient_norm", "gradient_noise", "gradient_snr", "gradient_noise_scale", "update_ratio",
    "n_micro_batches",
)  # fmt: skip
"""What is measured of a kernel beside its spectrum; rows of these have no status."""

TIDY = (
    *POINT, "layer", "depth", "call", "tap", "view", "type", "centred",
    "measure", "value", "low", "high", "status", "reason", "n_rows", "n_features", "dtype", "sketched",
)  # fmt: skip
"""Columns of the tidy frame. ``low``, ``high``, ``status`` and ``reason`` stand on ``condition_number`` rows."""

_NUMBERS = tuple(m for m in MEASURES if m not in {"status", "condition_number_low", "condition_number_high"})


def tidy(table: pd.DataFrame, **point: Any) -> pd.DataFrame:
    """One row a number, from a wide table of one row a layer call.

    Args:
        table: What ``condition_numbers`` returns, with or without the columns of POINT.
        **point: Values for columns of POINT that the table lacks, the same for every row.

    Returns:
        Frame with the columns TIDY; numbers that the table does not have are left out.
    """
    base = table.assign(**{k: v for k, v in point.items() if k not in table.columns}).reset_index(drop=True)
    columns = [
        (prefix, measure)
        for prefix, measures in (("", (*_NUMBERS, *UNIT_COUNTS, *KERNEL_MEASURES)), ("centred_", _NUMBERS))
        for measure in measures
        if prefix + measure in base.columns
    ]
    if not columns:
        return pd.DataFrame(columns=list(TIDY))
    n = len(base)
    frame = base.reindex(columns=[*POINT, *LAYER]).iloc[np.tile(np.arange(n), len(columns))].reset_index(drop=True)
    frame["centred"] = np.repeat([prefix != "" for prefix, _ in columns], n)
    frame["measure"] = pd.Series([measure for _, measure in columns for _ in range(n)], dtype=str)
    frame["value"] = np.concatenate([base[prefix + measure].to_numpy("float64") for prefix, measure in columns])
    certainties = [
        _certainty(base, prefix).set_axis(range(i * n, (i + 1) * n))
        for i, (prefix, measure) in enumerate(columns)
        if measure == "condition_number"
    ]
    return (frame.join(pd.concat(certainties)) if certainties else frame).reindex(columns=list(TIDY))


def _certainty(base: pd.DataFrame, prefix: str) -> pd.DataFrame:
    """What stands beside a condition number: low, high, status and reason."""
    found = base.reindex(columns=[prefix + c for c in ("condition_number_low", "condition_number_high", "status")])
    found.columns = pd.Index(["low", "high", "status"])
    return found.assign(reason=base.get(prefix + "reason", ""))


def wide(frame: pd.DataFrame) -> pd.DataFrame:
    """One row a layer call and point, from the tidy frame; the inverse of ``tidy``, in the order of the frame.

    Rows of different measures stand side by side: where a row lacks a measure there is NaN, and counts that some row
    lacks are float64.
    """
    layers = frame[frame["layer"].notna()]
    keys = [*POINT, *LAYER]
    if layers.empty:
        return pd.DataFrame(columns=keys)
    layers = layers.assign(_row=layers.groupby(keys, dropna=False, sort=False).ngroup())
    prefix = pd.Series(np.where(layers["centred"].astype(bool), "centred_", ""), index=layers.index)
    values = layers.assign(_column=prefix + layers["measure"]).pivot(index="_row", columns="_column", values="value")
    parts = [layers.drop_duplicates("_row").set_index("_row")[keys], values]
    kappa = layers[layers["measure"] == "condition_number"]
    for centred, name in ((False, ""), (True, "centred_")):
        part = kappa[kappa["centred"].astype(bool) == centred].set_index("_row")
        columns = {"low": "condition_number_low", "high": "condition_number_high"}
        parts.append(part[["low", "high", "status", "reason"]].rename(columns=columns).add_prefix(name))
    table = pd.concat(parts, axis=1)
    counts = [
        c for c in (*UNIT_COUNTS, "depth", "call", "n_rows", "n_features") if c in table and table[c].notna().all()
    ]
    return table.astype(dict.fromkeys(counts, "int64")).reset_index(drop=True)
