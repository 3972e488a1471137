"""The checkpoints of a run: when one is due, which are kept, and which one training goes on from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from deepprobe.errors import CheckpointError, RunError
from deepprobe.runs import FolderRun
from deepprobe.runs.atomic import make_folder
from deepprobe.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from deepprobe.training.checkpoint_timer import CheckpointTimer

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from torch import nn

    from deepprobe.records.step import Step
    from deepprobe.runs import Run
    from deepprobe.training.config import TrainConfig

FOLDER = "checkpoints"


def file_of_step(step: int) -> str:
    """Path of the checkpoint of a step, relative to the run."""
    return f"{FOLDER}/step-{step:012d}.pt"


class Checkpoints:
    """The last checkpoints of a run that is kept in a folder; nothing for one in memory.

    Args:
        run: The run.
        config: Its settings: how often, and how many are kept.
        about: Plain values to keep in each.
        keep: Steps whose checkpoints stay.
    """

    def __init__(
        self, run: Run, config: TrainConfig, *, about: Mapping[str, Any], keep: Collection[int] = frozenset()
    ) -> None:
        self._run = run if isinstance(run, FolderRun) else None
        self._stay = {file_of_step(step) for step in keep}
        self._about, self._kept = dict(about), config.checkpoints_kept
        self.timer = CheckpointTimer.parse(config.checkpoint_every)

    @property
    def newest_name(self) -> str | None:
        """Path of the last one, relative to the run."""
        names = self._run.files(FOLDER) if self._run is not None else []
        return names[-1] if names else None

    def newest(self) -> tuple[Checkpoint, str] | None:
        """The last checkpoint and where it is, once its SHA-256 was found right; None if there is none.

        Raises:
            CheckpointError: If it is damaged; the message offers the one before.
        """
        if self._run is None:
            return None
        there = [name for name in self._run.files(FOLDER) if (self._run.path / name).exists()]
        if not there:
            return None
        path = self._run.path / there[-1]
        try:
            return load_checkpoint(self._run.check(there[-1])), str(path)
        except RunError as error:
            before = (
                f"delete it to resume from {there[-2]}" if len(there) > 1 else "there is none before it; start anew"
            )
            raise CheckpointError(f"{error}; {before}") from error

    def rewind_run(self, step: int) -> None:
        """Take what was written after a step out of the run, and checkpoints that somebody deleted off its list."""
        if self._run is not None:
            run = self._run
            run.forget(*(name for name in run.files(FOLDER) if not (run.path / name).exists()))
            run.rewind(step)

    def save(self, step: Step, model: nn.Module, state: Mapping[str, Any]) -> None:
        """Write one, then remove those that are too many.

        Raises:
            RunError: If it cannot be written; those before are untouched.
        """
        if self._run is None:
            return
        name = file_of_step(step.index)
        self._run.forget(name)
        make_folder(self._run.path / FOLDER)
        save_checkpoint(self._run.path / name, model, about=self._about, training=state)
        self._run.register(name)
        self._run.forget(*(old for old in self._run.files(FOLDER)[: -self._kept] if old not in self._stay))
