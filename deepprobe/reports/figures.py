"""Figures of condition numbers, ranks, units and training: a frame and axes in, axes out.

Every function takes what ``condition_numbers`` returns (or a run's ``layers()``), with an optional column ``network``
where several are compared, draws on ``ax`` or on a new figure, and returns the axes. None mixes taps or views.
"""

from __future__ import annotations

from typing import Any

import matplotlib.ticker as ticker
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from deepprobe.errors import ConfigError
from deepprobe.reports.heatmaps import condition_heatmap, spectra_by_depth
from deepprobe.reports.style import (
    GREY,
    MARKERS,
    RAIL_MARKERS,
    axes,
    by_network,
    decades,
    finish,
    last_facet,
    legend,
    look,
    note,
    status_handle,
)
from deepprobe.reports.words import STATUSES

__all__ = [
    "condition_by_depth",
    "condition_heatmap",
    "rank_by_depth",
    "spectra_by_depth",
    "training_curves",
    "units_by_depth",
]

RANKS = ("numerical_rank", "effective_rank", "stable_rank", "participation_ratio")
CONDITIONS = ("condition_number", "condition_number_live", "condition_number_rank", "condition_number_bound")
LARGEST_DRAWN = 1e300


def condition_by_depth(frame: pd.DataFrame, ax: Axes | None = None, *, measure: str = "condition_number") -> Axes:
    """Condition number by depth, a line a run, on a logarithmic axis.

    Layers that are not finite stand on a rail above the axis, one row a network, their marker telling the status.
    The band is the interval that rounding allows; the thin grey line is a Gaussian matrix of the same shape.

    Args:
        frame: Wide table of one tap and view; several runs and networks may stand in it. Last step of each run.
        ax: Axes to draw on; a new figure's by default.
        measure: One of CONDITIONS.

    Returns:
        The axes.

    Raises:
        ConfigError: If measure is none of CONDITIONS, or the frame holds several taps or views.
        ShapeError: If a required column is missing.
    """
    if measure not in CONDITIONS:
        raise ConfigError(f"measure={measure!r} is none of {', '.join(CONDITIONS)}")
    table = last_facet(frame)
    ax = axes(ax)
    if table.empty:
        return note(finish(ax, x="depth", y="κ"), "no layer was measured")
    entries: list[tuple[str, Line2D]] = []
    for index, (name, runs) in enumerate(by_network(table)):
        style, marker = look(index), MARKERS[index % len(MARKERS)]
        for rows in runs:
            _kappa_line(ax, rows, measure, marker=marker, **style)
        entries.append((name or measure.replace("_", " "), Line2D([], [], marker=marker, markersize=3.5, **style)))
    drawn = _drawn(table["condition_number_null"])
    if drawn.notna().any():
        for _, runs in by_network(table):
            ax.plot(runs[0]["depth"], _drawn(runs[0]["condition_number_null"]), color=GREY, linewidth=0.7)
        entries.append(("Gaussian, same shape", Line2D([], [], color=GREY, linewidth=0.7)))
    low, high = _log_limits(pd.concat([_drawn(table[measure]), drawn]))
    finish(ax, x="depth", y="condition number κ" + _addition(measure))
    rows_on_rail = _rail(ax, table, measure, (low, high))
    entries += [(STATUSES[s], status_handle(s)) for s in RAIL_MARKERS if s in rows_on_rail]
    legend(ax, entries)
    return ax


def _addition(measure: str) -> str:
    """What sets a condition number apart from the plain one."""
    return {"condition_number_live": " over live units", "condition_number_rank": " over the numerical rank"}.get(
        measure, " within the rank bound" if measure == "condition_number_bound" else ""
    )


def _drawn(values: pd.Series) -> pd.Series:
    """Values that a logarithmic axis can show, the others NaN."""
    return values.where(np.isfinite(values) & (values > 0) & (values < LARGEST_DRAWN))


def _kappa_line(ax: Axes, rows: pd.DataFrame, measure: str, *, marker: str, **style: object) -> None:
    """One run's line with its interval."""
    values = _drawn(rows[measure])
    every = max(1, len(rows) // 12)
    ax.plot(rows["depth"], values, marker=marker, markersize=3.5, markevery=every, **style)  # type: ignore[arg-type]
    alone = values.notna() & values.shift().isna() & values.shift(-1).isna()
    ax.plot(rows["depth"][alone], values[alone], ".", color=style["color"], markersize=4)  # no line reaches them
    if measure == "condition_number":
        bounds = values.notna()
        high = rows["condition_number_high"].clip(upper=1e18)
        ax.fill_between(
            rows["depth"],
            _drawn(rows["condition_number_low"]),
            high,
            where=bounds,
            color=style["color"],
            alpha=0.18,
            lw=0,
        )


def _log_limits(values: pd.Series) -> tuple[float, float]:
    """Limits in whole decades around the values; 1 to 10 where there is none."""
    known = values.dropna()
    if known.empty:
        return 1.0, 10.0
    low, high = 10.0 ** np.floor(np.log10(known.min())), 10.0 ** np.ceil(np.log10(known.max()))
    return float(low), float(high if high > low else 10 * low)


def _rail(ax: Axes, table: pd.DataFrame, measure: str, limits: tuple[float, float]) -> set[str]:
    """Markers of all layers without a value, a row a network above the data; returns the statuses that stand there."""
    groups = by_network(table)
    off = {name: pd.concat(runs)[lambda f: _drawn(f[measure]).isna()] for name, runs in groups}
    rows = [(i, name) for i, (name, _) in enumerate(groups) if len(off[name])]
    ax.set_yscale("log")
    low, high = limits
    share = min(0.4, 0.055 * len(rows) + 0.025) if rows else 0.0
    top = np.log10(low) + (np.log10(high) - np.log10(low)) / (1 - share)
    ax.set_ylim(low * 0.8, 10.0 ** min(top, 307.0))
    ax.yaxis.set_major_locator(ticker.FixedLocator(decades(low, high)))
    ax.yaxis.set_minor_locator(ticker.NullLocator())
    if not rows:
        return set()
    ax.add_patch(Rectangle((0, 1 - share), 1, share, transform=ax.transAxes, color="#EBEBEB", zorder=0.5, lw=0))
    seen: set[str] = set()
    for place, (index, name) in enumerate(rows):
        height = 1 - share * (place + 0.6) / (len(rows) + 0.2)
        for status, part in off[name].groupby("status", sort=False):
            shown = str(status) if status in RAIL_MARKERS else "singular-exact"
            seen.add(shown)
            _rail_row(ax, part["depth"], height, status=shown, colour=look(index)["color"])
    ax.text(
        1.0,
        1 - share,
        "not finite ↑ ",
        transform=ax.transAxes,
        ha="right",
        va="top",
        fontsize=7.5,
        color=GREY,
        zorder=5,
    )
    return seen


def _rail_row(ax: Axes, depths: pd.Series, height: float, *, status: str, colour: str) -> None:
    """Markers of one network's layers of one status."""
    ax.plot(
        depths,
        np.full(len(depths), height),
        transform=ax.get_xaxis_transform(),
        linestyle="none",
        marker=RAIL_MARKERS[status],
        markersize=3.6,
        markeredgewidth=0.9,
        color=colour,
        fillstyle="none" if status in {"zero", "unresolved"} else "full",
    )


def rank_by_depth(frame: pd.DataFrame, ax: Axes | None = None, *, measure: str = "effective_rank") -> Axes:
    """Rank by depth, a line a run; thin grey steps show the largest rank that shape and architecture allow.

    Args:
        frame: Wide table of one tap and view, last step of each run.
        ax: Axes to draw on; a new figure's by default.
        measure: One of RANKS.

    Returns:
        The axes.

    Raises:
        ConfigError: If measure is none of RANKS, or the frame holds several taps or views.
        ShapeError: If a required column is missing.
    """
    if measure not in RANKS:
        raise ConfigError(f"measure={measure!r} is none of {', '.join(RANKS)}")
    table = last_facet(frame)
    ax = finish(axes(ax), x="depth", y=measure.replace("_", " "))
    table.loc[table["status"].isin(["nonfinite", "empty"]), list(RANKS)] = np.nan
    if table[measure].notna().sum() == 0:
        return note(ax, "no rank was measured")
    entries = []
    bounds = []
    for index, (name, runs) in enumerate(by_network(table)):
        style, marker = look(index), MARKERS[index % len(MARKERS)]
        for rows in runs:
            every = max(1, len(rows) // 12)
            ax.plot(rows["depth"], rows[measure], marker=marker, markersize=3.5, markevery=every, **style)
        entries.append((name or measure.replace("_", " "), Line2D([], [], marker=marker, markersize=3.5, **style)))
        bounds.append(runs[0].set_index("depth")[["n_rows", "n_features", "rank_bound"]].min(axis=1))
    for bound in bounds:
        ax.plot(bound.index, bound, color=GREY, linewidth=0.7, drawstyle="steps-mid")
    entries.append(("largest possible", Line2D([], [], color=GREY, linewidth=0.7)))
    ax.set_ylim(bottom=0)
    legend(ax, entries)
    return ax


def units_by_depth(frame: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Share of dead, constant and duplicate units by depth, of one network (its first run).

    Args:
        frame: Wide table of one network, tap and view, last step.
        ax: Axes to draw on; a new figure's by default.

    Returns:
        The axes.

    Raises:
        ConfigError: If the frame holds several taps or views.
        ShapeError: If a required column is missing.
    """
    table = last_facet(frame)
    ax = finish(axes(ax, size=(5.8, 3.0)), x="depth", y="share of units")
    counts = ["n_dead", "n_constant", "n_duplicate"]
    if table[counts].notna().sum().sum() == 0:
        return note(ax, "no units were counted")
    rows = by_network(table)[0][1][0]
    entries = []
    for index, column in enumerate(counts):
        style, marker = look(index), MARKERS[index]
        every = max(1, len(rows) // 12)
        shares = (rows[column] - (rows["n_dead"].fillna(0) if column == "n_constant" else 0)) / rows["n_features"]
        ax.plot(rows["depth"], shares, marker=marker, markersize=3.5, markevery=every, **style)
        words = {"n_dead": "dead (always 0)", "n_constant": "constant, not 0", "n_duplicate": "duplicate"}[column]
        entries.append((words, Line2D([], [], marker=marker, markersize=3.5, **style)))
    ax.set_ylim(-0.02, 1.02)
    ax.yaxis.set_major_formatter(ticker.PercentFormatter(1.0, decimals=0))
    legend(ax, entries)
    return ax


SPLIT_LINES: dict[str, tuple[Any, float]] = {
    "train": ("-", 0.9),
    "validation": ((0, (1.2, 1.2)), 1.3),
    "test": ((0, (5, 1.6)), 1.9),
}


def training_curves(frame: pd.DataFrame, ax: Axes | None = None, *, measure: str = "accuracy") -> Axes:
    """Accuracy or loss over training, a line a run and split; what is not finite stands at the upper edge.

    Args:
        frame: Tidy metrics of a run (columns measure, value, split, step or epoch, and run, network where several).
        ax: Axes to draw on; a new figure's by default.
        measure: ``accuracy``, ``loss`` or any other measure in the frame.

    Returns:
        The axes.
    """
    columns = ["network", "run", "step", "epoch", "split", "measure", "value"]
    rows = frame.reindex(columns=columns)
    rows = rows[rows["measure"] == measure].copy()
    ax = finish(axes(ax), x="step", y=measure.replace("$", r"\$"))
    if rows.empty:
        return note(ax, f"no {measure} was recorded".replace("$", r"\$"))
    when = "epoch" if rows["epoch"].notna().all() else "step"
    ax.set_xlabel(when)
    for name in ("network", "run", "split"):
        rows[name] = rows[name].astype(object).where(rows[name].notna(), "").astype(str)
    values = rows["value"].astype("float64")
    known = values[np.isfinite(values)]
    log = measure != "accuracy" and len(known) > 0 and known.min() > 0 and known.max() > 50 * known.min()
    named = rows["network"].where(rows["network"] != "", rows["run"])
    entries: list[tuple[str, Line2D]] = []
    for index, (name, part) in enumerate(rows.groupby(named, sort=False)):
        for (_, split), run in part.groupby(["run", "split"], sort=False):
            _curve(ax, run.sort_values(when, kind="stable"), when=when, index=index, split=str(split))
        style, marker = look(index), MARKERS[index % len(MARKERS)]
        entries.append((str(name), Line2D([], [], color=style["color"], marker=marker, lw=1.5)))
    splits = [s for s in SPLIT_LINES if s in set(rows["split"])]
    entries += [(s, Line2D([], [], color=GREY, linestyle=SPLIT_LINES[s][0], lw=SPLIT_LINES[s][1])) for s in splits]
    if log:
        ax.set_yscale("log")
    elif measure == "accuracy":
        ax.set_ylim(-0.02, 1.02)
        ax.yaxis.set_major_formatter(ticker.PercentFormatter(1.0, decimals=0))
    legend(ax, entries)
    return ax


def _curve(ax: Axes, run: pd.DataFrame, *, when: str, index: int, split: str) -> None:
    """One run's line on one split; crosses at the upper edge where it is not finite."""
    style = look(index)
    line, width = SPLIT_LINES.get(split, (style["linestyle"], 1.2))
    values = run["value"].astype("float64")
    ax.plot(
        run[when],
        values.where(np.isfinite(values)),
        color=style["color"],
        linestyle=line,
        lw=width,
        marker="" if split == "train" else MARKERS[index % len(MARKERS)],
        markersize=3.5,
        markevery=max(1, len(run) // 8),
    )
    lost = run.loc[~np.isfinite(values), when]
    ax.plot(lost, np.full(len(lost), 0.985), "x", color=style["color"], transform=ax.get_xaxis_transform(), ms=5)
