"""The trainings of ``deepprobe lottery`` as tasks, which any process can do."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from deepprobe.cli.job import data_settings, flush_denormals, load_data
from deepprobe.cli.subject import model_options

if TYPE_CHECKING:
    from collections.abc import Callable

    from deepprobe.cli.lottery import LotteryOptions
    from deepprobe.cli.sweep import Trial
    from deepprobe.cli.training_options import TrainingOptions
    from deepprobe.pruning.lottery.tasks import Task


def tasks_of(trial: Trial, options: LotteryOptions) -> list[Task]:
    """The trainings of an experiment, a task a seed and branch.

    Args:
        trial: The experiment, whose folder is made.
        options: The network's options, the data, and what a process is set to.

    Returns:
        Tasks that hold the names of network and data, not these themselves; errors as ``lottery_tasks``.
    """
    from deepprobe.pruning import lottery_tasks

    place = None if options.data_dir is None else options.data_dir.resolve()
    data = load_data(options)
    tasks = lottery_tasks(
        trial.model,
        partial(tensors_of, replace(options, data_dir=place)),
        trial.config,
        out=trial.path,
        model_options={"num_classes": len(data.train.classes), **model_options(options.model_options)},
        about={"data": data_settings(options, data), "denormals": "flushed"},
        quiet=options.quiet,
    )
    return [replace(task, call=partial(work, task.call, options.threads)) for task in tasks]


def tensors_of(options: TrainingOptions) -> dict[str, Any]:
    """Both splits as pairs of tensors; errors as ``load_dataset``."""
    data = load_data(options)
    return {"train": data.train.tensors(), "test": data.test.tensors()}


def work(call: Callable[[], None], threads: int | None) -> None:
    """Do a task in a process that may be a new one, set as that of ``deepprobe train``."""
    flush_denormals()
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
    call()
