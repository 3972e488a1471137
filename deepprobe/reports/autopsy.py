"""The autopsy of a training as a figure: maps of depth and step, and the events on them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import Patch

from deepprobe.errors import ConfigError, ShapeError
from deepprobe.reports.heatmaps import INFINITE, UNPROBED, draw_image
from deepprobe.reports.style import GREY, axes, finish, legend, note
from deepprobe.reports.words import for_figure, number

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

MAPS = {
    "gradient_norm": ("kernels", "log₁₀ gradient norm", True),
    "update_ratio": ("kernels", "log₁₀ update / weight", True),
    "weight_rms": ("kernels", "log₁₀ rms of weights", True),
    "rms": ("layers", "log₁₀ rms of activations", True),
    "effective_rank": ("layers", "log₁₀ effective rank", True),
    "numerical_rank": ("layers", "numerical rank", False),
    "dead_share": ("layers", "share of dead units", False),
}
"""What is drawn over depth and step: from which table, the name of its colours, whether they are logarithmic."""

SHOWN_ON = {"growth": "weight_rms", "clip_factor": "gradient_norm", "spread": "effective_rank", "precision": "rms",
            "share_nonfinite": "rms"}  # fmt: skip
"""Maps on which events of other measures are marked; those of loss and predictions stand on the loss alone."""

WIDEST = 1e-12
"""Smallest share of the largest value that the colours of a logarithmic map tell apart from zero."""


class Subject(Protocol):
    """What is drawn: tables as those of ``deepprobe.autopsy``."""

    @property
    def steps(self) -> pd.DataFrame:
        """One row a step."""

    @property
    def layers(self) -> pd.DataFrame:
        """One row a step and layer call."""

    @property
    def kernels(self) -> pd.DataFrame:
        """One row a step and kernel."""

    def table(self) -> pd.DataFrame:
        """One row an event."""


def autopsy_map(
    frame: pd.DataFrame,
    ax: Axes | None = None,
    *,
    measure: str,
    limits: tuple[float, float] | None = None,
    steps: Sequence[float] | None = None,
) -> Axes:
    """One measure over steps (across) and depth (downward, the input on top).

    Of several layers of one depth the largest value is shown. In logarithmic maps zero has the darkest colour, whatever
    is infinite or NaN where something was measured a colour of its own; what was not measured is white.

    Args:
        frame: ``layers`` or ``kernels`` of an autopsy, with the columns ``step``, ``depth`` and the measure.
        ax: Axes to draw on; a new figure's by default.
        measure: One of MAPS.
        limits: Least and greatest value of the colours, to compare networks; of the data by default.
        steps: Steps to show, in order, so that figures line up; by default those of the frame.

    Returns:
        The axes.

    Raises:
        ConfigError: If measure is none of MAPS.
        ShapeError: If a column is missing.
    """
    if measure not in MAPS:
        raise ConfigError(f"measure={measure!r} is none of {', '.join(MAPS)}")
    missing = [c for c in ("step", "depth", measure) if c not in frame]
    if missing:
        raise ShapeError(f"the frame lacks {', '.join(missing)}: give the tables of an autopsy")
    ax = axes(ax, size=(4.2, 2.6))
    _, label, is_log = MAPS[measure]
    if not frame[measure].notna().any():
        return note(finish(ax, x="step", y="depth"), f"no {measure.replace('_', ' ')} to show")
    grid = frame.groupby(["depth", "step"])[measure].max().unstack("step")
    grid = grid if steps is None else grid.reindex(columns=list(steps))
    values = grid.to_numpy(dtype="float64")
    low, high = value_limits(values, measure) if limits is None else limits
    shown = np.log10(np.maximum(values, low)) if is_log else values.copy()
    vmin, vmax = (np.log10(low), np.log10(high)) if is_log else (low, high)
    lost = np.isinf(values)
    shown[lost] = vmax + 10 * (vmax - vmin)  # not infinity, which matplotlib masks
    shown[~lost] = np.minimum(shown[~lost], vmax)
    colours = mpl.colormaps["cividis"].with_extremes(over=INFINITE, bad=UNPROBED)
    draw_image(ax, shown, cmap=colours, vmin=vmin, vmax=vmax, cbar_kws={})
    ax.figure.axes[-1].set_ylabel(label, fontsize=8.5)  # of the bar of colours, which was made last
    finish(ax, x="step", y="depth").grid(visible=False)
    _ticks(ax, grid.columns.to_numpy("float64"), grid.index.to_numpy("float64"))
    if lost.any():
        legend(ax, [("infinite", Patch(facecolor=INFINITE))])
    return ax


def value_limits(values: Any, measure: str) -> tuple[float, float]:
    """Least and greatest value of a map's colours for given values; a decade apart at least where logarithmic."""
    known = np.asarray(values, dtype="float64")
    known = known[np.isfinite(known)]
    if not MAPS[measure][2]:
        return 0.0, max(float(known.max(initial=0.0)), 1.0)
    known = known[known > 0]
    if not len(known):
        return 0.1, 1.0
    high = float(known.max())
    low = max(float(known.min()), high * WIDEST)
    return min(low, high / 10), high


def _ticks(ax: Axes, steps: NDArray[np.float64], depths: NDArray[np.float64]) -> None:
    """Steps below, depths at the left: at most seven each."""
    across, down = _sparse(len(steps)), _sparse(len(depths))
    ax.set_xticks(across + 0.5, [f"{steps[i]:g}" for i in across])
    ax.set_yticks(down + 0.5, [f"{depths[i]:g}" for i in down])


def _sparse(n: int) -> NDArray[np.int64]:
    """At most seven places of n, evenly apart, from the first on."""
    return np.arange(0, n, -(-n // 7) or 1)


def loss_by_step(steps: pd.DataFrame, ax: Axes | None = None, *, events: pd.DataFrame | None = None) -> Axes:
    """Loss on the probe batch by step, beside that of a constant answer, with events by number where they begin.

    Args:
        steps: ``steps`` of an autopsy.
        ax: Axes to draw on; a new figure's by default.
        events: ``table()`` of an autopsy.

    Returns:
        The axes; a logarithmic axis where the loss spans more than two decades.
    """
    ax = finish(axes(ax, size=(4.2, 2.2)), x="step", y="loss")
    loss = steps["loss"].where(np.isfinite(steps["loss"]))
    ax.plot(steps["step"], loss, color="#0173B2", marker="o", markersize=3, linewidth=1.4)
    chance = float(steps["chance"].iloc[0])
    ax.axhline(chance, color=GREY, linewidth=0.9, linestyle=(0, (5, 1.6)))
    known = loss[loss > 0]
    if len(known) and known.max() / known.min() > 100:
        ax.set_yscale("log")
    ax.set_xlim(-0.5, float(steps["step"].max()) + 0.5)
    ax.text(0.99, 0.97, f"dashed: a constant answer's, {number(chance, digits=2)}", transform=ax.transAxes,
            ha="right", va="top", fontsize=7.5, color=GREY)  # fmt: skip
    ax.margins(y=0.25)
    shown = steps["step"].to_numpy("float64")[_sparse(len(steps))]
    ax.set_xticks(shown, [f"{step:g}" for step in shown])
    for i, (step, numbers) in enumerate(_numbered(events).items()):
        ax.axvline(step, color=INFINITE, linewidth=0.8, alpha=0.7)
        ax.annotate(numbers, (step, 1.0), (0, 1 + 8 * (i % 2)), xycoords=ax.get_xaxis_transform(), color=INFINITE,
                    textcoords="offset points", fontsize=7.5, ha="center", va="bottom",
                    annotation_clip=False)  # fmt: skip
    return ax


def _numbered(events: pd.DataFrame | None) -> dict[float, str]:
    """Numbers of the events that begin at each step, as "1" or "2–5"."""
    if events is None or events.empty:
        return {}
    numbers: dict[float, list[int]] = {}
    for place, step in enumerate(events["step"], start=1):
        numbers.setdefault(float(step), []).append(place)
    return {step: _joined(of) for step, of in numbers.items()}


def _joined(numbers: list[int]) -> str:
    """Rising numbers as ``2``, ``2, 5`` or ``2–4``."""
    if len(numbers) > 2 and numbers[-1] - numbers[0] == len(numbers) - 1:
        return f"{numbers[0]}–{numbers[-1]}"
    return ", ".join(map(str, numbers))


def autopsy_figure(subjects: Mapping[str, Subject]) -> Figure:
    """Autopsies side by side, a column each: loss, then a map a measure on shared colours, then the events in words.

    All panels of a column have the same steps across. Events carry numbers, which stand on the loss at the step where
    they begin, and on the map of their measure (SHOWN_ON) at the layer and step where they were first seen.

    Args:
        subjects: From a name to an autopsy, or to anything with its tables.

    Returns:
        The figure.

    Raises:
        ConfigError: If there is none.
    """
    if not subjects:
        raise ConfigError("autopsy_figure: give at least one autopsy")
    rows = [m for m in MAPS if any(getattr(s, MAPS[m][0])[m].notna().any() for s in subjects.values())]
    most = max(len(s.table()) for s in subjects.values())
    heights = [1.5, *([1.7] * len(rows)), 0.19 * most + 0.15]
    figure, grid = plt.subplots(
        len(rows) + 2, len(subjects), figsize=(5.4 * len(subjects), sum(heights) + 0.3), squeeze=False,
        layout="constrained", gridspec_kw={"height_ratios": heights},
    )  # fmt: skip
    for column, (name, subject) in enumerate(subjects.items()):
        events = subject.table()
        loss_by_step(subject.steps, grid[0][column], events=events).set_title(for_figure(name, limit=60), pad=22)
        for row, measure in enumerate(rows, start=1):
            table = MAPS[measure][0]
            together = np.concatenate([getattr(s, table)[measure].to_numpy("float64") for s in subjects.values()])
            ax = autopsy_map(
                getattr(subject, table), grid[row][column], measure=measure, limits=value_limits(together, measure),
                steps=list(subject.steps["step"]),
            )  # fmt: skip
            _mark(ax, subject, getattr(subject, table), events[events["measure"].replace(SHOWN_ON) == measure])
        _list(grid[-1][column], events)
    return figure


def _mark(ax: Axes, subject: Subject, frame: pd.DataFrame, events: pd.DataFrame) -> None:
    """Numbers of events on a map, where they were first seen; those of the whole network at its top."""
    steps, depths = list(subject.steps["step"]), np.array(sorted(frame["depth"].unique()), dtype="float64")
    seen: dict[float, list[tuple[float, int]]] = {}
    for place, event in events.iterrows():
        row = 0 if np.isnan(float(event["depth"] or "nan")) else int(np.abs(depths - float(event["depth"])).argmin())
        seen.setdefault(steps.index(event["step"]) + 0.5, []).append((row + 0.5, int(str(place)) + 1))
    box = {"boxstyle": "round,pad=0.2,rounding_size=0.8", "facecolor": "white", "edgecolor": INFINITE, "linewidth": 0.8}
    for across, marks in seen.items():
        ax.axvline(across, color=INFINITE, linewidth=0.8, alpha=0.7)
        for down, numbers in _apart(marks, len(depths) / 6):
            ax.annotate(numbers, (across, down), ha="center", va="center", fontsize=7, color=INFINITE, bbox=box)


def _apart(marks: list[tuple[float, int]], gap: float) -> list[tuple[float, str]]:
    """Marks of one step from the top down; such as would cover each other, nearer than gap, become one."""
    together: list[tuple[float, list[int]]] = []
    for down, number_ in sorted(marks):
        if together and down - together[-1][0] < gap:
            together[-1][1].append(number_)
        else:
            together.append((down, [number_]))
    return [(down, _joined(sorted(numbers))) for down, numbers in together]


def _list(ax: Axes, events: pd.DataFrame) -> None:
    """Events as a numbered list."""
    ax.set_axis_off()
    lines = [
        f"{i}  step {event['step']}: {str(event['rule']).replace('-', ' ')}"
        + (f", {for_figure(event['layer'])}" if isinstance(event["layer"], str) else "")
        + f", {number(float(event['value']))}"
        for i, (_, event) in enumerate(events.iterrows(), start=1)
    ]
    ax.text(0.0, 1.0, "\n".join(lines) or "nothing failed", transform=ax.transAxes, va="top", fontsize=8)
