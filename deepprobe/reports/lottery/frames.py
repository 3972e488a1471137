"""Frames of a lottery-ticket experiment as figures and sentences need them: a place for each round, means of seeds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from deepprobe.errors import ShapeError
from deepprobe.reports.words import clean

if TYPE_CHECKING:
    from collections.abc import Iterable

BRANCHES = {
    "ticket": "ticket",
    "reinit": "random re-initialisation",
    "random-mask": "random mask",
    "shuffled-mask": "shuffled mask",
    "dense": "dense, trained as long",
    "sibling": "ticket, other data order",
}
"""Branches in the order in which they are shown, in words."""

WHICH = ("run", "seed", "round", "branch", "density")


def experiment_frame(frame: pd.DataFrame, *columns: str) -> pd.DataFrame:
    """A frame of an experiment, its names printable, with ``at``: the density of the tickets of the same round.

    Every branch of a round stands at that density, also one that keeps all weights.

    Args:
        frame: As ``Experiment.table``, ``layers`` or ``densities``; with ``status`` only complete runs are kept.
        *columns: Further columns that must be there.

    Raises:
        ShapeError: If a column is missing.
    """
    missing = [c for c in (*WHICH, *columns) if c not in frame]
    if missing:
        raise ShapeError(
            f"frame lacks the column{'s' * (len(missing) > 1)} {', '.join(missing)}; an Experiment's table(), layers() "
            "and densities() have them"
        )
    complete = "status" not in frame or "tap" in frame  # there the status is that of a layer
    frame = frame if complete else frame[frame["status"] == "complete"]
    tickets = frame[frame["branch"] == "ticket"]
    per_run = (tickets if len(tickets) else frame).drop_duplicates("run")
    place = per_run.groupby("round")["density"].mean()
    own = frame.groupby("round")["density"].mean()
    branch = frame["branch"].map(clean).astype(object)
    return frame.assign(at=frame["round"].map(place.combine_first(own)).astype("float64"), branch=branch)


def branches(names: Iterable[str]) -> list[str]:
    """Names of branches, each once, in the order of BRANCHES, then of others as they come."""
    found = list(dict.fromkeys(names))
    known = list(BRANCHES)
    return sorted(found, key=lambda b: known.index(b) if b in known else len(known))


def over_seeds(frame: pd.DataFrame, measure: str, *, geometric: bool = False) -> pd.DataFrame:
    """Mean and extremes over the runs at each branch and round.

    Args:
        frame: As ``experiment_frame`` makes it.
        measure: Column; what is NaN does not count.
        geometric: Mean of the logarithms, for measures that span decades; an infinite value makes it infinite.

    Returns:
        Frame with the columns branch, round, at, mean, low, high, n; ascending by round.
    """
    known = frame[frame[measure].notna()]
    rows: list[dict[str, Any]] = []
    for (branch, number), part in known.groupby(["branch", "round"], sort=True):
        values = part[measure].to_numpy(dtype="float64")
        mean = float(np.exp(np.mean(np.log(values)))) if geometric else float(np.mean(values))
        point = {"branch": branch, "round": number, "at": float(part["at"].iloc[0])}
        rows.append(point | {"mean": mean, "low": values.min(), "high": values.max(), "n": len(values)})
    return pd.DataFrame(rows, columns=["branch", "round", "at", "mean", "low", "high", "n"])


def overlaps(frame: pd.DataFrame) -> pd.DataFrame:
    """Pairs of seeds of the branches that have masks of their own, with ``at``.

    Args:
        frame: ``Experiment.mask_overlap()``.

    Raises:
        ShapeError: If a column is missing.
    """
    pairs = experiment_frame(frame.assign(run=frame.index.astype(str)), "overlap", "chance")
    return pairs[pairs["branch"].isin(["ticket", "random-mask", "shuffled-mask"])]


def conditioning(layers: pd.DataFrame, measure: str) -> pd.DataFrame:
    """Median over layers of a measure of conditioning, a row a run: its last probe, one tap and view.

    Inputs of the first layer are left out: they are the data, and the same in every network.

    Args:
        layers: Rows of ``Experiment.layers`` of one tap and view.
        measure: Column; NaN does not count, infinity does.

    Returns:
        Frame with the columns WHICH, at and the measure.
    """
    frame = experiment_frame(layers, "step", "tap", "depth", measure)
    data = (frame["tap"] == "input") & (frame["depth"] == frame["depth"].min())
    frame = frame[(frame["step"] == frame.groupby("run")["step"].transform("max")) & ~data]
    medians: pd.DataFrame = frame.groupby([*WHICH, "at"], sort=False)[measure].median().reset_index()
    return medians
