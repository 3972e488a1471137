"""Lines by network: every run thin, the median over a network's runs bold, none bridging what is not finite."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from deepprobe.reports.style import LINES, MARKERS, colour

LEGEND_LINE = {"markersize": 4.5, "markeredgewidth": 0, "linewidth": 1.8}


def draw_lines(
    ax: Axes,
    table: pd.DataFrame,
    *,
    x: str,
    y: str,
    by: Sequence[str],
    splits: Mapping[str, Any] | None = None,
) -> list[tuple[str, Line2D]]:
    """Draw a line a run and the median over runs, in the colour, dashes and marker of the network.

    Args:
        ax: Axes to draw on.
        table: Frame with the columns network, run, x, y and those of by; text columns without missing values.
        x: Column across.
        y: Column upward; what is NaN or infinite leaves a gap.
        by: Columns that, with network and x, name what is measured in every run.
        splits: Dashes of every value of the column ``split``, which then tell splits instead of networks.

    Returns:
        A legend entry for every network.
    """
    import seaborn as sns  # takes a second: loaded for the first figure, not with the package

    names = list(dict.fromkeys(table["network"]))
    table = table.assign(split=table["split"] if splits else "")
    keys = {(name, split): f"{i} {split}" for i, name in enumerate(names) for split in table["split"].unique()}
    place = {key: names.index(name) for (name, _), key in keys.items()}
    dashes = {key: splits[split] if splits else LINES[place[key] % len(LINES)] for (_, split), key in keys.items()}
    shared: dict[str, Any] = {
        "x": x, "y": y, "hue": "network", "palette": {name: colour(i) for i, name in enumerate(names)}, "style": "look",
        "dashes": dashes, "units": "stretch", "estimator": None, "sort": False, "legend": False, "ax": ax,
    }  # fmt: skip
    middle = typical(table, x=x, y=y, by=by if splits is None else [*by, "split"])
    for rows, bold in ((middle, True), (table, False)):
        if not bold and (table.groupby("network")["run"].nunique() < 2).all():
            break
        look = [keys[pair] for pair in zip(rows["network"], rows["split"], strict=True)]
        rows = _stretches(rows.assign(look=look), x=x, y=y)
        markers = {key: MARKERS[i % len(MARKERS)] if bold else "." for key, i in place.items()}
        every = max(1, table[x].nunique() // 12) if bold else len(rows)  # the first of a stretch has its marker always
        size = {"lw": 1.8, "ms": 4.5, "zorder": 2.2} if bold else {"lw": 0.8, "ms": 3, "alpha": 0.7, "zorder": 2}
        sns.lineplot(rows, markers=markers, markevery=every, markeredgewidth=0, **size, **shared)
    return [(name, legend_line(i, solid=splits is not None)) for i, name in enumerate(names)]


def typical(table: pd.DataFrame, *, x: str, y: str, by: Sequence[str]) -> pd.DataFrame:
    """Median over a network's runs, a row a network, x and by; NaN unless more than half of its runs are finite there.

    A run without a finite value counts as infinite, so that the median is not one of the runs that survived.
    """
    parts = []
    for name, part in table.groupby("network", sort=False):
        value = part.groupby([*by, x, "run"], dropna=False)[y].median().unstack("run").astype("float64")
        middle = value.where(np.isfinite(value), np.inf).median(axis=1).rename(y).reset_index()
        parts.append(middle.assign(network=name, run="", split=middle.get("split", "")))
    result = pd.concat(parts, ignore_index=True)
    return result.assign(**{y: result[y].where(np.isfinite(result[y]))})


def _stretches(rows: pd.DataFrame, *, x: str, y: str) -> pd.DataFrame:
    """Rows in order, numbered by unbroken stretches, as seaborn would draw through a gap."""
    line = rows.groupby(["look", "run"], sort=False).ngroup()
    rows = rows.assign(line=line, **{y: rows[y].where(np.isfinite(rows[y]))}).sort_values(["line", x], kind="stable")
    return rows.assign(stretch=(rows[y].isna() | rows["line"].ne(rows["line"].shift())).cumsum())


def legend_line(index: int, *, solid: bool = False) -> Line2D:
    """Legend handle of the network of that index."""
    line = Line2D([], [], color=colour(index), marker=MARKERS[index % len(MARKERS)], **LEGEND_LINE)  # type: ignore[arg-type]
    if not solid and LINES[index % len(LINES)]:
        line.set_dashes(LINES[index % len(LINES)])
    return line
