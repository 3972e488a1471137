"""What came of one training: accuracy at its end, when it was best by validation, and at what cost."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

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
    rows = records[records["layer"].isna()]
    metrics = _by_step(rows)
    losses, validation, test, barrier, train_barrier, seconds, train_losses = (
        metrics.get(key, {})
        for key in (
            ("validation", "loss"), ("validation", "accuracy"), ("test", "accuracy"), ("test", "error_barrier"),
            ("train", "error_barrier"), ("train", "seconds"), ("train", "loss"),
        )
    )  # fmt: skip
    stop = _lowest(losses)
    return {
        "epochs": float(rows["epoch"].max()) if len(rows) else float("nan"),
        "iterations": float(rows["step"].max()) if len(rows) else float("nan"),
        "seconds": sum(seconds.values()) if seconds else float("nan"),
        "train_loss": _last(train_losses),
        "validation_accuracy": _last(validation),
        "test_accuracy": _last(test),
        "early_stop_iteration": stop,
        "early_stop_validation_accuracy": validation.get(stop, float("nan")),
        "early_stop_test_accuracy": test.get(stop, float("nan")),
        "barrier": _last(barrier),
        "train_barrier": _last(train_barrier),
    }


def _by_step(rows: pd.DataFrame) -> dict[tuple[str, str], dict[float, float]]:
    """Split and measure to step to value, the last one recorded of a step."""
    found: dict[tuple[str, str], dict[float, float]] = {}
    for split, measure, step, value in zip(
        *(rows[c].tolist() for c in ("split", "measure", "step", "value")), strict=True
    ):
        found.setdefault((split, measure), {})[float(step)] = float(value)
    return found


def _last(values: dict[float, float]) -> float:
    """The value at the last step, NaN of none."""
    return values[max(values)] if values else float("nan")


def _lowest(values: dict[float, float]) -> float:
    """The first step of the lowest value, NaN of none."""
    known = [(value, step) for step, value in values.items() if not math.isnan(value)]
    return min(known)[1] if known else float("nan")
