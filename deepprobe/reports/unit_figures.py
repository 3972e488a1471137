"""Units by depth: distributions of activations and weights, measures of units as bands, states over training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.patches import Patch

from deepprobe.errors import ConfigError, ShapeError
from deepprobe.reports.heatmaps import draw_image, name_ticks
from deepprobe.reports.style import COLOURS, axes, finish, legend, note

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from numpy.typing import NDArray

BANDS = ((0.0, 1.0, "all"), (0.01, 0.99, "1 to 99 %"), (0.25, 0.75, "25 to 75 %"))
"""Quantiles that are drawn as bands, and what they are called; the median is a line."""

_SHADES = (0.13, 0.3, 0.55)
_QUANTILES = sorted({0.5, *(q for low, high, _ in BANDS for q in (low, high))})


def distribution_by_depth(frame: pd.DataFrame, ax: Axes | None = None, *, tap: str = "input") -> Axes:
    """Distribution of activations (or of weights, tap ``weight``) by depth, as bands on a symmetric logarithmic axis.

    As figures 5 to 10 of Oyedotun et al. (2022), for all layers at once. Between the edges of a bin values are taken as
    spread evenly.

    Args:
        frame: What ``distributions`` gives, of one network.
        ax: Axes to draw on; a new figure's by default.
        tap: Which of its distributions.

    Returns:
        The axes.

    Raises:
        ConfigError: If the frame has no rows of that tap.
        ShapeError: If a column is missing.
    """
    _need(frame, ("tap", "depth", "low", "high", "count"), "distributions")
    rows = frame[frame["tap"] == tap]
    if rows.empty and len(frame):
        raise ConfigError(f"tap={tap!r} is not in this frame; it has {', '.join(map(repr, frame['tap'].unique()))}")
    rows = rows[rows["count"] > 0]
    found = {depth: _quantiles(rows[rows["depth"] == depth]) for depth in rows["depth"].unique()}
    ax = finish(axes(ax, size=(5.8, 3.4)), x="depth", y="weight" if tap == "weight" else "activation")
    if not found:
        return note(ax, "no value was finite")
    table = _bands(ax, found)
    inner = np.abs(table[[0.25, 0.75]].to_numpy())
    typical = inner[inner > 0]
    ax.set_yscale("symlog", linthresh=float(10.0 ** np.floor(np.log10(np.median(typical) if len(typical) else 1.0))))
    return ax


def units_measure_by_depth(frame: pd.DataFrame, ax: Axes | None = None, *, measure: str = "firing_rate") -> Axes:
    """A measure of units by depth: bands of the units' quantiles, and their median.

    Args:
        frame: What ``unit_profiles`` gives, of one network at one step.
        ax: Axes to draw on; a new figure's by default.
        measure: Column to draw.

    Returns:
        The axes.

    Raises:
        ShapeError: If a column is missing.
    """
    _need(frame, ("depth", measure), "unit_profiles")
    rows = frame[np.isfinite(frame[measure].to_numpy(dtype="float64"))]
    ax = finish(axes(ax, size=(5.8, 3.4)), x="depth", y=measure.replace("_", " "))
    if rows.empty:
        return note(ax, f"no {measure.replace('_', ' ')} was measured")
    values = {depth: rows.loc[rows["depth"] == depth, measure].to_numpy("float64") for depth in rows["depth"].unique()}
    _bands(ax, {depth: np.quantile(part, _QUANTILES) for depth, part in values.items()})
    return ax


def unit_states_heatmap(frame: pd.DataFrame, ax: Axes | None = None, *, state: str = "dead") -> Axes:
    """Share of units in a state over depth (across) and training (upward), of one run.

    Args:
        frame: What a run's ``units()`` gives, of one tap.
        ax: Axes to draw on; a new figure's by default.
        state: ``dead``, ``rare``, ``saturated``, ``duplicate``, ``constant`` or ``nonfinite``.

    Returns:
        The axes.

    Raises:
        ShapeError: If a column is missing.
    """
    _need(frame, ("depth", "step", state), "UnitCallback")
    ax = axes(ax, size=(5.8, 3.3))
    rows = frame[frame[state].notna()]
    if rows.empty:
        return note(finish(ax, x="depth", y="step"), f"no unit was looked at for {state}")
    grid = rows.assign(_in=rows[state].astype("float64")).groupby(["step", "depth"])["_in"].mean().unstack("depth")
    draw_image(ax, grid.to_numpy(), cmap="cividis", vmin=0.0, vmax=1.0, cbar_kws={"label": f"share of {state} units"})
    finish(ax, x="depth", y="step").grid(visible=False)
    ax.invert_yaxis()
    name_ticks(ax, [float(depth) for depth in grid.columns.to_numpy()], [float(step) for step in grid.index.to_numpy()])
    return ax


def _bands(ax: Axes, found: dict[float, NDArray[np.float64]]) -> pd.DataFrame:
    """Draw quantiles by depth; the table of them, a row a depth and a column a quantile."""
    table = pd.DataFrame(found, index=_QUANTILES).T.sort_index()
    entries: list[tuple[str, Any]] = []
    for (low, high, words), shade in zip(BANDS, _SHADES, strict=True):
        look: dict[str, Any] = {"color": COLOURS[0], "alpha": shade, "linewidth": 0}
        ax.fill_between(table.index, table[low], table[high], step=None, **look)
        if len(table) == 1:
            ax.vlines(table.index, table[low], table[high], color=COLOURS[0], alpha=shade, linewidth=8)
        entries.append((words, Patch(**look)))
    (line,) = ax.plot(table.index, table[0.5], color="#222222", linewidth=1.3, marker="o", markersize=2.4)
    legend(ax, [("median", line), *entries[::-1]], ncols=4, handlelength=1.8)
    return table


def _quantiles(rows: pd.DataFrame) -> NDArray[np.float64]:
    """Quantiles of a histogram, its bins in any order; those of several layer calls of one depth are added up."""
    counts = rows.groupby(["low", "high"])["count"].sum().sort_index()
    low, high = (counts.index.get_level_values(name).to_numpy("float64") for name in ("low", "high"))
    after = counts.to_numpy("float64").cumsum()
    wanted = np.array(_QUANTILES) * after[-1]
    place = np.minimum(np.searchsorted(after, wanted, side="left"), len(after) - 1)
    before = np.concatenate([[0.0], after])[place]
    return np.asarray(low[place] + (wanted - before) / (after[place] - before) * (high - low)[place])


def _need(frame: pd.DataFrame, columns: Sequence[str], source: str) -> None:
    """ShapeError where columns are missing."""
    missing = [column for column in columns if column not in frame]
    if missing:
        raise ShapeError(f"the frame lacks {', '.join(missing)}; {source} makes one that has them")
