"""Figures of attributions: how few units hold them, which rankings agree, what ablation does, and pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.lines import Line2D

from deepprobe.errors import ConfigError
from deepprobe.measures.concentration import lorenz_curve
from deepprobe.reports.style import GREY, LINES, MARKERS, axes, colour, finish, legend, note
from deepprobe.reports.words import for_figure, number

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

CONCENTRATIONS = {
    "gini": "Gini coefficient",
    "top_1_share": "share held by the top 1 % of units",
    "top_5_share": "share held by the top 5 % of units",
    "top_10_share": "share held by the top 10 % of units",
}
"""Columns of ``concentration``, and the names of their axes."""

MOST_LAYERS = 6


def concentration_by_depth(frame: pd.DataFrame, ax: Axes | None = None, *, measure: str = "gini") -> Axes:
    """How unevenly attribution is spread over the units of each layer, by depth, a line a network.

    Args:
        frame: One row a layer, as ``attribution.concentration`` gives it; of several networks with a column
            ``network``. Seeds of one network, with a column ``seed``, are drawn as mean and range.
        ax: Axes to draw on; a new figure's by default.
        measure: One of CONCENTRATIONS.

    Returns:
        The axes.

    Raises:
        ConfigError: If measure is none of CONCENTRATIONS, or not in the frame.
    """
    if measure not in CONCENTRATIONS or measure not in frame:
        raise ConfigError(f"measure={measure!r} is none of {', '.join(CONCENTRATIONS)}, or not in this frame")
    ax = finish(axes(ax, size=(5.8, 3.4)), x="depth", y=CONCENTRATIONS[measure])
    entries = _lines_by_depth(ax, frame, measure, _names(frame, "network"))
    ax.set_ylim(-0.02, 1.02)
    if not entries:
        return note(ax, f"no layer has a {CONCENTRATIONS[measure]}")
    legend(ax, [entry for entry in entries if entry[0]])
    return ax


def lorenz_by_layer(
    units: pd.DataFrame, ax: Axes | None = None, *, measure: str = "conductance", layers: Sequence[str] | None = None
) -> Axes:
    """Lorenz curves of some layers: which share of the attribution the smallest units hold, from dark to bright.

    Args:
        units: One row a unit, as ``attributions`` gives it.
        ax: Axes to draw on; a new figure's by default.
        measure: The column that is shared out.
        layers: Names of layers; by default at most six, evenly spaced by depth.

    Returns:
        The axes.

    Raises:
        ConfigError: If the table does not have the column or a layer, or a value is negative.
    """
    known = list(dict.fromkeys(units["layer"]))
    places = np.linspace(0, len(known) - 1, min(MOST_LAYERS, len(known)))
    wanted = [known[round(place)] for place in places] if layers is None else list(layers)
    if measure not in units or set(wanted) - set(known):
        raise ConfigError(f"measure={measure!r} or some of layers={layers!r} are not in this table of units")
    ax = finish(
        axes(ax, size=(4.6, 4.2)), x="share of units, smallest first", y=f"share of {measure.replace('_', ' ')}"
    )
    entries: list[tuple[str, Any]] = []
    for i, name in enumerate(wanted):
        part = units[units["layer"] == name]
        curve = lorenz_curve(part[measure])
        shade = mpl.colormaps["plasma"](0.75 * i / max(len(wanted) - 1, 1))
        look: dict[str, Any] = {"color": shade, "dashes": LINES[i % len(LINES)] or (None, None), "linewidth": 1.5}
        (line,) = ax.plot(np.linspace(0, 1, len(curve)), curve, **look)
        entries.append((f"depth {number(float(part['depth'].iloc[0]))}", line))
    (even,) = ax.plot([0, 1], [0, 1], color=GREY, linewidth=0.8)
    legend(ax, [*entries, ("all the same", even)], handlelength=2.4)
    ax.set_xlim(0, 1)
    ax.set_ylim(0, 1)
    return ax


def ablation_by_fraction(frame: pd.DataFrame, ax: Axes | None = None, *, measure: str = "accuracy") -> Axes:
    """What is left of a network as units are taken from every layer: a colour a ranking, solid where its first go.

    Args:
        frame: As ``attribution.ablation_curves`` gives it; repeats of the random order are drawn as mean and range.
        ax: Axes to draw on; a new figure's by default.
        measure: ``accuracy`` or ``loss`` (on a logarithmic axis).

    Returns:
        The axes.

    Raises:
        ConfigError: If the measure is neither.
    """
    if measure not in {"accuracy", "loss"}:
        raise ConfigError(f"measure={measure!r} is neither 'accuracy' nor 'loss'")
    ax = finish(axes(ax, size=(5.8, 3.8)), x="share of units taken from each layer", y=measure)
    entries: list[tuple[str, Any]] = []
    rankings = [name for name in dict.fromkeys(frame["ranking"]) if name != "random"]
    for i, name in enumerate(rankings):
        marker = MARKERS[i % len(MARKERS)]
        look: dict[str, Any] = {"color": colour(i), "marker": marker, "markersize": 4, "linewidth": 1.5}
        entries.append((name.replace("_", " "), Line2D([], [], **look)))
        for order, dashes in (("top", "-"), ("bottom", (0, (4, 1.6)))):
            part = frame[(frame["ranking"] == name) & (frame["order"] == order)].sort_values("fraction")
            ax.plot(part["fraction"], part[measure], linestyle=dashes, **look)
    drawn = frame[frame["order"] == "random"].groupby("fraction")[measure].agg(["mean", "min", "max"])
    if len(drawn):
        (line,) = ax.plot(drawn.index, drawn["mean"], color=GREY, linewidth=1.5, linestyle=(0, (1.2, 1.2)))
        ax.fill_between(drawn.index, drawn["min"], drawn["max"], color=GREY, alpha=0.15, linewidth=0)
        entries.append(("at random", line))
    ways: list[tuple[str, Any]] = [("first taken first", "-"), ("last taken first", (0, (4, 1.6)))]
    legend(
        ax, [*entries, *((text, Line2D([], [], color="black", linestyle=dashes)) for text, dashes in ways if rankings)]
    )
    if measure == "loss":
        ax.set_yscale("log")
    return ax


def agreement_by_depth(frame: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Rank correlation between rankings of the units of a layer, by depth, a line a pair.

    Args:
        frame: As ``attribution.agreement`` gives it, of one network, or with a column ``seed`` of several of its seeds.
        ax: Axes to draw on; a new figure's by default.

    Returns:
        The axes.
    """
    pairs = frame["first"].map(_short) + " / " + frame["second"].map(_short)
    ax = finish(axes(ax, size=(5.8, 3.6)), x="depth", y="Spearman's rank correlation")
    ax.axhline(0, color=GREY, linewidth=0.8)
    entries = _lines_by_depth(ax, frame.assign(pair=pairs), "spearman", [("pair", name) for name in pairs.unique()])
    ax.set_ylim(-1.05, 1.05)
    if not entries:
        return note(ax, "no layer has two rankings")
    legend(ax, entries)
    return ax


class PicturesLike(Protocol):
    """What ``attribution.Pictures`` holds, so far as it is drawn."""

    @property
    def images(self) -> NDArray[np.floating]:
        """Shape (n, channels, height, width)."""

    @property
    def values(self) -> NDArray[np.floating]:
        """Attributions, shape (n, channels, height, width)."""

    @property
    def target(self) -> NDArray[np.int64]:
        """Classes that are explained, shape (n,)."""

    @property
    def predicted(self) -> NDArray[np.int64]:
        """Classes that are predicted, shape (n,)."""


def attribution_pictures(networks: Mapping[str, PicturesLike]) -> Figure:
    """A row an image: the image itself, and beside it what each network attributed to its pixels.

    Attributions are summed over channels. Red adds to the score, blue takes from it, as a line under the figure says;
    each picture has its own scale, to the 99th percentile of its magnitude, since scores of networks differ by orders
    of magnitude. A picture that is zero everywhere is white, one that holds a value that is not finite is grey.

    Args:
        networks: From names to what ``input_attributions`` or ``grad_cam_maps`` gave of the same images.

    Returns:
        A new figure.

    Raises:
        ConfigError: If there is no network, or they are of different images.
    """
    if not networks:
        raise ConfigError("there are no pictures to draw: pass a mapping from names to input_attributions")
    first, *others = networks.values()
    if any(not np.array_equal(first.images, other.images) for other in others):
        raise ConfigError("attribution_pictures sets networks side by side on the same images; these differ")
    n, columns = len(first.images), len(networks) + 1
    figure, grid = plt.subplots(
        n, columns, figsize=(1.35 * columns, 1.5 * n + 0.3), layout="constrained", squeeze=False
    )
    for ax in grid.flat:
        ax.set_xticks([])
        ax.set_yticks([])
    grid[0, 0].set_title("image", fontsize=9)
    for i in range(n):
        _show_image(grid[i, 0], first.images[i])
        if first.target[i] >= 0:
            grid[i, 0].set_ylabel(f"class {first.target[i]}", fontsize=8.5)
    for j, (name, pictures) in enumerate(networks.items(), start=1):
        grid[0, j].set_title(for_figure(name), fontsize=9)
        for i in range(n):
            _show_values(grid[i, j], pictures.values[i].astype("float64").sum(axis=0))
            if pictures.predicted[i] >= 0:
                grid[i, j].set_xlabel(f"says {pictures.predicted[i]}", fontsize=8, labelpad=1)
    figure.supxlabel("red adds to the score, blue takes from it", fontsize=8)
    return figure


def _show_image(ax: Axes, image: NDArray[np.floating]) -> None:
    """An image in grey or colour, from its least to its greatest value."""
    shown = image.astype("float64")
    low, high = float(np.nanmin(shown)), float(np.nanmax(shown))
    shown = (shown - low) / ((high - low) or 1.0)
    ax.imshow(shown.transpose(1, 2, 0) if len(shown) == 3 else shown.mean(axis=0), cmap="gray", vmin=0, vmax=1)


def _show_values(ax: Axes, values: NDArray[np.float64]) -> None:
    """Attributions in red and blue around white."""
    if not np.isfinite(values).all():
        ax.set_facecolor("#8C8C8C")
        return
    limit = float(np.percentile(np.abs(values), 99)) or float(np.abs(values).max()) or 1.0
    ax.imshow(values, cmap="RdBu_r", vmin=-limit, vmax=limit)


def _short(ranking: str) -> str:
    """A ranking's name, short enough for two in a legend."""
    return _SHORT.get(ranking, ranking.replace("_", " "))


_SHORT = {
    "weight_magnitude": "magnitude",
    "activation_variance": "variance",
    "integrated_gradients": "integrated",
    "gradient_x_activation": "grad × act",
    "internal_influence": "influence",
    "feature_ablation": "ablation",
}


def _names(frame: pd.DataFrame, column: str) -> list[tuple[str, str]]:
    """What tells the lines of a figure apart: a column and a value, or one line without a name."""
    return [(column, name) for name in dict.fromkeys(frame[column])] if column in frame else [("", "")]


def _lines_by_depth(
    ax: Axes, frame: pd.DataFrame, measure: str, names: Iterable[tuple[str, str]]
) -> list[tuple[str, Line2D]]:
    """A line a name by depth: mean over seeds, and their range shaded; the legend's entries."""
    entries = []
    for i, (column, name) in enumerate(names):
        part = frame[frame[column] == name] if column else frame
        found = part.groupby("depth")[measure].agg(["mean", "min", "max"]).dropna()
        if found.empty:
            continue
        look: dict[str, Any] = {"color": colour(i), "dashes": LINES[i % len(LINES)] or (None, None), "linewidth": 1.4}
        look |= {"marker": MARKERS[i % len(MARKERS)], "markersize": 3.6, "markevery": max(1, len(found) // 12)}
        (line,) = ax.plot(found.index, found["mean"], **look)
        if "seed" in part and part["seed"].nunique() > 1:
            ax.fill_between(found.index, found["min"], found["max"], color=colour(i), alpha=0.15, linewidth=0)
        entries.append((name, line))
    return entries
