"""What the numbers of a run amount to: why layers are singular, since when, and what their training came to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from deepprobe.records.onset import onset
from deepprobe.records.spectrum import UNRESOLVED_SHARE

if TYPE_CHECKING:
    from deepprobe.reports.source import Network

LEARNS_MARGIN = 0.05
"""A network learns where its accuracy exceeds chance by more than this."""

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


def trainings(network: Network) -> list[dict[str, Any]]:
    """``training_facts`` of every run of a network.

    Args:
        network: One network.

    Returns:
        Facts in the order of its runs.
    """
    facts = []
    for run in network.runs:
        model = run.config.get("model")
        classes = model.get("num_classes") if isinstance(model, Mapping) else run.config.get("num_classes")
        rows = network.metrics[network.metrics["run"] == run.name]
        facts.append(training_facts(rows, n_classes=classes if isinstance(classes, int) else None))
    return facts


def training_facts(metrics: pd.DataFrame, *, n_classes: int | None = None) -> dict[str, Any]:
    """Last accuracy of one run and what it is to be compared with.

    Args:
        metrics: Tidy metrics of one run.
        n_classes: Number of classes, where it is known.

    Returns:
        ``split`` (test, else validation, else train; None without metrics), ``accuracy``; ``chance``: the most frequent
        label's share (measure ``majority_share``), else one over the number of classes, else NaN;
        ``is_guessing``: whether it is one over the number of classes; ``n_predicted_classes`` and
        ``top_prediction_share`` (of the answers, those that name the class named most), NaN where not recorded;
        ``learns``: whether accuracy exceeds chance by LEARNS_MARGIN, None where that cannot be judged; ``n_classes``.
    """
    facts: dict[str, Any] = {"split": None, "learns": None, "accuracy": np.nan, "n_classes": n_classes}
    accuracy = metrics[metrics["measure"] == "accuracy"]
    for split in ("test", "validation", "train"):
        if (accuracy["split"] == split).any():
            facts["split"] = split
            facts["accuracy"] = _last(metrics, "accuracy", split)
            break
    for name in ("top_prediction_share", "n_predicted_classes"):
        facts[name] = _last(metrics, name, facts["split"])
    facts["chance"] = _last(metrics, "majority_share", facts["split"])
    facts["is_guessing"] = bool(np.isnan(facts["chance"]) and n_classes)
    if facts["is_guessing"] and n_classes:
        facts["chance"] = 1.0 / n_classes
    if not (np.isnan(facts["accuracy"]) or np.isnan(facts["chance"])):
        facts["learns"] = bool(facts["accuracy"] > facts["chance"] + LEARNS_MARGIN)
    return facts


def _last(metrics: pd.DataFrame, measure: str, split: str | None) -> float:
    """Last recorded value of a measure on a split; NaN where there is none."""
    rows = metrics[(metrics["measure"] == measure) & (metrics["split"] == split)]
    return float(rows.sort_values("step", kind="stable")["value"].iloc[-1]) if len(rows) else float("nan")
