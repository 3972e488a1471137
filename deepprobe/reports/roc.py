"""ROC curves: what share of the failures one must accept to find so many of the networks that train."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deepprobe.errors import ShapeError
from deepprobe.reports.style import GREY, LINES, axes, colour, finish, legend, note

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

COLUMNS = ("predictor", "score", "outcome")


def roc_curves(frame: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """True against false positive rate of each predictor, with the area under each curve in the legend.

    Args:
        frame: One row a predictor and case: ``predictor``, its ``score`` (higher: more probable), the boolean
            ``outcome``. Cases without a score are left out.
        ax: Axes to draw on; a new figure's by default.

    Returns:
        The axes.

    Raises:
        ShapeError: If a column is missing, or a predictor's outcomes are all the same.
    """
    from sklearn.metrics import roc_auc_score, roc_curve  # takes a second: loaded for the first figure

    missing = [name for name in COLUMNS if name not in frame]
    if missing:
        raise ShapeError(f"the table has no column {', '.join(missing)}; a ROC curve needs {', '.join(COLUMNS)}")
    ax = axes(ax, size=(6.8, 4.4))
    entries = []
    for i, (name, part) in enumerate(frame.dropna(subset="score").groupby("predictor", sort=False)):
        if part["outcome"].nunique() < 2:
            raise ShapeError(f"all outcomes of {name!r} are {bool(part['outcome'].iloc[0])}; a ROC curve needs both")
        outcome, score = part["outcome"].astype(bool), part["score"].astype("float64")
        false, true, _ = roc_curve(outcome, score)
        dashes = LINES[i % len(LINES)]
        style = (0, dashes) if dashes else "-"
        line = ax.plot(false, true, color=colour(i), linestyle=style, linewidth=2.4 if i == 0 else 1.5)[0]
        entries.append((f"{name}, {roc_auc_score(outcome, score):.2f}", line))
    if not entries:
        return note(finish(ax, x="share of failures taken", y="share of trainings found"), "no scores")
    ax.plot([0, 1], [0, 1], color=GREY, linewidth=0.8)
    ax.set_xlim(-0.01, 1.01)
    ax.set_ylim(-0.01, 1.01)
    ax.set_aspect("equal")
    legend(ax, entries, loc="upper left", bbox_to_anchor=(1.02, 1.0), ncols=1, title="area under the curve")
    return finish(ax, x="share of failing networks taken for trainable", y="share of trainable networks found")
