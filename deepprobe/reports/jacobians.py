"""Jacobians and shattered gradients: their figures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import matplotlib.ticker as ticker
import numpy as np
import pandas as pd
from matplotlib.lines import Line2D

from deepprobe.errors import ConfigError, ShapeError
from deepprobe.reports.style import GREY, LINES, MARKERS, axes, colour, decades, finish, legend, note
from deepprobe.reports.words import number

if TYPE_CHECKING:
    from collections.abc import Mapping

    from matplotlib.axes import Axes

MEASURES = {
    "jacobian_to_output": "‖∂output / ∂layer‖",
    "jacobian_from_input": "‖∂layer / ∂input‖",
    "segment_sigma_max": "σ_max from layer to layer",
    "activation_gradient_norm": "‖∂output / ∂layer‖, one output",
    "gradient_cosine": "cosine of two samples' gradients",
    "gradient_angle": "angle of two samples' gradients (°)",
}
"""What is shown by depth, and the name of its axis."""

LINEAR = ("gradient_cosine", "gradient_angle")
"""Measures on a linear axis."""


def jacobians_by_depth(
    tables: Mapping[str, pd.DataFrame], ax: Axes | None = None, *, measure: str = "jacobian_to_output"
) -> Axes:
    """A measure of Jacobians by depth, a line a network, its quartiles over samples shaded where the table has them.

    Zero, NaN and infinity leave gaps; layers of which a sample is not finite have a cross at the upper edge.

    Args:
        tables: From the name of a network to what ``layer_jacobians`` or ``gradient_correlation`` gave.
        ax: Axes to draw on; a new figure's by default.
        measure: One of MEASURES.

    Returns:
        The axes.

    Raises:
        ConfigError: If measure is none of MEASURES.
        ShapeError: If no table has its column.
    """
    if measure not in MEASURES:
        raise ConfigError(f"measure={measure!r} is none of {', '.join(MEASURES)}")
    known = {name: table for name, table in tables.items() if measure in table.columns}
    if not known:
        raise ShapeError(f"none of the tables has a column {measure}")
    ax = finish(axes(ax, size=(5.8, 3.4)), x="depth", y=MEASURES[measure])
    entries = [(name, _line(ax, table, measure, i)) for i, (name, table) in enumerate(known.items())]
    values = np.concatenate([_drawable(table[measure], measure) for table in known.values()])
    values = values[np.isfinite(values)]
    if not len(values):
        return note(ax, f"no finite {measure.replace('_', ' ')} was found")
    if measure in LINEAR:
        ax.axhline(0 if measure == "gradient_cosine" else 90, color=GREY, linewidth=0.8)
        entries.append(("nothing in common", Line2D([], [], color=GREY, linewidth=0.8)))
    else:
        _scale(ax, list(known.values()), measure)
    legend(ax, entries)
    return ax


def autocorrelation_by_lag(tables: Mapping[str, pd.DataFrame], ax: Axes | None = None) -> Axes:
    """Autocorrelation of the input gradient along a line by lag, a line a network, beside white and brown noise.

    Args:
        tables: From the name of a network to what ``gradient_autocorrelation`` gave, all of as many points.
        ax: Axes to draw on; a new figure's by default.

    Returns:
        The axes.

    Raises:
        ShapeError: If there is no table, or they differ in their lags.
    """
    if len({len(table) for table in tables.values()}) != 1:
        raise ShapeError("autocorrelations are shown together for lines of as many points; take them anew")
    ax = finish(axes(ax, size=(5.8, 3.4)), x="lag (points on the line)", y="autocorrelation of the gradient")
    first = next(iter(tables.values()))
    lag, white, band = (first[name].to_numpy("float64") for name in ("lag", "white", "white_band"))
    shade = ax.fill_between(lag[1:], (white - band)[1:], (white + band)[1:], color="#DDDDDD", linewidth=0)
    (brown,) = ax.plot(lag, first["brown"], color=GREY, linewidth=0.9, linestyle=(0, (2, 2)))
    entries: list[tuple[str, Any]] = []
    for i, (name, table) in enumerate(tables.items()):
        look = _look(i, len(table))
        ax.plot(lag, table["autocorrelation"], **look)
        entries.append((name, Line2D([], [], **look)))
    legend(ax, [*entries, ("white noise", shade), ("brown noise", brown)])
    return ax


def _look(index: int, count: int) -> dict[str, Any]:
    """Colour, dashes and marker of the network of that index."""
    look: dict[str, Any] = {"color": colour(index), "linewidth": 1.4, "markersize": 3.6, "markeredgewidth": 0}
    look["linestyle"] = (0, LINES[index % len(LINES)]) if LINES[index % len(LINES)] else "-"
    return look | {"marker": MARKERS[index % len(MARKERS)], "markevery": max(1, count // 12)}


def _line(ax: Axes, table: pd.DataFrame, measure: str, index: int) -> Line2D:
    """Line of one network; its legend handle."""
    look = _look(index, len(table))
    ax.plot(table["depth"], _drawable(table[measure], measure), **look)
    if {f"{measure}_q25", f"{measure}_q75"} <= set(table.columns):
        low, high = (_drawable(table[f"{measure}_{q}"], measure) for q in ("q25", "q75"))
        ax.fill_between(table["depth"], low, high, color=look["color"], alpha=0.18, linewidth=0)
    if "status" in table:
        lost = table.loc[table["status"] == "nonfinite", "depth"]
        top = np.full(len(lost), 0.985)
        ax.plot(lost, top, "x", color=look["color"], transform=ax.get_xaxis_transform(), markersize=4)
    return Line2D([], [], **look)


def _drawable(values: pd.Series, measure: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Values with NaN for what the axis cannot show."""
    numbers = values.to_numpy("float64")
    shown = np.isfinite(numbers) & ((numbers > 0) | (measure in LINEAR))
    return np.where(shown, numbers, np.nan)


def _scale(ax: Axes, tables: list[pd.DataFrame], measure: str) -> None:
    """A logarithmic axis around values and quartiles, its ticks powers of ten or, within one decade, plain."""
    names = (measure, f"{measure}_q25", f"{measure}_q75")
    values = np.concatenate([_drawable(t[name], measure) for t in tables for name in names if name in t.columns])
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    ax.set_yscale("log")
    ax.set_ylim(low / 1.5, high * 1.8)
    if high / low > 30:
        ax.yaxis.set_major_locator(ticker.FixedLocator(decades(low, high)))
    else:
        ax.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        ax.yaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: number(value, digits=2)))
    ax.yaxis.set_minor_locator(ticker.NullLocator())
