"""Heat maps: condition number over depth and training, and singular spectra over depth."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import Normalize, to_rgb
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
    finish(ax, x="depth", y=when).grid(visible=False)
    values = grid.to_numpy(dtype="float64")
    unknown = (bad == True).to_numpy(dtype=bool)  # noqa: E712 – NaN where not probed
    shown = values[np.isfinite(values) & (values > 0) & ~unknown]
    low, high = limits or ((float(shown.min()), float(shown.max())) if len(shown) else (1.0, 10.0))
    image = _paint(ax, values, unknown, probed.to_numpy(dtype=bool), np.log10(low), np.log10(high))
    _name_ticks(ax, list(grid.columns), list(grid.index))
    bar = ax.figure.colorbar(image, ax=ax, pad=0.02)
    bar.set_label("log₁₀ κ")
    marks = {"infinite": (INFINITE, np.isinf(values) & ~unknown), "not known": (UNKNOWN, unknown)}
    legend(ax, [(name, Patch(facecolor=colour)) for name, (colour, cells) in marks.items() if cells.any()])
    return ax


def _paint(
    ax: Axes, values: np.ndarray, unknown: np.ndarray, probed: np.ndarray, low: float, high: float
) -> mpl.cm.ScalarMappable:
    """Draw the grid as one image, the lowest row first; returns what the colour bar shows, a decade at least."""
    logs = np.log10(np.where(np.isfinite(values) & (values > 0), values, 1.0))
    scale = mpl.cm.ScalarMappable(Normalize(low, max(high, low + 1)), mpl.colormaps["cividis"])
    picture = np.asarray(scale.to_rgba(logs))[..., :3]
    picture[np.isinf(values)] = to_rgb(INFINITE)
    picture[unknown] = to_rgb(UNKNOWN)
    picture[~probed] = to_rgb(UNPROBED)
    ax.imshow(picture, aspect="auto", origin="lower", interpolation="nearest", rasterized=True)
    return scale


def _name_ticks(ax: Axes, columns: list[float], rows: list[float]) -> None:
    """Depths below, steps or epochs at the left: at most about eight each."""
    across = np.unique(np.linspace(0, len(columns) - 1, min(9, len(columns))).round().astype(int))
    up = np.unique(np.linspace(0, len(rows) - 1, min(8, len(rows))).round().astype(int))
    ax.set_xticks(across, [f"{columns[i]:g}" for i in across])
    ax.set_yticks(up, [f"{rows[i]:g}" for i in up])


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
    ax = finish(axes(ax, size=(5.8, 3.3)), x="depth", y="position i / m of σᵢ")
    ax.grid(visible=False)
    if frame.empty:
        return note(ax, "no spectra were stored")
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
    image = ax.imshow(
        logs,
        aspect="auto",
        origin="upper",
        interpolation="nearest",
        rasterized=True,
        cmap="cividis",
        vmin=low,
        vmax=0.0,
    )
    _name_ticks(ax, depths, [])
    ax.set_yticks([-0.5, SPECTRUM_ROWS / 2 - 0.5, SPECTRUM_ROWS - 0.5], ["first", "½", "last"])
    below = bool(logs.min() < low) or low <= np.log10(SMALLEST_SHARE)
    bar = ax.figure.colorbar(image, ax=ax, pad=0.02, extend="min" if below else "neither")
    bar.set_label("log₁₀ σᵢ / σ₁" + (", darkest: below" if below else ""))
    return ax


def _facet_only(frame: pd.DataFrame) -> pd.DataFrame:
    """The taps and views of a frame of spectra, as a table that can be checked."""
    pairs = frame.reindex(columns=["tap", "view"]).drop_duplicates()
    return pairs.assign(layer="", status="finite", condition_number=1.0)
