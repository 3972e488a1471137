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


_READ = (
    "n_rows", "n_features", "n_dead", "n_duplicate", "rank_bound", "numerical_rank", "condition_number_live",
    "condition_number_bound",
)  # fmt: skip


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
    column = {c: frame[c].to_numpy(dtype="float64") for c in frame.columns if c in _READ}
    status = frame["status"].to_numpy(dtype=object)
    full = np.fmin(column["n_rows"], column["n_features"])
    units = column["n_features"] - np.nan_to_num(column["n_dead"]) - np.nan_to_num(column["n_duplicate"])
    allowed = np.fmin(np.fmin(units, column["n_rows"]), column["rank_bound"])
    within_bound = np.isfinite(column["condition_number_bound"])
    remains = np.isfinite(column["condition_number_live"]) | within_bound
    remains |= (column["numerical_rank"] >= allowed) & (allowed > 0)
    result = np.full(len(frame), "collapsed", dtype=object)
    result[(status == "singular-exact") & remains] = "structural"
    result[(status == "singular-at-precision") & (column["rank_bound"] < full) & within_bound] = "structural"
    for name in ("finite", "unresolved", "nonfinite", "empty"):
        result[status == name] = name
    return pd.Series(result, index=frame.index, dtype=object)


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
        ``n_replayed``, and with the endings ``_median _least _greatest`` (NaN of none): ``kappa`` of finite layers,
        its ``null_ratio`` to the Gaussian null, ``live`` κ over live units, and of collapsed layers their ranks
        ``lost_numerical_rank lost_effective_rank`` and the number of their singular values ``lost_values``.
    """
    kind = kinds(frame)
    facts: dict[str, Any] = {"n_layers": int((kind != "empty").sum())}
    facts |= {name: int((kind == name).sum()) for name in KINDS}
    facts["onset"] = onset(frame)
    facts["onset_live"] = onset_live(frame, kind)
    facts["horizon"] = horizon(frame)
    facts["n_replayed"] = int(frame["floor"].notna().sum())
    finite, lost = (kind == "finite").to_numpy(), (kind == "collapsed").to_numpy()
    column = {c: frame[c].to_numpy(dtype="float64") for c in _SUMMED}
    values = np.fmin(column["n_rows"], column["n_features"])
    ranges = {
        "kappa": column["condition_number"][finite],
        "null_ratio": (column["condition_number"] / column["condition_number_null"])[finite],
        "live": column["condition_number_live"],
        "lost_numerical_rank": column["numerical_rank"][lost],
        "lost_effective_rank": column["effective_rank"][lost],
        "lost_values": values[lost],
    }
    for name, numbers in ranges.items():
        known = numbers[np.isfinite(numbers)]
        facts[f"{name}_median"] = float(np.median(known)) if len(known) else np.nan
        facts[f"{name}_least"] = float(known.min()) if len(known) else np.nan
        facts[f"{name}_greatest"] = float(known.max()) if len(known) else np.nan
    return facts


_SUMMED = (
    "n_rows", "n_features", "condition_number", "condition_number_null", "condition_number_live", "numerical_rank",
    "effective_rank",
)  # fmt: skip


def onset_live(frame: pd.DataFrame, kind: pd.Series) -> int | None:
    """Onset over live units: from which depth on layers have collapsed or hold NaN or infinity.

    Unresolved layers are left out, as nothing is known of them; structural singularity counts as finite.

    Args:
        frame: Normalised wide table of one run, step, tap and view.
        kind: ``kinds`` of the frame.

    Returns:
        Depth, or None where there is none.
    """
    known = kind != "unresolved"
    return onset(frame[known], finite=kind[known].isin(["finite", "structural"]))


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
