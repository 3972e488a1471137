"""From a row a unit to a row a layer: concentration, agreement of rankings, and what became of units under a mask."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from scipy.stats import spearmanr

from deepprobe.errors import ConfigError, ShapeError, nearest
from deepprobe.measures.concentration import gini, top_share
from deepprobe.records.frame import LAYER

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import ArrayLike, NDArray

SHARES = {"top_1_share": 0.01, "top_5_share": 0.05, "top_10_share": 0.10}
"""Columns, and the fraction of a layer's units whose share they give."""

RANKINGS = (
    "conductance", "integrated_gradients", "gradient_x_activation", "internal_influence", "feature_ablation",
    "grad_cam", "weight_magnitude", "activation_variance", "damage",
)  # fmt: skip
"""Columns of a table of units that say how much a unit matters: the more, the larger."""


def concentration(units: pd.DataFrame, measure: str = "conductance") -> pd.DataFrame:
    """How few units of each layer hold how much of its attribution.

    Args:
        units: One row a unit, as ``attributions`` gives it.
        measure: The column that is shared out, not negative.

    Returns:
        One row a layer, with its columns: ``measure``; ``gini``; ``top_1_share``, ``top_5_share`` and ``top_10_share``,
        the share of the total that the largest 1, 5 and 10 % of the units hold (of 16 units 10 % are 1.6: a part of a
        unit holds that part of its value); as ``deepprobe.measures.concentration`` defines them. NaN where the total is
        zero or a value is not finite.

    Raises:
        ConfigError: If the table does not have the column, or a value is negative.
    """
    _check_columns(units, [measure])
    rows = []
    for about, part in _by_layer(units):
        values = part[measure].to_numpy("float64")
        shares = {column: top_share(values, fraction) for column, fraction in SHARES.items()}
        rows.append(about | {"measure": measure, "gini": gini(values)} | shares)
    return pd.DataFrame(rows)


def agreement(units: pd.DataFrame, rankings: Sequence[str] | None = None) -> pd.DataFrame:
    """Spearman's rank correlation between ways to rank the units of a layer, of every pair.

    Spearman (1904): the correlation of the ranks, equal values sharing the mean of theirs.

    Args:
        units: One row a unit, as ``attributions`` gives it, with further columns if wished.
        rankings: Columns; by default those of RANKINGS that the table has.

    Returns:
        One row a layer and pair: the layer's columns, ``first``, ``second``, and ``spearman`` between −1 and 1; NaN of
        fewer than three units, where one of the two is the same for all, and where a value is not finite.

    Raises:
        ConfigError: If a column is not there, or there are fewer than two.
    """
    names = ranking_columns(units, rankings)
    if len(names) < 2:
        raise ConfigError(f"agreement is between two rankings at least; these units have {', '.join(names) or 'none'}")
    return pd.DataFrame(
        [
            about | {"first": a, "second": b, "spearman": spearman(part[a], part[b])}
            for about, part in _by_layer(units)
            for a, b in combinations(names, 2)
        ]
    )


def ranking_columns(units: pd.DataFrame, rankings: Sequence[str] | None) -> list[str]:
    """The columns asked for, or those of RANKINGS that hold some number; ConfigError if one is not there."""
    if rankings is None:
        return [name for name in RANKINGS if name in units and units[name].notna().any()]
    _check_columns(units, rankings)
    return list(dict.fromkeys(rankings))


def spearman(first: ArrayLike, second: ArrayLike) -> float:
    """Spearman's rank correlation of two vectors; NaN of fewer than three, of a constant, and of what is not finite."""
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if len(a) < 3 or not (np.isfinite(a).all() and np.isfinite(b).all()) or np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    return float(spearmanr(a, b).statistic)


def mask_relation(units: pd.DataFrame, masks: Mapping[str, Any], *, measure: str = "conductance") -> pd.DataFrame:
    """Whether the weights that a mask keeps lead into the units that matter, by layer.

    Args:
        units: One row a unit, as ``attributions`` gives it: of the trained dense network, to ask whether the mask
            follows what mattered; of the ticket, to ask whether what was kept is used.
        masks: From names of parameters to masks, True or 1 where a weight is kept, as ``pruning.Masks`` or its
            ``arrays()``. Layers without one are left out, and transposed convolutions, whose rows are not their units.
        measure: The column to compare with.

    Returns:
        One row a layer that has a mask, with its columns: ``measure``; ``density``, the share of its weights that is
        kept; ``spearman`` between the share that is kept of a unit's incoming weights and the measure (NaN as in
        ``agreement``); ``n_emptied``, units that lost all incoming weights; ``emptied_share``, the share of the layer's
        total of the measure that those units hold.

    Raises:
        ConfigError: If the table does not have the column, or no layer of it has a mask.
        ShapeError: If a mask does not have a row a unit of the table.
    """
    _check_columns(units, [measure])
    rows = []
    for about, part in _by_layer(units):
        name = f"{about['layer']}.weight".lstrip(".")
        if name in masks and "Transpose" not in str(about["type"]):
            rows.append(about | {"measure": measure} | _relation(part[measure].to_numpy("float64"), masks[name], name))
    if not rows:
        raise ConfigError(f"none of the {units['layer'].nunique()} layers has a mask; there are {_few(list(masks))}")
    return pd.DataFrame(rows)


def _relation(values: NDArray[np.float64], mask: Any, name: str) -> dict[str, Any]:
    """What a mask of a layer has to do with the values of its units."""
    kept = torch.as_tensor(mask).cpu().numpy().astype(bool)
    if kept.ndim < 2 or len(kept) != len(values):
        raise ShapeError(f"the mask {name!r} has shape {kept.shape}; the table has {len(values)} units of that layer")
    densities = kept.reshape(len(kept), -1).mean(axis=1)
    emptied = densities == 0
    total = values.sum()
    return {
        "density": float(kept.mean()),
        "spearman": spearman(densities, values),
        "n_emptied": int(emptied.sum()),
        "emptied_share": float(values[emptied].sum() / total) if total else float("nan"),
    }


def _by_layer(units: pd.DataFrame) -> Iterator[tuple[dict[str, Any], pd.DataFrame]]:
    """Each layer's columns and rows, in the order of the table."""
    if "unit" not in units or "layer" not in units:
        raise ConfigError("this is no table of units: it has no columns 'layer' and 'unit', as attributions gives them")
    keys = [key for key in LAYER if key in units]
    for _, part in units.groupby("layer", sort=False):
        yield {key: part[key].iloc[0] for key in keys}, part


def _check_columns(units: pd.DataFrame, columns: Sequence[str]) -> None:
    """Refuse columns that a table does not have."""
    for name in columns:
        if name not in units:
            raise ConfigError(f"these units have no column {name!r}; {nearest(name, map(str, units.columns))}")


def _few(names: list[str]) -> str:
    """Some of the names there are."""
    return ", ".join(names[:4]) + (", …" if len(names) > 4 else "") if names else "none"
