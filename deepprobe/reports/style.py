"""Colours, lines and axes that all figures share. Nothing here changes matplotlib's global settings.

The colours are seaborn's ``colorblind``, darkened to a contrast of 4.6:1 on white; dashes and a marker of its own tell
every network apart without colour.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from deepprobe.errors import ConfigError
from deepprobe.reports.source import facets, last_step, layer_table
from deepprobe.reports.words import for_figure, listed

COLOURS = ("#0173B2", "#C05500", "#028561", "#9F5E93", "#956B48", "#757575")
LINES: tuple[Any, ...] = ("", (5, 1.6), (5, 1.5, 1, 1.5), (1.2, 1.2), (8, 2, 1, 2, 1, 2))
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
GREY = "#595959"
RAIL_MARKERS = {
    "singular-at-precision": "v",
    "singular-exact": "x",
    "zero": "s",
    "unresolved": "D",
    "nonfinite": "*",
    "empty": ".",
}
"""Marker of every status that is not finite."""


def axes(ax: Axes | None, *, size: tuple[float, float] = (5.8, 3.9)) -> Axes:
    """The axes given, or those of a new figure."""
    if ax is not None:
        return ax
    return plt.subplots(figsize=size, layout="constrained")[1]


def one_facet(frame: pd.DataFrame) -> pd.DataFrame:
    """Normalised wide table of one tap and view at the last step of each run.

    Raises:
        ConfigError: If the frame holds more than one tap or view, which no figure mixes.
        ShapeError: If a required column is missing.
    """
    table = layer_table(frame)
    found = facets(table)
    if len(found) > 1:
        names = listed(f"tap={tap!r} with view={view!r}" for tap, view in found)
        raise ConfigError(
            f"a figure shows one tap and one view; this frame holds {names}: pick one, "
            f"for example frame[(frame.tap == {found[0][0]!r}) & (frame.view == {found[0][1]!r})]"
        )
    return table


def last_facet(frame: pd.DataFrame) -> pd.DataFrame:
    """As ``one_facet``, last step of each run only; the run's name stands in where no network is named."""
    table = last_step(one_facet(frame))
    return table.assign(network=table["network"].where(table["network"] != "", table["run"]))


def colour(index: int) -> str:
    """Colour of the network of that index; with LINES and MARKERS 210 looks."""
    return COLOURS[index % len(COLOURS)]


def legend(ax: Axes, entries: Mapping[str, Any] | Sequence[tuple[str, Any]], **options: Any) -> Legend | None:
    """Legend from names and handles, above the axes so that it covers no data; any name is shown as it is."""
    pairs = list(entries.items() if isinstance(entries, Mapping) else entries)
    if not pairs:
        return None
    settings: dict[str, Any] = {
        "loc": "lower left",
        "bbox_to_anchor": (0.0, 1.0),
        "ncols": _columns([len(for_figure(name)) for name, _ in pairs]),
        "fontsize": 8.5,
        "frameon": False,
        "borderaxespad": 0.2,
        "handlelength": 3.6,
        "columnspacing": 1.2,
    }
    made = ax.legend([h for _, h in pairs], [str(i) for i in range(len(pairs))], **(settings | options))
    for text, (name, _) in zip(made.get_texts(), pairs, strict=True):  # matplotlib drops labels that begin with _
        text.set_text(for_figure(name))
    return made


def _columns(lengths: Sequence[int]) -> int:
    """Columns, at most three, in which a legend's names of these lengths leave the axes their width."""
    for columns in (3, 2):
        rows = -(-len(lengths) // columns)
        if sum(max(lengths[i : i + rows]) for i in range(0, len(lengths), rows)) <= 50:
            return -(-len(lengths) // rows)
    return 1


def finish(ax: Axes, *, x: str, y: str) -> Axes:
    """Labels and light grid."""
    import seaborn as sns  # takes a second: loaded for the first figure, not with the package

    ax.set_xlabel(x)
    ax.set_ylabel(y)
    if x == "depth":
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.grid(visible=True, which="major", color="#DDDDDD", linewidth=0.6)
    ax.set_axisbelow(True)
    sns.despine(ax=ax)
    return ax


def note(ax: Axes, text: str) -> Axes:
    """Words in the middle of axes that have nothing to show."""
    ax.text(0.5, 0.5, text, transform=ax.transAxes, ha="center", va="center", color=GREY)
    ax.set_xticks([])
    ax.set_yticks([])
    return ax


def status_handle(status: str) -> Line2D:
    """Legend handle of a status on the rail."""
    return Line2D([], [], color=GREY, marker=RAIL_MARKERS[status], linestyle="none", markersize=5)


def decades(low: float, high: float) -> list[float]:
    """At most about seven powers of ten from low to high."""
    first, last = int(np.floor(np.log10(low))), int(np.ceil(np.log10(high)))
    step = max(1, int(np.ceil((last - first) / 7)))
    return [10.0**e for e in range(first, last + 1, step) if -307 < e < 308]
