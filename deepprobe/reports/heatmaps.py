"""Heat maps: condition number over depth and training, and singular spectra over depth."""

from __future__ import annotations

from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Patch

from deepprobe.errors import ShapeError
from deepprobe.reports.style import axes, finish, legend, note, one_facet

INFINITE = "#B80058"
UNKNOWN = "#8C8C8C"
UNPROBED = "#FFFFFF"
SPECTRUM_ROWS = 64
SMALLEST_SHARE = 1e-16


def condition_heatmap(
    frame: pd.DataFrame,
    ax: Axes | None = None,
    *,
    measure: str = "condition_number",
    limits: tuple[float, float] | None = None,
) -> Axes:
    """log10 of the condition number over depth (across) and training (upward), of one run.

    Infinity and *not known* (unresolved, NaN in the layer) have colours of their own; what was not probed is white.

    Args:
        frame: Wide table of one tap and view with the columns ``step`` or ``epoch``; the first run in it is drawn.
        ax: Axes to draw on; a new figure's by default.
        measure: Column to draw.
        limits: Least and greatest condition number of the colours, to compare networks; of the data by default.

    Returns:
        The axes.

    Raises:
        ConfigError: If the frame holds several taps or views.
        ShapeError: If a required column is missing.
    """
    table = one_facet(frame)
    ax = axes(ax, size=(5.8, 3.3))
    if table.empty:
        return note(finish(ax, x="depth", y="epoch"), "no layer was measured")
    if measure not in table:
        raise ShapeError(f"the table has no column {measure!r} to draw")
    first = table[(table["run"] == table["run"].iloc[0]) & (table["network"] == table["network"].iloc[0])]
    when = "epoch" if first["epoch"].notna().all() else "step"
    grid = first.groupby([when, "depth"])[measure].max().unstack("depth")
    probed = first.assign(_seen=1.0).groupby([when, "depth"])["_seen"].max().unstack("depth").notna()
    bad = first.assign(_bad=first[measure].isna()).groupby([when, "depth"])["_bad"].max().unstack("depth")
    values = grid.to_numpy(dtype="float64")
    unknown = (bad == True).to_numpy(dtype=bool)  # noqa: E712 – NaN where not probed
    shown = values[np.isfinite(values) & (values > 0) & ~unknown]
    low, high = np.log10(limits or ((shown.min(), shown.max()) if len(shown) else (1.0, 10.0)))
    high = max(high, low + 1)  # a decade at least
    logs = np.log10(np.where(values > 0, values, 1.0)).clip(low, high)
    logs[np.isinf(values)] = high + 1  # not infinity, which matplotlib masks
    logs[unknown] = low - 1
    colours = mpl.colormaps["cividis"].with_extremes(under=UNKNOWN, over=INFINITE, bad=UNPROBED)
    logs[~probed.to_numpy(dtype=bool)] = np.nan
    draw_image(ax, logs, cmap=colours, vmin=low, vmax=high, cbar_kws={"label": "log₁₀ κ"})
    finish(ax, x="depth", y=when).grid(visible=False)
    ax.invert_yaxis()
    name_ticks(ax, list(grid.columns), list(grid.index))
    marks = {"infinite": (INFINITE, np.isinf(values) & ~unknown), "not known": (UNKNOWN, unknown)}
    legend(ax, [(name, Patch(facecolor=colour)) for name, (colour, cells) in marks.items() if cells.any()])
    return ax


def draw_image(ax: Axes, values: np.ndarray, *, cbar_kws: dict[str, Any], **options: Any) -> None:
    """Heat map of a grid, its first row on top, as one embedded picture; labels and ticks are for the caller."""
    import seaborn as sns  # takes a second: loaded for the first figure, not with the package

    bar = {"pad": 0.02} | cbar_kws
    sns.heatmap(values, ax=ax, rasterized=True, xticklabels=False, yticklabels=False, cbar_kws=bar, **options)


def name_ticks(ax: Axes, columns: list[float], rows: list[float]) -> None:
    """Depths below, steps or epochs at the left: at most nine each, every first, second, third … from the first on."""
    across, up = (np.arange(0, len(names), -(-len(names) // 9) or 1) for names in (columns, rows))
    ax.set_xticks(across + 0.5, [f"{columns[i]:g}" for i in across])
    ax.set_yticks(up + 0.5, [f"{rows[i]:g}" for i in up])


def spectra_by_depth(frame: pd.DataFrame, ax: Axes | None = None, *, lowest: float | None = None) -> Axes:
    """Singular spectra over depth: colour is log10 of sigma_i / sigma_1, upward is the position i / m from the top.

    A healthy layer's column is bright down to the bottom; a collapsed one is bright at the top only.

    Args:
        frame: One network's spectra of one tap and view, as ``spectra_frame`` makes them.
        ax: Axes to draw on; a new figure's by default.
        lowest: sigma_i / sigma_1 of the darkest colour, to compare networks; the smallest in the data by default.

    Returns:
        The axes.

    Raises:
        ConfigError: If the frame holds several taps or views.
        ShapeError: If the frame has no columns ``depth``, ``share`` and ``value``.
    """
    missing = [c for c in ("depth", "share", "value") if c not in frame]
    if missing:
        raise ShapeError(f"frame of spectra lacks {', '.join(missing)}; deepprobe.reports.spectra_frame makes one")
    ax = axes(ax, size=(5.8, 3.3))
    if frame.empty:
        return note(finish(ax, x="depth", y="position i / m of σᵢ"), "no spectra were stored")
    one_facet(_facet_only(frame))
    columns = []
    depths = sorted(frame["depth"].unique())
    at = (np.arange(SPECTRUM_ROWS) + 0.5) / SPECTRUM_ROWS
    for depth in depths:
        rows = frame[frame["depth"] == depth]
        rows = rows[rows["layer"] == rows["layer"].iloc[0]] if "layer" in rows else rows
        values = rows.sort_values("share")["value"].to_numpy(dtype="float64")
        columns.append(values[np.minimum((at * len(values)).astype(int), len(values) - 1)])
    logs = np.log10(np.maximum(np.array(columns).T, SMALLEST_SHARE))
    least = float(logs.min()) if lowest is None else float(np.log10(max(lowest, SMALLEST_SHARE)))
    low = min(-1.0, float(np.floor(least)))
    below = bool(logs.min() < low) or low <= np.log10(SMALLEST_SHARE)
    bar = {"label": "log₁₀ σᵢ / σ₁" + (", darkest: below" if below else ""), "extend": "min" if below else "neither"}
    draw_image(ax, logs, cmap="cividis", vmin=low, vmax=0.0, cbar_kws=bar)
    finish(ax, x="depth", y="position i / m of σᵢ").grid(visible=False)
    name_ticks(ax, depths, [])
    ax.set_yticks([0, SPECTRUM_ROWS / 2, SPECTRUM_ROWS], ["first", "½", "last"])
    return ax


def _facet_only(frame: pd.DataFrame) -> pd.DataFrame:
    """The taps and views of a frame of spectra, as a table that can be checked."""
    pairs = frame.reindex(columns=["tap", "view"]).drop_duplicates()
    return pairs.assign(layer="", status="finite", condition_number=1.0)
