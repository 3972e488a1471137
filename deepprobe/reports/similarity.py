"""Heat map of the similarity between layers, of one network or of two."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib.patches import Patch

from deepprobe.errors import ConfigError, ShapeError
from deepprobe.reports.heatmaps import UNPROBED, draw_image, name_ticks
from deepprobe.reports.style import GREY, axes, finish, legend, note

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

VALUES: dict[str, tuple[str, float, str]] = {
    "cka": ("linear CKA", 1.0, "cividis"),
    "overlap": ("overlap of leading directions", 1.0, "cividis"),
    "angle_mean": ("mean angle of leading directions (rad)", np.pi / 2, "cividis_r"),
    "angle_max": ("largest angle of leading directions (rad)", np.pi / 2, "cividis_r"),
}
"""What can be drawn: its name, its greatest value and its colours, bright for alike."""


def similarity_heatmap(
    frame: pd.DataFrame,
    ax: Axes | None = None,
    *,
    value: str = "cka",
    names: tuple[str, str] | None = None,
) -> Axes:
    """Similarity of every layer of one network (upward) to every layer of another or of itself (across), by depth.

    Layers without variation, as dead ones, and layers that are not finite are white.

    Args:
        frame: What ``similarity`` gives.
        ax: Axes to draw on; a new figure's by default.
        value: ``cka``, ``overlap``, ``angle_mean`` or ``angle_max``.
        names: Of the network upward and of the one across.

    Returns:
        The axes.

    Raises:
        ConfigError: If value is none of these.
        ShapeError: If the frame lacks a column.
    """
    if value not in VALUES:
        raise ConfigError(f"value={value!r} is none of {', '.join(VALUES)}")
    needed = [f"{c}_{side}" for c in ("layer", "call", "depth") for side in "ab"]
    missing = [column for column in (*needed, value) if column not in frame]
    if missing:
        raise ShapeError(f"the frame lacks {', '.join(missing)}; similarity makes one that has them")
    ax = axes(ax, size=(4.8, 4.0))
    x, y = ("depth" if names is None else f"depth, {name}" for name in (names or ("", ""))[::-1])
    if frame.empty:
        return note(finish(ax, x=x, y=y), "no layers were compared")
    first, second = (frame.groupby([f"layer_{s}", f"call_{s}"], sort=False)[f"depth_{s}"].first() for s in "ab")
    grid = frame.set_index(["layer_a", "call_a", "layer_b", "call_b"])[value].unstack(["layer_b", "call_b"])
    values = grid.loc[first.index, second.index].to_numpy(dtype="float64")
    label, greatest, colours = VALUES[value]
    shades = mpl.colormaps[colours].with_extremes(bad=UNPROBED)
    options: dict[str, Any] = {"cmap": shades, "vmin": 0.0, "vmax": greatest, "square": True}
    draw_image(ax, values, cbar_kws={"label": label, "shrink": 0.85}, **options)
    finish(ax, x=x, y=y).grid(visible=False)
    ax.invert_yaxis()
    name_ticks(ax, list(second), list(first))
    if np.isnan(values).any():
        legend(ax, [("no variation, or not finite", Patch(facecolor=UNPROBED, edgecolor=GREY))])
    return ax
