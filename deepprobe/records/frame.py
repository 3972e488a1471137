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

UNIT = "unit"
"""Index of a unit from 0; missing where a number is of a whole layer."""

UNIT_COUNTS = ("n_dead", "n_constant", "n_duplicate", "n_rare", "n_nonfinite")

KERNEL_MEASURES = (
    "weight_norm", "gradient_norm", "gradient_noise", "gradient_snr", "gradient_noise_scale", "update_ratio",
    "n_micro_batches",
)  # fmt: skip
"""What is measured of a kernel beside its spectrum; rows of these have no status."""

LAYER_MEASURES: tuple[str, ...] = (
    "gini", "top_1_share", "top_5_share", "top_10_share",
    "jacobian_sigma_max", "jacobian_sigma_min", "jacobian_condition_number", "jacobian_norm",
    "jacobian_to_output", "jacobian_from_input", "segment_sigma_max",
    "activation_gradient_norm", "gradient_cosine", "gradient_angle",
)  # fmt: skip
"""What is measured of a layer's tensors beside their spectrum; rows of these have no status."""

UNIT_MEASURES: tuple[str, ...] = (
    "conductance", "conductance_signed", "conductance_convergence_delta",
    "integrated_gradients", "integrated_gradients_signed", "integrated_gradients_convergence_delta",
    "gradient_x_activation", "gradient_x_activation_signed", "internal_influence", "internal_influence_signed",
    "feature_ablation", "feature_ablation_signed", "grad_cam", "grad_cam_signed", "output_difference",
    "activation_variance", "weight_magnitude", "damage",
    "activation_mean", "activation_std", "activation_min", "activation_max", "firing_rate", "saturated_share",
    "lifetime_sparseness", "class_selectivity", "preferred_class", "class_variance_share", "duplicate_of",
    "dead", "constant", "rare", "saturated", "duplicate", "nonfinite",
    "unit_weight_mean", "unit_weight_std", "unit_weight_norm",
)  # fmt: skip
"""What is measured of a unit; rows of these have no status."""

TIDY = (
    *POINT, "layer", "depth", "call", "tap", "view", "type", "centred",
    "measure", "value", "low", "high", "status", "reason", "n_rows", "n_features", "dtype", "sketched", UNIT,
)  # fmt: skip
"""Columns of the tidy frame. ``status`` and ``reason`` stand on ``condition_number`` rows; ``low`` and ``high`` there
are what rounding leaves, and value ∓ standard error where a table has a column ``<measure>_se``."""

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
    plain = (*_NUMBERS, *UNIT_COUNTS, *KERNEL_MEASURES, *LAYER_MEASURES, *UNIT_MEASURES)
    columns = [
        (prefix, measure)
        for prefix, measures in (("", plain), ("centred_", _NUMBERS))
        for measure in measures
        if prefix + measure in base.columns
    ]
    if not columns:
        return pd.DataFrame(columns=list(TIDY))
    n = len(base)
    frame = (
        base.reindex(columns=[*POINT, *LAYER, UNIT]).iloc[np.tile(np.arange(n), len(columns))].reset_index(drop=True)
    )
    frame["centred"] = np.repeat([prefix != "" for prefix, _ in columns], n)
    frame["measure"] = pd.Series([measure for _, measure in columns for _ in range(n)], dtype=str)
    frame["value"] = np.concatenate([base[prefix + measure].to_numpy("float64") for prefix, measure in columns])
    certainties = [
        found.set_axis(range(i * n, (i + 1) * n))
        for i, (prefix, measure) in enumerate(columns)
        if (found := _certainty(base, prefix, measure)) is not None
    ]
    return (frame.join(pd.concat(certainties)) if certainties else frame).reindex(columns=list(TIDY))


def _certainty(base: pd.DataFrame, prefix: str, measure: str) -> pd.DataFrame | None:
    """What stands beside a number: low and high, and of a condition number status and reason; None of most."""
    if measure == "condition_number":
        found = base.reindex(columns=[prefix + c for c in ("condition_number_low", "condition_number_high", "status")])
        found.columns = pd.Index(["low", "high", "status"])
        return found.assign(reason=base.get(prefix + "reason", ""))
    if f"{measure}_se" not in base or measure in _NUMBERS:
        return None
    value, error = base[measure].to_numpy("float64"), base[f"{measure}_se"].to_numpy("float64")
    return pd.DataFrame({"low": value - error, "high": value + error})


def wide(frame: pd.DataFrame) -> pd.DataFrame:
    """One row a layer call (or unit of it) and point, from the tidy frame; the inverse of ``tidy``, in its order.

    Rows of different measures stand side by side: where a row lacks a measure there is NaN, and counts that some row
    lacks are float64. There is a column ``unit`` only where some number is of a unit.
    """
    layers = frame[frame["layer"].notna()]
    keys = [*POINT, *LAYER, *([UNIT] if frame[UNIT].notna().any() else [])]
    if layers.empty:
        return pd.DataFrame(columns=keys)
    layers = layers.assign(_row=layers.groupby(keys, dropna=False, sort=False).ngroup())
    prefix = pd.Series(np.where(layers["centred"].astype(bool), "centred_", ""), index=layers.index)
    values = layers.assign(_column=prefix + layers["measure"]).pivot(index="_row", columns="_column", values="value")
    parts = [layers.drop_duplicates("_row").set_index("_row")[keys], values]
    kappa = layers[layers["measure"] == "condition_number"]
    for centred, name in () if layers[UNIT].notna().all() else ((False, ""), (True, "centred_")):
        part = kappa[kappa["centred"].astype(bool) == centred].set_index("_row")
        columns = {"low": "condition_number_low", "high": "condition_number_high"}
        parts.append(part[["low", "high", "status", "reason"]].rename(columns=columns).add_prefix(name))
    table = pd.concat([*parts, *_errors(layers)], axis=1)
    counted = (*UNIT_COUNTS, "depth", "call", "n_rows", "n_features", UNIT)
    counts = [c for c in counted if c in table and table[c].notna().all()]
    return table.astype(dict.fromkeys(counts, "int64")).reset_index(drop=True)


def _errors(layers: pd.DataFrame) -> list[pd.DataFrame]:
    """Columns ``<measure>_se`` of the measures that have a standard error, by row."""
    found = layers[layers["measure"].isin([*LAYER_MEASURES, *UNIT_MEASURES]) & layers["high"].notna()]
    found = found.assign(_column=found["measure"] + "_se", _error=found["high"] - found["value"])
    return [found.pivot(index="_row", columns="_column", values="_error")] if len(found) else []
