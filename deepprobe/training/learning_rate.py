"""Learning rate as a function of the step alone, so that nothing of it needs to be stored or restored."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from deepprobe.training.config import TrainConfig

ONE_CYCLE_START, ONE_CYCLE_END, ONE_CYCLE_RISE = 1 / 25, 1 / 25 / 1e4, 0.3


def learning_rate(config: TrainConfig, index: int, *, iterations_per_epoch: int) -> float:
    """Learning rate of the update after ``index`` updates.

    Args:
        config: Its schedule, lr, milestones, step_factor, warmup_epochs and epochs.
        index: Updates made so far, from 0 to ``epochs * iterations_per_epoch - 1``.
        iterations_per_epoch: Updates an epoch.

    Returns:
        The rate, positive but for the end of a one-update cosine.
    """
    total = config.epochs * iterations_per_epoch
    warmup = config.warmup_epochs * iterations_per_epoch
    factor = min(1.0, (index + 1) / warmup) if warmup else 1.0
    return config.lr * factor * _share(config, index, total)


def _share(config: TrainConfig, index: int, total: int) -> float:
    """Share of the highest rate, without warm-up."""
    if config.schedule == "step":
        drops = sum(index >= milestone * total for milestone in config.milestones)
        return float(config.step_factor**drops)
    if config.schedule == "cosine":
        return (1 + math.cos(math.pi * index / total)) / 2
    if config.schedule == "one-cycle":
        return _one_cycle(index, total)
    return 1.0


def _one_cycle(index: int, total: int) -> float:
    """Smith (2018) with cosine legs, as ``torch.optim.lr_scheduler.OneCycleLR`` without its momentum cycle."""
    top, last = ONE_CYCLE_RISE * total - 1, total - 1
    if index <= top:
        return _between(ONE_CYCLE_START, 1.0, index / top if top > 0 else 1.0)
    return _between(1.0, ONE_CYCLE_END, (index - top) / (last - top) if last > top else 0.0)


def _between(start: float, end: float, share: float) -> float:
    """From start (share 0) to end (share 1) along half a cosine."""
    return end + (start - end) / 2 * (1 + math.cos(math.pi * share))
