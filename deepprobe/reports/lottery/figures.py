"""Figures of an experiment against density: accuracy, early stopping, error barriers, conditioning, mask overlap.

Every function takes a frame of an ``Experiment``, draws on ``ax`` or on a new figure, and returns the axes. Density
falls to the right on a logarithmic axis, as in Frankle & Carbin (2019): right is sparser.
"""

from __future__ import annotations

from typing import Any

import matplotlib.ticker as ticker
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from deepprobe.errors import ConfigError
from deepprobe.reports.lines import LEGEND_LINE
from deepprobe.reports.lottery.frames import BRANCHES, branches, conditioning, experiment_frame, over_seeds, overlaps
from deepprobe.reports.style import GREY, LINES, MARKERS, axes, colour, finish, legend, note
from deepprobe.reports.words import number

OUTCOMES = {
    "test_accuracy": "test accuracy",
    "validation_accuracy": "validation accuracy",
    "early_stop_test_accuracy": "test accuracy at early stopping",
    "early_stop_validation_accuracy": "validation accuracy at early stopping",
    "early_stop_iteration": "early-stop iteration",
}
"""Measures of ``outcome_by_density``, with the name of their axis."""

BARRIERS = {"barrier": "test data", "train_barrier": "training data"}

CONDITIONING = {
    "condition_number_live": "median κ over live units",
    "condition_number": "median κ",
    "condition_number_rank": "median κ over the numerical rank",
    "effective_rank": "median effective rank",
    "stable_rank": "median stable rank",
    "numerical_rank": "median numerical rank",
}
"""Measures of ``conditioning_by_density``, with the name of their axis."""

STABLE = 0.02
"""Error barrier below which Frankle et al. (2020) call a network stable to the order of its data."""


def outcome_by_density(
    frame: pd.DataFrame,
    ax: Axes | None = None,
    *,
    measure: str = "test_accuracy",
    limits: tuple[float, float] | None = None,
) -> Axes:
    """What came of training against density: mean over seeds, bars from the lowest seed to the highest.

    The grey line is the mean of the dense networks (round 0), its band their spread. Every branch stands at the density
    of its round's tickets, also ``dense``, which keeps all weights. Only complete runs are shown.

    Args:
        frame: ``Experiment.table()``.
        ax: Axes to draw on; a new figure's by default.
        measure: One of OUTCOMES.
        limits: Lower and upper end of the axis; what lies outside is cut off. By default all is shown.

    Returns:
        The axes.

    Raises:
        ConfigError: If measure is none of OUTCOMES.
        ShapeError: If a column is missing.
    """
    if measure not in OUTCOMES:
        raise ConfigError(f"measure={measure!r} is none of {', '.join(OUTCOMES)}")
    table = experiment_frame(frame, measure)
    means = over_seeds(table[table["branch"] != "sibling"], measure)
    ax = finish(axes(ax), x="weights left", y=OUTCOMES[measure])
    if means.empty:
        return note(ax, f"no {OUTCOMES[measure]} of a complete run")
    entries = _draw(ax, means)
    entries += _dense_line(ax, means[(means["branch"] == "ticket") & (means["round"] == 0)])
    density_axis(ax, means["at"])
    if measure.endswith("accuracy"):
        ax.yaxis.set_major_formatter(ticker.FuncFormatter(_in_percent))
    else:
        ax.yaxis.set_major_formatter(ticker.FuncFormatter(lambda steps, _: f"{steps:,.0f}"))
        ax.set_ylim(0, 1.06 * float(means["high"].max()) or 1.0)
    if limits is not None:
        ax.set_ylim(*limits)
    legend(ax, entries)
    return ax


def barrier_by_density(frame: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Error barrier between two trainings of a ticket that see the data in another order, against density.

    The barrier is the highest error on the straight line between the two networks, less the mean of their errors
    (Frankle et al. 2020); below the dashed line of 2 points they are called stable.

    Args:
        frame: ``Experiment.table()`` of an experiment with the branch ``sibling``.
        ax: Axes to draw on; a new figure's by default.

    Returns:
        The axes.

    Raises:
        ShapeError: If a column is missing.
    """
    table = experiment_frame(frame, *BARRIERS)
    ax = finish(axes(ax), x="weights left", y="error barrier, percentage points")
    parts = [over_seeds(table, column).assign(branch=words) for column, words in BARRIERS.items()]
    means = pd.concat([part for part in parts if len(part)] or parts[:1], ignore_index=True)
    if means.empty:
        return note(ax, "no barrier was measured")
    means = means.assign(**{c: 100 * means[c] for c in ("mean", "low", "high")})
    entries = _draw(ax, means)
    ax.axhline(100 * STABLE, color=GREY, linewidth=0.8, dashes=(5, 3))
    entries.append(("stable below 2 points", Line2D([], [], color=GREY, linewidth=0.8, dashes=(5, 3))))
    density_axis(ax, means["at"])
    ax.set_ylim(bottom=min(0.0, float(means["low"].min())))
    legend(ax, entries)
    return ax


def conditioning_by_density(
    frame: pd.DataFrame, ax: Axes | None = None, *, measure: str = "condition_number_live"
) -> Axes:
    """A measure of conditioning against density: median over layers, then the mean over seeds with its extremes.

    Condition numbers stand on a logarithmic axis with their geometric mean; infinite ones as crosses at the upper edge.

    Args:
        frame: Rows of ``Experiment.layers()`` of one tap and view; the last probe of each run counts.
        ax: Axes to draw on; a new figure's by default.
        measure: One of CONDITIONING.

    Returns:
        The axes.

    Raises:
        ConfigError: If measure is none of CONDITIONING, or the frame holds several taps or views.
        ShapeError: If a column is missing.
    """
    if measure not in CONDITIONING:
        raise ConfigError(f"measure={measure!r} is none of {', '.join(CONDITIONING)}")
    if "tap" in frame and len(frame[["tap", "view"]].drop_duplicates()) > 1:
        raise ConfigError("conditioning_by_density shows one tap and one view; pick the rows of one")
    runs = conditioning(frame, measure)
    log = measure.startswith("condition_number")
    means = over_seeds(runs[runs["branch"] != "sibling"], measure, geometric=log)
    ax = finish(axes(ax), x="weights left", y=CONDITIONING[measure])
    if means.empty:
        return note(ax, f"no {CONDITIONING[measure].removeprefix('median ')} was measured")
    entries = _draw(ax, means)
    entries += _dense_line(ax, means[(means["branch"] == "ticket") & (means["round"] == 0)])
    density_axis(ax, means["at"])
    if log:
        _log_axis(ax, means[["mean", "low", "high"]].to_numpy(dtype="float64").ravel())
    legend(ax, entries)
    return ax


def overlap_by_density(frame: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Overlap of the masks of two seeds against density, mean over pairs with its extremes, and what chance would give.

    Both axes are logarithmic; an overlap of zero is not drawn.

    Args:
        frame: ``Experiment.mask_overlap()``; the branches with masks of their own are shown.
        ax: Axes to draw on; a new figure's by default.

    Returns:
        The axes.

    Raises:
        ShapeError: If a column is missing.
    """
    pairs = overlaps(frame)
    means = over_seeds(pairs, "overlap")
    means = means[means["mean"] > 0]
    ax = finish(axes(ax), x="weights left", y="overlap of two seeds' masks")
    if means.empty:
        return note(ax, "there are not two seeds to compare")
    entries = _draw(ax, means)
    chance = over_seeds(pairs[pairs["branch"] == "ticket"], "chance").sort_values("at")
    if len(chance):
        ax.plot(chance["at"], chance["mean"], color=GREY, linewidth=1.0, dashes=(5, 3))
        entries.append(("chance", Line2D([], [], color=GREY, linewidth=1.0, dashes=(5, 3))))
    density_axis(ax, means["at"])
    _log_axis(ax, np.concatenate([means["low"], means["high"], chance["mean"]]))
    ax.yaxis.set_major_formatter(ticker.FuncFormatter(_in_percent))
    legend(ax, entries)
    return ax


def density_axis(ax: Axes, densities: pd.Series) -> None:
    """A logarithmic axis of densities that falls to the right, in percent."""
    low, high = float(densities.min()), float(densities.max())
    ax.set_xscale("log")
    ax.set_xlim(high * 1.12, low / 1.12)
    few, some, many = (1.0,), (1.0, 2.0, 5.0), (1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0)
    subs = few if high / low > 1000 else some if high / low > 4 else many
    ax.xaxis.set_major_locator(ticker.LogLocator(subs=subs, numticks=20))
    ax.xaxis.set_major_formatter(ticker.FuncFormatter(_in_percent))
    ax.xaxis.set_minor_locator(ticker.NullLocator())


def _draw(ax: Axes, means: pd.DataFrame) -> list[tuple[str, Line2D]]:
    """A line a branch with bars from low to high; its legend entries, in the order of BRANCHES."""
    entries = []
    for i, branch in enumerate(branches([*BRANCHES, *means["branch"]])):
        rows = means[means["branch"] == branch].sort_values("at")
        if rows.empty:
            continue
        i = i if branch in BRANCHES else list(dict.fromkeys(means["branch"])).index(branch)
        values = rows["mean"].where(np.isfinite(rows["mean"]))
        line: dict[str, Any] = {"color": colour(i), "marker": MARKERS[i % len(MARKERS)], **LEGEND_LINE}
        dashes: dict[str, Any] = {"dashes": LINES[i % len(LINES)]} if LINES[i % len(LINES)] else {}
        ax.plot(rows["at"], values, zorder=3 - i / 100, **line, **dashes)
        ax.vlines(rows["at"], rows["low"], rows["high"].clip(upper=1e300), color=colour(i), linewidth=1.0, alpha=0.75)
        lost = rows.loc[np.isinf(rows["mean"]), "at"]
        look: dict[str, Any] = {
            "color": colour(i),
            "linestyle": "none",
            "markersize": 5,
            "transform": ax.get_xaxis_transform(),
        }
        ax.plot(lost, np.full(len(lost), 0.985), marker="x", **look)
        entries.append((BRANCHES.get(branch, branch), Line2D([], [], **line, **dashes)))
    return entries


def _dense_line(ax: Axes, dense: pd.DataFrame) -> list[tuple[str, Any]]:
    """Grey line and band of the dense networks, with their legend entry; nothing where they are not known."""
    if dense.empty or not np.isfinite(dense["mean"].iloc[0]):
        return []
    row = dense.iloc[0]
    if np.isfinite(row["high"]) and row["high"] > row["low"]:
        ax.axhspan(row["low"], row["high"], color=GREY, alpha=0.15, linewidth=0, zorder=1)
    ax.axhline(row["mean"], color=GREY, linewidth=0.9, zorder=1.5)
    return [("dense (round 0)", (Patch(facecolor=GREY, alpha=0.15), Line2D([], [], color=GREY, linewidth=0.9)))]


def _in_percent(share: float, _: int) -> str:
    """A share as the tick of an axis: ``97.5 %``."""
    return f"{round(100 * share, 6):g} %"


def _log_axis(ax: Axes, values: Any) -> None:
    """A logarithmic axis upward around the finite values, its ticks plain where they span few decades."""
    ax.set_yscale("log")
    known = values[np.isfinite(values) & (values > 0)]
    if not len(known):
        return
    low, high = float(known.min()), float(known.max())
    ax.set_ylim(low / 1.3, high * 1.4)
    ax.yaxis.set_major_locator(ticker.LogLocator(subs=(1.0, 2.0, 5.0) if high / low < 100 else (1.0,), numticks=12))
    ax.yaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: number(value)))
    ax.yaxis.set_minor_locator(ticker.NullLocator())
