"""What came of one training: accuracy at its end, when it was best by validation, and at what cost."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

OUTCOME = (
    "epochs", "iterations", "seconds", "train_loss", "validation_accuracy", "test_accuracy", "early_stop_iteration",
    "early_stop_validation_accuracy", "early_stop_test_accuracy", "barrier", "train_barrier",
)  # fmt: skip
"""Keys of ``outcome``."""


def outcome(records: pd.DataFrame) -> dict[str, float]:
    """What came of a training, from its records.

    Args:
        records: Columns TIDY; of one run, or the run's rows that are of no layer.

    Returns:
        A number for each of OUTCOME, NaN where the records do not say:

        - ``epochs``: the last one of which there is anything, counted from initialisation.
        - ``iterations``: the last step, counted from initialisation.
        - ``seconds``: of training alone, evaluations and callbacks not counted.
        - ``train_loss``: mean over the last epoch, while the weights moved.
        - ``validation_accuracy``, ``test_accuracy``: of the last evaluation.
        - ``early_stop_iteration``: the step of the lowest validation loss among the recorded evaluations, the first of
          equal ones (Frankle & Carbin 2019, section 1.2); the steps between two evaluations are not seen.
        - ``early_stop_validation_accuracy``, ``early_stop_test_accuracy``: of the evaluation at that step.
        - ``barrier``, ``train_barrier``: ``error_barrier`` on test and training data, of a run that has a sibling.
    """
    metrics = records[records["layer"].isna()]
    stop = _lowest(_series(metrics, "validation", "loss"))
    validation, test = (_series(metrics, split, "accuracy") for split in ("validation", "test"))
    return {
        "epochs": float(metrics["epoch"].max()) if len(metrics) else float("nan"),
        "iterations": float(metrics["step"].max()) if len(metrics) else float("nan"),
        "seconds": float(_series(metrics, "train", "seconds").sum(min_count=1)),
        "train_loss": _last(_series(metrics, "train", "loss")),
        "validation_accuracy": _last(validation),
        "test_accuracy": _last(test),
        "early_stop_iteration": stop,
        "early_stop_validation_accuracy": float(validation.get(stop, np.nan)),
        "early_stop_test_accuracy": float(test.get(stop, np.nan)),
        "barrier": _last(_series(metrics, "test", "error_barrier")),
        "train_barrier": _last(_series(metrics, "train", "error_barrier")),
    }


def _series(metrics: pd.DataFrame, split: str, measure: str) -> pd.Series[float]:
    """A metric by step, ascending, one value a step."""
    rows = metrics[(metrics["split"] == split) & (metrics["measure"] == measure)]
    return rows.drop_duplicates("step", keep="last").set_index("step")["value"].astype("float64").sort_index()


def _last(series: pd.Series[float]) -> float:
    """The value at the last step, NaN of none."""
    return float(series.iloc[-1]) if len(series) else float("nan")


def _lowest(series: pd.Series[float]) -> float:
    """The first step of the lowest value, NaN of none."""
    return float(series.index[int(np.nanargmin(series.to_numpy()))]) if series.notna().any() else float("nan")
