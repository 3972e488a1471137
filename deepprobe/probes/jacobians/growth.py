"""By which factor a layer multiplies Jacobians: the slope of their logarithm over depth."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from deepprobe.probes.jacobians.layers import MEASURES

if TYPE_CHECKING:
    from collections.abc import Sequence


def jacobian_growth(table: pd.DataFrame, *, measures: Sequence[str] = MEASURES[:2]) -> pd.DataFrame:
    """Factor a layer by which norms of Jacobians grow: exp of the least-squares slope of ln ‖J‖_F over depth.

    From the input it is the factor towards the output, and to the output that towards the input, the way a gradient
    goes; above 1 both explode. Networks of ReLU and batch normalisation without shortcuts have √(π/(π − 1)) = 1.211 a
    layer for gradients, at large batches and width (Yang et al. 2019, theorem 8).

    Args:
        table: What ``layer_jacobians`` returns, of one network and step.
        measures: Which of its columns.

    Returns:
        One row a measure: ``measure factor log10_range r_squared n_layers``. ``log10_range`` is how many decades lie
        between the first and the last layer on the way, ``r_squared`` how much of ln ‖J‖ the line explains. NaN where
        fewer than three layers have a finite positive number.

    Example:
        >>> rows = pd.DataFrame({"depth": [1, 2, 3], "jacobian_to_output": [4.0, 2.0, 1.0]})
        >>> jacobian_growth(rows, measures=["jacobian_to_output"])["factor"].round(12).tolist()
        [2.0]
    """
    return pd.DataFrame([_row(table, measure) for measure in measures])


def _row(table: pd.DataFrame, measure: str) -> dict[str, Any]:
    """The growth of one measure."""
    kept = table[np.isfinite(table[measure]) & (table[measure] > 0)]
    row: dict[str, Any] = {"measure": measure, "n_layers": len(kept)}
    row |= dict.fromkeys(("factor", "log10_range", "r_squared"), float("nan"))
    depth, logs = kept["depth"].to_numpy("float64"), np.log(kept[measure].to_numpy("float64"))
    if len(kept) < 3 or np.ptp(depth) == 0:
        return row
    direction = -1.0 if measure == "jacobian_to_output" else 1.0
    slope, offset = np.polyfit(depth, logs, 1)
    spread = float(np.sum((logs - logs.mean()) ** 2))
    left = float(np.sum((logs - slope * depth - offset) ** 2))
    first, last = logs[int(depth.argmin())], logs[int(depth.argmax())]
    return row | {
        "factor": float(np.exp(direction * slope)),
        "log10_range": float(direction * (last - first) / np.log(10)),
        "r_squared": 1 - left / spread if spread > 0 else float("nan"),
    }
