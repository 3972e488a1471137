"""Figures of condition numbers, ranks, units and training: a frame and axes in, axes out.

Every function takes what ``condition_numbers`` returns (or a run's ``layers()``), with an optional column ``network``
where several are compared, draws on ``ax`` or on a new figure, and returns the axes. None mixes taps or views.
Lines and heat maps are seaborn's; the band, the rail and the crosses are matplotlib's, as seaborn takes neither given
ends nor fractions of the axes.
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
from deepprobe.reports.lines import draw_lines, typical
from deepprobe.reports.style import (
    GREY,
    LINES,
    RAIL_MARKERS,
    axes,
    colour,
    decades,
    finish,
    last_facet,
    legend,
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
UNITS = {"n_dead": "dead (always 0)", "n_constant": "constant, not 0", "n_duplicate": "duplicate"}
LAYER = ("layer", "call")
LARGEST_DRAWN = 1e300


def condition_by_depth(frame: pd.DataFrame, ax: Axes | None = None, *, measure: str = "condition_number") -> Axes:
    """Condition number by depth on a logarithmic axis: a bold line a network, the median over its runs, each run thin.

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
    ax = finish(axes(ax), x="depth", y="condition number κ" + _addition(measure))
    if table.empty:
        return note(ax, "no layer was measured")
    drawn = table.assign(**{c: _drawn(table[c]) for c in (measure, "condition_number_null")})
    entries = [(name or _words(measure), line) for name, line in draw_lines(ax, drawn, x="depth", y=measure, by=LAYER)]
    if measure == "condition_number":
        _band(ax, table)
    if drawn["condition_number_null"].notna().any():
        entries.append(_reference(ax, drawn, "condition_number_null", "Gaussian, same shape"))
    rows_on_rail = _rail(ax, drawn, measure, _log_limits(pd.concat([drawn[measure], drawn["condition_number_null"]])))
    entries += [(STATUSES[s], status_handle(s)) for s in RAIL_MARKERS if s in rows_on_rail]
    legend(ax, entries)
    return ax


def _words(measure: str) -> str:
    """A measure's name, for the legend where no network has one."""
    return measure.replace("_", " ")


def _addition(measure: str) -> str:
    """What sets a condition number apart from the plain one."""
    return {"condition_number_live": " over live units", "condition_number_rank": " over the numerical rank"}.get(
        measure, " within the rank bound" if measure == "condition_number_bound" else ""
    )


def _drawn(values: pd.Series) -> pd.Series:
    """Values that a logarithmic axis can show, the others NaN."""
    return values.where(np.isfinite(values) & (values > 0) & (values < LARGEST_DRAWN))


def _band(ax: Axes, table: pd.DataFrame) -> None:
    """Interval that rounding allows, around every network's median."""
    ends = [
        typical(table.assign(v=table[f"condition_number_{c}"].clip(upper=1e18)), x="depth", y="v", by=LAYER)
        for c in ("low", "high")
    ]
    middle = typical(table, x="depth", y="condition_number", by=LAYER)
    for index, (_, rows) in enumerate(middle.groupby("network", sort=False)):
        rows = rows.sort_values("depth", kind="stable")
        low, high = (end["v"][rows.index] for end in ends)
        ax.fill_between(
            rows["depth"], low, high, where=rows["condition_number"].notna(), color=colour(index), alpha=0.18, lw=0
        )


def _reference(ax: Axes, table: pd.DataFrame, column: str, name: str, **options: Any) -> tuple[str, Line2D]:
    """Thin grey line a network; returns its legend entry."""
    for _, rows in typical(table, x="depth", y=column, by=LAYER).groupby("network", sort=False):
        rows = rows.sort_values("depth", kind="stable")
        ax.plot(rows["depth"], rows[column], color=GREY, linewidth=0.7, **options)
    return name, Line2D([], [], color=GREY, linewidth=0.7)


def _log_limits(values: pd.Series) -> tuple[float, float]:
    """Limits in whole decades around the values; 1 to 10 where there is none."""
    known = values.dropna()
    if known.empty:
        return 1.0, 10.0
    low, high = 10.0 ** np.floor(np.log10(known.min())), 10.0 ** np.ceil(np.log10(known.max()))
    return float(low), float(high if high > low else 10 * low)


def _rail(ax: Axes, table: pd.DataFrame, measure: str, limits: tuple[float, float]) -> set[str]:
    """Markers of all layers without a value, a row a network above the data; returns the statuses that stand there."""
    off = [rows[rows[measure].isna()] for _, rows in table.groupby("network", sort=False)]
    rows = [i for i, part in enumerate(off) if len(part)]
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
    for place, index in enumerate(rows):
        height = 1 - share * (place + 0.6) / (len(rows) + 0.2)
        for status, part in off[index].groupby("status", sort=False):
            shown = str(status) if status in RAIL_MARKERS else "singular-exact"
            seen.add(shown)
            _rail_row(ax, part["depth"], height, status=shown, shade=colour(index))
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


def _rail_row(ax: Axes, depths: pd.Series, height: float, *, status: str, shade: str) -> None:
    """Markers of one network's layers of one status."""
    ax.plot(
        depths,
        np.full(len(depths), height),
        transform=ax.get_xaxis_transform(),
        linestyle="none",
        marker=RAIL_MARKERS[status],
        markersize=5 if status == "singular-exact" else 3.6,  # seen where another run has a triangle
        markeredgewidth=0.9,
        color=shade,
        fillstyle="none" if status in {"zero", "unresolved"} else "full",
    )


def rank_by_depth(frame: pd.DataFrame, ax: Axes | None = None, *, measure: str = "effective_rank") -> Axes:
    """Rank by depth, bold the median over a network's runs; grey steps show what shape and architecture allow.

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
    ax = finish(axes(ax), x="depth", y=_words(measure))
    table.loc[table["status"].isin(["nonfinite", "empty"]), list(RANKS)] = np.nan
    if table[measure].notna().sum() == 0:
        return note(ax, "no rank was measured")
    entries = [(name or _words(measure), line) for name, line in draw_lines(ax, table, x="depth", y=measure, by=LAYER)]
    table["rank_bound"] = table["rank_bound"].replace(0.0, np.nan)  # 0 where no rank was looked for: not finite
    table["bound"] = table[["n_rows", "n_features", "rank_bound"]].min(axis=1).replace(0.0, np.nan)
    entries.append(_reference(ax, table, "bound", "largest possible", drawstyle="steps-mid"))
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
    if table[list(UNITS)].notna().sum().sum() == 0:
        return note(ax, "no units were counted")
    rows = table[(table["network"] == table["network"].iloc[0]) & (table["run"] == table["run"].iloc[0])]
    rows = rows.assign(n_constant=rows["n_constant"] - rows["n_dead"].fillna(0))
    shares = [rows.assign(network=words, share=rows[c] / rows["n_features"]) for c, words in UNITS.items()]
    entries = draw_lines(ax, pd.concat(shares, ignore_index=True), x="depth", y="share", by=LAYER)
    ax.set_ylim(-0.02, 1.02)
    ax.yaxis.set_major_formatter(ticker.PercentFormatter(1.0, decimals=0))
    legend(ax, entries)
    return ax


SPLIT_LINES: dict[str, Any] = {"train": (1.2, 1.2), "validation": (5, 1.5, 1, 1.5), "test": ""}


def training_curves(frame: pd.DataFrame, ax: Axes | None = None, *, measure: str = "accuracy") -> Axes:
    """Accuracy or loss over training, bold the median over runs; crosses at the upper edge are not finite.

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
    rows["network"] = rows["network"].where(rows["network"] != "", rows["run"])
    rows["value"] = values
    dashes = SPLIT_LINES | {s: LINES[4] for s in rows["split"].unique() if s not in SPLIT_LINES}
    entries = draw_lines(ax, rows, x=when, y="value", by=(), splits=dashes)
    for index, (_, part) in enumerate(rows.groupby("network", sort=False)):
        lost = part.loc[~np.isfinite(part["value"]), when]
        ax.plot(lost, np.full(len(lost), 0.985), "x", color=colour(index), transform=ax.get_xaxis_transform(), ms=5)
    for split in (s for s in dashes if (rows["split"] == s).any()):
        entries.append(
            (split, Line2D([], [], color=GREY, lw=1.5, linestyle=(0, dashes[split]) if dashes[split] else "-"))
        )
    if (rows[when].astype("float64") % 1 == 0).all():
        ax.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
    if log:
        ax.set_yscale("log")
    elif measure == "accuracy":
        ax.set_ylim(-0.02, 1.02)
        ax.yaxis.set_major_formatter(ticker.PercentFormatter(1.0, decimals=0))
    legend(ax, entries)
    return ax
