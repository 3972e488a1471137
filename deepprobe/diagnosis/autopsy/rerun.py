"""A short instrumented re-run of the first steps of a training."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pandas as pd

from deepprobe.diagnosis.autopsy.observer import SAMPLES, Enough, Observer
from deepprobe.errors import ConfigError
from deepprobe.hooks.select import unwrapped
from deepprobe.training import train

if TYPE_CHECKING:
    from torch import nn

    from deepprobe.hooks.select import LayerSelection
    from deepprobe.training import TrainConfig
    from deepprobe.training.stream import Data


@dataclass(frozen=True, eq=False)
class Observed:
    """What was seen of the first steps of a training.

    Attributes:
        layers: ``Observer.layers``.
        kernels: ``Observer.kernels``.
        steps: ``Observer.steps``.
        status: ``watched`` where training went on after the last step seen, else the run's own: ``complete`` or
            ``diverged``.
        message: Why it ended as diverged; else empty.
        config: How it was trained.
    """

    layers: pd.DataFrame
    kernels: pd.DataFrame
    steps: pd.DataFrame
    status: str
    message: str
    config: TrainConfig


def observe(
    model: nn.Module,
    data: Data,
    config: TrainConfig,
    *,
    steps: int,
    validation_set: Data | None,
    samples: int,
    layers: LayerSelection,
    progress: bool,
) -> Observed:
    """Train a copy of a network as ``train`` would, watched, and stop after some steps; arguments as ``autopsy``."""
    if not isinstance(steps, int) or isinstance(steps, bool) or steps < 1:
        raise ConfigError(f"steps={steps!r}: name how many updates to watch, at least 1")
    if not isinstance(samples, int) or isinstance(samples, bool) or not 2 <= samples <= SAMPLES:
        raise ConfigError(f"samples={samples!r}: samples are told apart, so name a number from 2 to {SAMPLES}")
    try:
        twin = copy.deepcopy(unwrapped(model))
    except Exception as error:  # whatever a user's __deepcopy__ raises
        raise ConfigError(f"autopsy trains a copy of the model, and it cannot be copied: {error}") from error
    observer = Observer(
        steps=steps, samples=samples, replays=_replays(steps), layers=layers, progress=progress
    )  # fmt: skip
    status, message = "watched", ""
    try:
        run = train(
            twin, data, validation_set=validation_set, config=replace(config, on_nonfinite="stop", compile=False),
            callbacks=[observer], quiet=True,
        )  # fmt: skip
        status, message = run.status, run.message
    except Enough:
        pass
    except KeyboardInterrupt as stop:  # whose words speak of a training's folder
        raise KeyboardInterrupt(
            f"autopsy stopped {observer.reached}; the network is untouched, for it is a copy that is trained"
        ) from stop
    return Observed(observer.layers, observer.kernels, observer.steps, status, message, config)


def _replays(steps: int) -> frozenset[int]:
    """Steps at which float32 is compared with float64: 0, 1, 2, 5, 10, 20, 50 … and the last."""
    marks = {0, steps, *(m * 10**e for e in range(6) for m in (1, 2, 5))}
    return frozenset(step for step in marks if step <= steps)
