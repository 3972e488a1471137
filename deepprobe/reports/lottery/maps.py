"""Heat maps of an experiment over its rounds: densities by layer, condition numbers by depth."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib as mpl
import matplotlib.ticker as ticker
import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.patches import Patch

from deepprobe.reports.heatmaps import INFINITE, UNPROBED, condition_heatmap, draw_image
from deepprobe.reports.lottery.frames import experiment_frame
from deepprobe.reports.style import axes, finish, legend, note
from deepprobe.reports.words import for_figure, number

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

MOST_LAYERS = 24
"""Layers named at the side of a heat map; of more, every second, third … is."""
MOST_ROUNDS = 9


def density_by_layer(frame: pd.DataFrame, ax: Axes | None = None, *, branch: str = "ticket") -> Axes:
    """Density of each layer (downward, in the order of the network) at each round (across), mean over seeds.

    The colours are logarithmic. A layer that keeps nothing in some seed has a colour of its own.

    Args:
        frame: ``Experiment.densities()``.
        ax: Axes to draw on; a new figure's by default.
        branch: Which branch to show.

    Returns:
        The axes.

    Raises:
        ShapeError: If a column is missing.
    """
    table = experiment_frame(frame, "layer", "n_kept")
    table = table[table["branch"] == branch]
    ax = finish(axes(ax, size=(5.8, 3.3)), x="round", y="")
    if table.empty:
        return note(ax, f"no masks of the branch {for_figure(branch)}")
    layers = list(dict.fromkeys(table["layer"]))
    grid = table.groupby(["layer", "round"])["density"].mean().unstack("round").reindex(layers)
    kept = table.groupby(["layer", "round"])["n_kept"].min().unstack("round").reindex(layers)
    empty = (kept == 0).to_numpy(dtype=bool)
    values = grid.to_numpy(dtype="float64")
    shown = values[(values > 0) & ~empty]
    low = min(float(shown.min()) if len(shown) else 0.5, 0.5)
    values = np.where(empty, low / 10, values)
    colours = mpl.colormaps["cividis"].with_extremes(under=INFINITE, bad=UNPROBED)
    bar = {"label": "weights left", "format": ticker.FuncFormatter(lambda share, _: f"{100 * share:.3g} %")}
    bar["ticks"] = ticker.LogLocator(subs=(1.0, 2.0, 5.0) if low > 1e-2 else (1.0,))
    draw_image(ax, values, cmap=colours, norm=LogNorm(low, 1.0), cbar_kws=bar)
    ax.collections[0].colorbar.ax.minorticks_off()  # type: ignore[union-attr]
    finish(ax, x="round", y="").grid(visible=False)
    across = np.arange(0, len(grid.columns), -(-len(grid.columns) // MOST_ROUNDS))
    ax.set_xticks(across + 0.5, [number(float(r)) for r in grid.columns[across]])
    down = np.arange(0, len(layers), -(-len(layers) // MOST_LAYERS))
    ax.set_yticks(down + 0.5, [for_figure(layers[i], limit=20) for i in down], rotation=0)
    legend(ax, [("keeps nothing in some seed", Patch(facecolor=INFINITE))] if empty.any() else [])
    return ax


def condition_by_round(
    frame: pd.DataFrame,
    ax: Axes | None = None,
    *,
    branch: str = "ticket",
    measure: str = "condition_number_live",
    limits: tuple[float, float] | None = None,
) -> Axes:
    """Condition number by depth (across) and round (upward), the median over seeds.

    Args:
        frame: Rows of ``Experiment.layers()`` of one tap and view; the last probe of each run counts.
        ax: Axes to draw on; a new figure's by default.
        branch: Which branch to show.
        measure: Column to draw.
        limits: Least and greatest condition number of the colours, to compare branches; of the data by default.

    Returns:
        The axes.

    Raises:
        ConfigError: If the frame holds several taps or views.
        ShapeError: If a column is missing.
    """
    table = experiment_frame(frame, "step", "tap", "view", "depth", measure)
    table = table[table["branch"] == branch]
    table = table[table["step"] == table.groupby("run")["step"].transform("max")]
    middle = table.groupby(["tap", "view", "round", "depth"], sort=False)[measure].median().reset_index()
    middle = middle.assign(step=middle["round"], layer=middle["depth"].astype(str), status="finite", run="")
    ax = axes(ax, size=(5.8, 3.3))
    middle = middle if measure == "condition_number" else middle.assign(condition_number=middle[measure])
    condition_heatmap(middle, ax, measure=measure, limits=limits)
    ax.set_ylabel("round")
    return ax
