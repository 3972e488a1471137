"""What a callback is given: one frozen Context."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import pandas as pd

from deepprobe.distributed import Ranks
from deepprobe.records.frame import TIDY, tidy
from deepprobe.records.step import Schedule, every

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import AbstractContextManager

    import torch
    from torch import Tensor, nn

    from deepprobe.records.step import Step
    from deepprobe.runs import Run
    from deepprobe.training.config import TrainConfig


@dataclass(frozen=True)
class Context:
    """A moment in training, for callbacks.

    Attributes:
        model: The network as it stands, plain and eager; leave it as you found it.
        step: Where training is.
        run: Where records go.
        device: Where model and batches are.
        seed: Seed of the run.
        probe_batches: The first samples of the validation set (or else the test, or else the training set), pairs
            (inputs, labels) on the device, always the same.
        metrics: Measure by split at the last epoch's end, ``metrics["test"]["accuracy"]``; empty before it.
        ranks: The processes that train together. Each calls the callbacks; the run of rank 0 is the one that is kept.
        config: Settings of ``train``; None in loops of other libraries.
        optimizer: What updates the weights; None in loops of other libraries.
    """

    model: nn.Module
    step: Step
    run: Run
    device: torch.device
    seed: int = 0
    probe_batches: tuple[tuple[Tensor, Tensor], ...] = ()
    metrics: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    ranks: Ranks = field(default_factory=Ranks)
    config: TrainConfig | None = None
    optimizer: torch.optim.Optimizer | None = None

    @property
    def point(self) -> dict[str, Any]:
        """Run, seed, round, step and epoch, as columns of the tidy frame."""
        return {
            "run": self.run.name,
            "seed": self.seed,
            "round": 0,
            "step": self.step.index,
            "epoch": self.step.epochs,
        }

    def record(self, table: pd.DataFrame, *, split: str = "probe") -> None:
        """Append a table of layers to the run.

        Args:
            table: One row a layer call, as ``condition_numbers`` returns it, or a frame with the columns TIDY.
            split: What the rows were taken on.

        Raises:
            RunError: If the run cannot be written.
        """
        frame = table if "measure" in table.columns else tidy(table, **self.point, split=split)
        self.run.append(frame.reindex(columns=list(TIDY)))

    def log(self, split: str, **values: float) -> None:
        """Append numbers that are of no layer, by name: ``context.log("train", gradient_norm=0.3)``."""
        self.run.append(metric_rows({split: values}, self.point))


Callback: TypeAlias = "Callable[[Context], Any] | AroundTraining | AroundUpdate | OnGradients"
"""What ``train`` calls: a function of one Context, due by its attribute ``schedule`` or else after every epoch.

An object may have the methods ``around_training``, ``around_update`` and ``on_gradients`` beside that or instead.
"""


class AroundTraining(Protocol):
    """A callback that wants to be there from before the first step to after the last, whatever ends training."""

    def around_training(self, context: Context) -> AbstractContextManager[Any]:
        """Entered before the model is compiled or wrapped for several processes: the time to set hooks."""


class AroundUpdate(Protocol):
    """A callback that watches single updates."""

    schedule: Schedule

    def around_update(self, context: Context) -> AbstractContextManager[Any]:
        """Entered before, left after the update that leads to ``context.step``, where the schedule has that step.

        On leaving, the parameters' ``grad`` is what the optimizer used: summed over micro-batches and ranks, clipped.
        """


class OnGradients(Protocol):
    """A callback that changes gradients in place, at every update."""

    def on_gradients(self) -> None:
        """Called when gradients are summed over micro-batches and ranks, before they are clipped and used."""


def schedule_of(callback: Any) -> Schedule:
    """When a callback is due: by its attribute ``schedule``, else after every epoch."""
    schedule: Schedule = getattr(callback, "schedule", None) or every("1ep").schedule
    return schedule


def metric_rows(values: Mapping[str, Mapping[str, float]], point: Mapping[str, Any]) -> pd.DataFrame:
    """Tidy rows of numbers that are of no layer, from split to measure to value."""
    rows = [
        {**point, "split": split, "measure": measure, "value": float(value)}
        for split, measures in values.items()
        for measure, value in measures.items()
    ]
    return pd.DataFrame(rows, columns=list(TIDY))
