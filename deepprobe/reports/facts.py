"""What the numbers of a run amount to: why layers are singular, since when, and what their training came to."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from deepprobe.records.onset import onset
from deepprobe.records.spectrum import UNRESOLVED_SHARE

LEARNS_MARGIN = 0.05
"""A network learns where its accuracy exceeds the majority class's share by more than this."""

KINDS = ("finite", "structural", "collapsed", "unresolved", "nonfinite", "empty")
"""Why a layer's condition number is what it is; see ``kinds``."""


def kinds(frame: pd.DataFrame) -> pd.Series:
    """Kind of every row: one of KINDS.

    ``structural``: singular for no other reason than dead, duplicate or constant units, the rank that shape or
    architecture allows, or n < d; what remains without these is finite. ``collapsed``: singular
    at its precision, all zero, or still singular once the structural causes are set aside.

    Args:
        frame: Normalised wide table (``source.layer_table``).

    Returns:
        Series of str with the frame's index.
    """
    status = frame["status"]
    full = frame[["n_rows", "n_features"]].min(axis=1)
    units = frame["n_features"] - frame["n_dead"].fillna(0) - frame["n_duplicate"].fillna(0)
    allowed = pd.concat([units, frame["n_rows"], frame["rank_bound"]], axis=1).min(axis=1)
    remains = (
        np.isfinite(frame["condition_number_live"])
        | np.isfinite(frame["condition_number_bound"])
        | ((frame["numerical_rank"] >= allowed) & (allowed > 0))
    )
    result = pd.Series("collapsed", index=frame.index, dtype=object)
    bounded = (frame["rank_bound"] < full) & np.isfinite(frame["condition_number_bound"])
    result[(status == "singular-exact") & remains] = "structural"
    result[(status == "singular-at-precision") & bounded] = "structural"
    for name in ("finite", "unresolved", "nonfinite", "empty"):
        result[status == name] = name
    return result


def causes(frame: pd.DataFrame) -> dict[str, int]:
    """Structural causes of singularity with the number of rows that show each, in words.

    Args:
        frame: Normalised wide table.

    Returns:
        Cause to count, causes that do not occur left out.
    """
    full = frame[["n_rows", "n_features"]].min(axis=1)
    found = {
        "dead units": frame["n_dead"] > 0,
        "duplicate units": frame["n_duplicate"] > 0,
        "a rank that the architecture bounds": frame["rank_bound"] < full,
        "fewer rows than units": frame["n_rows"] < frame["n_features"],
    }
    counts = {cause: int(rows.sum()) for cause, rows in found.items() if rows.any()}
    unexplained = ~np.logical_or.reduce([rows.to_numpy() for rows in found.values()])
    if unexplained.any():
        reasons = frame.loc[unexplained, "reason"].replace("", "a proven deficiency of rank")
        counts |= {str(reason): int(count) for reason, count in reasons.value_counts().items()}
    return counts


def horizon(frame: pd.DataFrame) -> int | None:
    """First depth at which the arithmetic's measured error exceeds 1 % of sigma_1: the precision horizon.

    Args:
        frame: Normalised wide table of one run, step, tap and view.

    Returns:
        Depth, or None where no replay was made or none exceeds it.
    """
    beyond = frame[frame["floor"] > UNRESOLVED_SHARE * frame["sigma_max"]]
    return int(beyond["depth"].min()) if len(beyond) else None


def layer_facts(frame: pd.DataFrame) -> dict[str, Any]:
    """Facts of one run, step, tap and view.

    Args:
        frame: Normalised wide table.

    Returns:
        Counts of KINDS, ``n_layers``, ``onset`` and ``onset_live`` (None where there is none), ``horizon``,
        ``n_replayed``, the median, least and greatest condition number of finite layers, its median ratio to the
        Gaussian null, the same over live units, and median ranks of collapsed layers.
    """
    kind = kinds(frame)
    facts: dict[str, Any] = {"n_layers": int((kind != "empty").sum())}
    facts |= {name: int((kind == name).sum()) for name in KINDS}
    facts["onset"] = onset(frame)
    facts["onset_live"] = onset(frame, finite=kind.isin(["finite", "structural"]))
    facts["horizon"] = horizon(frame)
    facts["n_replayed"] = int(frame["floor"].notna().sum())
    finite, lost = frame[kind == "finite"], frame[kind == "collapsed"]
    kappa = finite["condition_number"]
    live = frame["condition_number_live"].where(np.isfinite(frame["condition_number_live"]))
    facts |= {
        "kappa_median": kappa.median(),
        "kappa_least": kappa.min(),
        "kappa_greatest": kappa.max(),
        "null_ratio": _finite(kappa / finite["condition_number_null"]).median(),
        "live_least": live.min(),
        "live_greatest": live.max(),
        "live_median": live.median(),
        "lost_numerical_rank": lost["numerical_rank"].median(),
        "lost_effective_rank": lost["effective_rank"].median(),
        "lost_values": lost[["n_rows", "n_features"]].min(axis=1).median(),
    }
    return facts


def training_facts(metrics: pd.DataFrame) -> dict[str, Any]:
    """Last accuracy of one run and what it is to be compared with.

    Args:
        metrics: Tidy metrics of one run.

    Returns:
        ``split`` (test, else validation, else train; None without metrics), ``accuracy``, ``majority_share``,
        ``n_predicted_classes`` (NaN where not recorded), ``learns`` (None where it cannot be judged) and
        ``train_accuracy``, ``last_loss``.
    """
    facts: dict[str, Any] = {"split": None, "learns": None, "accuracy": np.nan}
    accuracy = metrics[metrics["measure"] == "accuracy"]
    for split in ("test", "validation", "train"):
        if (accuracy["split"] == split).any():
            facts["split"] = split
            facts["accuracy"] = _last(metrics, "accuracy", split)
            break
    for name in ("majority_share", "n_predicted_classes"):
        facts[name] = _last(metrics, name, facts["split"])
    facts["train_accuracy"] = _last(metrics, "accuracy", "train")
    facts["last_loss"] = _last(metrics, "loss", "train")
    known = not (np.isnan(facts["accuracy"]) or np.isnan(facts["majority_share"]))
    if known:
        facts["learns"] = bool(facts["accuracy"] > facts["majority_share"] + LEARNS_MARGIN)
    return facts


def _last(metrics: pd.DataFrame, measure: str, split: str | None) -> float:
    """Last recorded value of a measure on a split; NaN where there is none."""
    rows = metrics[(metrics["measure"] == measure) & (metrics["split"] == split)]
    return float(rows.sort_values("step", kind="stable")["value"].iloc[-1]) if len(rows) else float("nan")


def _finite(values: pd.Series) -> pd.Series:
    """Values that are finite."""
    return values.where(np.isfinite(values)).dropna()
