"""What the trainings of a seed have left on the disk, for those that begin from it; only rank 0 reads files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from deepprobe.errors import RunError
from deepprobe.runs import FolderRun, open_run
from deepprobe.runs.experiment import TICKET
from deepprobe.runs.manifest import MANIFEST
from deepprobe.runs.masks import MASKS, read_masks
from deepprobe.training.checkpoint import Checkpoint, load_checkpoint
from deepprobe.training.checkpoints import FOLDER, file_of_step

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from deepprobe.distributed import Ranks
    from deepprobe.records.step import Length

T = TypeVar("T")


def run_name(seed: int, number: int, branch: str) -> str:
    """Folder of the run of a seed, a round and a branch."""
    return f"seed{seed}-round{number:02d}-{branch}"


@dataclass(frozen=True)
class History:
    """The runs of one seed. Every method is collective where several processes train together.

    Attributes:
        out: Folder of the experiment.
        seed: The seed.
        ranks: The processes.
    """

    out: Path
    seed: int
    ranks: Ranks

    def status(self, number: int, branch: str) -> str:
        """How far a run has come; empty if there is none."""
        return self._from_main(lambda: self._status(self._path(number, branch)))

    def message(self, number: int, branch: str) -> str:
        """What its status is about."""
        return self._from_main(lambda: open_run(self._path(number, branch)).message)

    def masks(self, number: int, branch: str) -> dict[str, NDArray[np.bool_]] | None:
        """The masks of a run; None if it has none yet. RunError if they are damaged."""

        def read() -> dict[str, Any] | None:
            path = self._path(number, branch)
            run = open_run(path) if self._status(path) else None
            return None if run is None or not run.has(MASKS) else read_masks(run.check(MASKS))

        return self._from_main(read)

    def ticket_masks(self, number: int) -> dict[str, NDArray[np.bool_]]:
        """The masks of a round's ticket; RunError if it was not begun."""
        found = self.masks(number, TICKET)
        if found is None:
            raise RunError(
                f"{self._path(number, TICKET)} has no masks yet: the ticket of a round is made before its controls"
            )
        return found

    def trained(self, number: int, branch: str = TICKET) -> Checkpoint:
        """The end of a run; RunError if it is not complete, or is damaged."""

        def read() -> Checkpoint:
            run = open_run(self._path(number, branch))
            if run.status != "complete":
                raise RunError(f"{run.path} is {run.status}: it must be complete before others begin from it")
            return last_checkpoint(run)

        return self._from_main(read)

    def early(self, point: Length) -> Checkpoint:
        """The dense training at a point whose checkpoint was kept; RunError if it is not there, or is damaged."""
        return self._from_main(lambda: checkpoint_at(open_run(self._path(0, TICKET)), point))

    def _path(self, number: int, branch: str) -> Path:
        """Folder of a run."""
        return self.out / run_name(self.seed, number, branch)

    def _status(self, path: Path) -> str:
        """Status of the run in a folder; empty if there is none."""
        return open_run(path).status if (path / MANIFEST).is_file() else ""

    def _from_main(self, read: Callable[[], T]) -> T:
        """What rank 0 reads, on every rank."""
        found: T = self.ranks.broadcast(read() if self.ranks.is_main else None)
        return found


def last_checkpoint(run: FolderRun) -> Checkpoint:
    """The last checkpoint of a run; RunError if it has none, or it is damaged."""
    names = run.files(FOLDER)
    if not names:
        raise RunError(f"{run.path} has no checkpoint; delete its folder, and it is made anew")
    return load_checkpoint(run.check(names[-1]))


def checkpoint_at(run: FolderRun, point: Length) -> Checkpoint:
    """The checkpoint of a point in a run's training; RunError if it was not kept, or is damaged."""
    length = (last_checkpoint(run).training or {})["iterations_per_epoch"] if point.epochs else 1
    return load_checkpoint(run.check(file_of_step(point.iterations_in(length))))
