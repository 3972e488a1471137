"""Gradients, weights and updates by depth over training: their figure, and what it shows in one sentence."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import matplotlib.ticker as ticker
import numpy as np
import pandas as pd
from matplotlib.lines import Line2D

from deepprobe.errors import ConfigError
from deepprobe.reports.source import kernel_table, of_kernels
from deepprobe.reports.style import GREY, axes, decades, finish, legend, note
from deepprobe.reports.words import number

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

MEASURES = {
    "gradient_norm": ("gradient", "gradient norm ‖∂L/∂W‖", "gradient norm"),
    "gradient_snr": ("gradient", "gradient signal / noise", "signal-to-noise ratio of the gradient"),
    "update_ratio": ("update", "update / weight ‖ΔW‖ / ‖W‖", "ratio of update to weight"),
    "weight_norm": ("weight", "weight norm ‖W‖", "weight norm"),
    "condition_number": ("weight", "condition number of the kernel", "condition number of the kernels"),
}
"""What is shown by depth: from which tap, the name of its axis, and its name in a sentence."""

MOST_STEPS = 6
"""Steps drawn in one figure."""

_LOOKS = (("-", "o"), ((0, (5, 1.6)), "s"), ((0, (1.2, 1.2)), "^"))


def kernels_by_depth(
    frame: pd.DataFrame,
    ax: Axes | None = None,
    *,
    measure: str = "gradient_norm",
    limits: tuple[float, float] | None = None,
) -> Axes:
    """A measure of kernels by depth on a logarithmic axis, a line a step of training, from dark to bright.

    Of many steps the first, the last and some between are drawn. Infinite values stand as crosses at the upper edge;
    where nothing or zero was measured, as of a frozen layer, the line has a gap.

    Args:
        frame: Wide table, as a run's ``layers()``, of one run; other rows than those of the measure may stand in it.
        ax: Axes to draw on; a new figure's by default.
        measure: One of MEASURES.
        limits: Least and greatest value that the axis is to hold, so that figures can be compared.

    Returns:
        The axes.

    Raises:
        ConfigError: If measure is none of MEASURES, or the frame holds several runs.
    """
    table = rows_of(frame, measure)
    if table["run"].nunique() > 1:
        raise ConfigError(f"kernels_by_depth shows one run; this frame holds {', '.join(sorted(set(table['run'])))}")
    ax = finish(axes(ax, size=(5.8, 3.4)), x="depth", y=MEASURES[measure][1])
    drawable = table[np.isfinite(table[measure]) & (table[measure] > 0)]
    if table.empty or (drawable.empty and not np.isinf(table[measure]).any()):
        return note(ax, f"no {measure.replace('_', ' ')} was measured")
    steps = chosen_steps(table["step"])
    entries: list[tuple[str, Line2D]] = []
    for i, step in enumerate(steps):
        line = _line(ax, table[table["step"] == step], measure, i, len(steps))
        entries.append((f"step {number(step)}", line))
    if measure == "gradient_snr" and table["n_micro_batches"].notna().any():
        chance = 1 / float(np.sqrt(table["n_micro_batches"].median()))
        ax.axhline(chance, color=GREY, linewidth=0.8)
        entries.append(("noise alone", Line2D([], [], color=GREY, linewidth=0.8)))
    _scale(ax, drawable[measure], limits)
    legend(ax, entries)
    return ax


def rows_of(frame: pd.DataFrame, measure: str) -> pd.DataFrame:
    """The rows of kernels that hold a measure, from its own tap, by step and depth; normalised.

    Raises:
        ConfigError: If measure is none of MEASURES.
    """
    if measure not in MEASURES:
        raise ConfigError(f"measure={measure!r} is none of {', '.join(MEASURES)}")
    table = kernel_table(frame[of_kernels(frame)])
    return table[table["tap"] == MEASURES[measure][0]].sort_values(["step", "depth"], kind="stable")


def chosen_steps(steps: pd.Series) -> list[float]:
    """At most MOST_STEPS of the steps: the first, the last, and those nearest to even spacing by rank."""
    known = sorted(float(s) for s in steps.unique())
    places = np.linspace(0, len(known) - 1, min(MOST_STEPS, len(known)))
    return [known[round(place)] for place in places]


def _line(ax: Axes, rows: pd.DataFrame, measure: str, index: int, count: int) -> Line2D:
    """Line of one step; its legend handle."""
    shade = mpl.colormaps["plasma"](0.62 * index / max(count - 1, 1))
    dashes, marker = _LOOKS[index % len(_LOOKS)]
    values = rows[measure].to_numpy(dtype="float64")
    shown = np.where(np.isfinite(values) & (values > 0), values, np.nan)
    look: dict[str, Any] = {"color": shade, "linestyle": dashes, "marker": marker, "linewidth": 1.4}
    look |= {"markersize": 3.6, "markeredgewidth": 0, "markevery": max(1, len(rows) // 12)}
    ax.plot(rows["depth"], shown, **look)
    lost = rows.loc[np.isinf(values), "depth"]
    ax.plot(lost, np.full(len(lost), 0.985), "x", color=shade, transform=ax.get_xaxis_transform(), markersize=4)
    return Line2D([], [], **look)


def _scale(ax: Axes, values: pd.Series, limits: tuple[float, float] | None) -> None:
    """A logarithmic axis around the values and limits, its ticks powers of ten or, within one decade, plain."""
    ax.set_yscale("log")
    known = [*values, *(limits or ())]
    if not known:
        return
    low, high = min(known), max(known)
    ax.set_ylim(low / 1.3, high * 1.6)
    if high / low > 30:
        ax.yaxis.set_major_locator(ticker.FixedLocator(decades(low, high)))
        ax.yaxis.set_minor_locator(ticker.NullLocator())
    else:
        ax.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        ax.yaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: number(value, digits=2)))
        ax.yaxis.set_minor_locator(ticker.NullLocator())


def sentence(frame: pd.DataFrame, measure: str) -> str:
    """What a measure of one run does over depth, at the first and at the last step; empty where there is nothing.

    Args:
        frame: As in ``kernels_by_depth``.
        measure: One of MEASURES.

    Raises:
        ConfigError: If measure is none of MEASURES.
    """
    table = rows_of(frame, measure)
    table = table[table[measure].notna() & (table[measure] > 0)]
    if table.empty:
        return ""
    steps = sorted(float(s) for s in table["step"].unique())
    parts = [_course(table[table["step"] == step], measure) for step in dict.fromkeys((steps[0], steps[-1]))]
    later = f"; at step {number(steps[-1])} it {parts[1]}" if len(parts) > 1 else ""
    return f"At step {number(steps[0])} the {MEASURES[measure][2]} {parts[0]}{later}."


def _course(rows: pd.DataFrame, measure: str) -> str:
    """How a measure goes over depth at one step, in words."""
    values = rows[measure].to_numpy(dtype="float64")
    depths = rows["depth"].to_numpy(dtype="float64")
    median = number(float(np.median(values)))
    first, last = values[0], values[-1]
    ends = f"from {number(first)} at depth {number(depths[0])} to {number(last)} at depth {number(depths[-1])}"
    if len(values) > 1 and (first > 10 * last or last > 10 * first):
        return f"{'falls' if first > last else 'rises'} {ends}, median {median}"
    least, greatest = (
        f"{number(float(values[i]))} (depth {number(depths[i])})" for i in (int(values.argmin()), int(values.argmax()))
    )
    return f"is between {least} and {greatest}, median {median}" if len(values) > 1 else f"is {median}"


def extremes(frames: Sequence[pd.DataFrame], measure: str) -> tuple[float, float] | None:
    """Least and greatest finite value of a measure over several networks, or None."""
    values = pd.concat([rows_of(frame, measure)[measure] for frame in frames])
    values = values[np.isfinite(values) & (values > 0)]
    return (float(values.min()), float(values.max())) if len(values) else None
