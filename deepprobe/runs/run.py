"""A run: its settings, its records and its spectra, in a folder or in memory; both are read the same way."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from deepprobe.errors import RunError
from deepprobe.records.frame import UNIT, wide
from deepprobe.runs.atomic import make_folder, remove_file, remove_leftovers
from deepprobe.runs.database import append_rows, delete_after, frame_of, last_values, read_rows, rows_of
from deepprobe.runs.difference import difference
from deepprobe.runs.lock import locked
from deepprobe.runs.manifest import STATUSES, Manifest, digest_of_file, read_json
from deepprobe.runs.spectra import FOLDER, file_of_step, read_spectra, step_of_file, write_spectra

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from contextlib import AbstractContextManager
    from pathlib import Path

    from numpy.typing import ArrayLike, NDArray

RECORDS = "records.sqlite"
CONFIG, IDENTITY, PROVENANCE = "config.json", "identity.json", "provenance.json"
FINAL = ("complete", "diverged")
OF_STEPS = "*/step-*"
"""Files of a run that are written once a step, such as spectra and checkpoints: not the run's until they are listed."""
_OF_STEP = re.compile(r"[^/]+/step-(\d{8,12})\.[a-z]+\Z")


class Run(ABC):
    """One configuration executed: what was asked, what it ran on, and what was measured.

    Attributes:
        name: Name of the run.
        config: The resolved configuration, a table of plain values.
        provenance: Versions, device, threads, seeds, time.
    """

    name: str
    config: dict[str, Any]
    provenance: dict[str, Any]

    def __init__(self) -> None:
        self._followers: list[Callable[[pd.DataFrame], None]] = []

    @contextmanager
    def followed_by(self, follower: Callable[[pd.DataFrame], None]) -> Iterator[None]:
        """Context in which a function is called with every frame right after it was appended."""
        self._followers.append(follower)
        try:
            yield
        finally:
            self._followers.remove(follower)

    @property
    @abstractmethod
    def status(self) -> str:
        """One of ``running interrupted diverged complete``; ``running`` also where the process died."""

    @property
    @abstractmethod
    def message(self) -> str:
        """What the status is about, in words; may be empty."""

    @abstractmethod
    def set_status(self, status: str, message: str = "") -> None:
        """Say how far the run has come; RunError for a status that is not known."""

    def writing(self) -> AbstractContextManager[None]:
        """Context in which this is the only writer; RunError on entering if there is another."""
        return nullcontext()

    def append(self, frame: pd.DataFrame) -> None:
        """Append rows of a tidy frame, all or none; RunError if its columns are not TIDY, or the run has ended."""
        self._append(frame)
        for follower in self._followers:
            follower(frame)

    @abstractmethod
    def _append(self, frame: pd.DataFrame) -> None:
        """Keep the rows."""

    @abstractmethod
    def records(self) -> pd.DataFrame:
        """Every row in the order in which it was appended, columns TIDY; RunError if damaged."""

    @abstractmethod
    def save_spectra(self, step: int, spectra: Mapping[str, ArrayLike]) -> None:
        """Store singular values of a step under keys ``tap/view/layer``, in place of those stored before."""

    @abstractmethod
    def spectra(self, step: int) -> dict[str, NDArray[np.float64]]:
        """Singular values stored at a step; RunError if there are none or the file is damaged."""

    @abstractmethod
    def steps_probed(self) -> list[int]:
        """Steps at which spectra were stored, ascending."""

    def layers(self) -> pd.DataFrame:
        """One row a layer call and step: the wide table of everything probed; RunError if the records are damaged."""
        records = self.records()
        return wide(records[records[UNIT].isna()])

    def units(self) -> pd.DataFrame:
        """One row a unit of a layer call and step: what was measured of units; RunError if the records are damaged."""
        records = self.records()
        return wide(records[records[UNIT].notna()])

    def metrics(self) -> pd.DataFrame:
        """The rows that are of no layer: loss, accuracy and the like; RunError if the records are damaged."""
        records = self.records()
        return records[records["layer"].isna()].reset_index(drop=True)

    def spectra_frame(self, step: int | None = None) -> pd.DataFrame:
        """Singular values of a step (default: the last), one row a value.

        Args:
            step: A step of ``steps_probed``.

        Returns:
            Frame with the columns step, key, position (from 1), singular_value.

        Raises:
            RunError: If nothing is stored at that step, or the file is damaged.
        """
        steps = self.steps_probed()
        if step is None and not steps:
            return pd.DataFrame(columns=["step", "key", "position", "singular_value"])
        step = steps[-1] if step is None else step
        parts = [
            pd.DataFrame({"step": step, "key": key, "position": np.arange(1, len(v) + 1), "singular_value": v})
            for key, v in self.spectra(step).items()
        ]
        return pd.concat(parts, ignore_index=True)


class MemoryRun(Run):
    """A run that is kept nowhere: what ``train`` returns where no folder was named."""

    def __init__(self, name: str, *, config: Mapping[str, Any], provenance: Mapping[str, Any]) -> None:
        super().__init__()
        self.name, self.config, self.provenance = name, deepcopy(dict(config)), deepcopy(dict(provenance))
        self._status, self._message = "running", ""
        self._rows: list[tuple[Any, ...]] = []
        self._spectra: dict[int, dict[str, NDArray[np.float64]]] = {}

    @property
    def status(self) -> str:
        """As in Run."""
        return self._status

    @property
    def message(self) -> str:
        """As in Run."""
        return self._message

    def set_status(self, status: str, message: str = "") -> None:
        """As in Run."""
        self._status, self._message = _known(status), message

    def _append(self, frame: pd.DataFrame) -> None:
        """As in Run."""
        self._rows += rows_of(frame)

    def records(self) -> pd.DataFrame:
        """As in Run."""
        return frame_of(self._rows)

    def save_spectra(self, step: int, spectra: Mapping[str, ArrayLike]) -> None:
        """As in Run."""
        self._spectra[step] = {k: np.array(v, dtype=np.float64) for k, v in spectra.items()}

    def spectra(self, step: int) -> dict[str, NDArray[np.float64]]:
        """As in Run."""
        if step not in self._spectra:
            raise RunError(f"run {self.name!r} has no spectra of step {step}; it has {self.steps_probed()}")
        return {k: v.copy() for k, v in self._spectra[step].items()}

    def steps_probed(self) -> list[int]:
        """As in Run."""
        return sorted(self._spectra)

    def __repr__(self) -> str:
        return f"MemoryRun({self.name!r}, status={self.status!r})"


class FolderRun(Run):
    """A handle on a run's folder; ``create_run`` and ``open_run`` make it.

    Attributes:
        path: The folder.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self._manifest = Manifest.read(path)
        self.config = read_json(self._manifest.check(path, CONFIG))
        self.provenance = read_json(self._manifest.check(path, PROVENANCE))
        self.identity = read_json(self._manifest.check(path, IDENTITY))
        self.name = path.name

    def writing(self) -> AbstractContextManager[None]:
        """As in Run."""
        return locked(self.path)

    @property
    def status(self) -> str:
        """As in Run."""
        return self._manifest.status

    @property
    def message(self) -> str:
        """As in Run."""
        return self._manifest.message

    def set_status(self, status: str, message: str = "") -> None:
        """As in Run; a final status closes the records, so that their digest stands in the manifest."""
        manifest = self._manifest.without_files(RECORDS)
        if _known(status) in FINAL:
            manifest = manifest.with_file(RECORDS, digest_of_file(self.path / RECORDS))
        self._write(Manifest(status, message, manifest.files))

    def _append(self, frame: pd.DataFrame) -> None:
        """As in Run; refused once the run has a final status."""
        if self.status in FINAL:
            raise RunError(f"{self.path} is {self.status}; nothing can be added to it")
        append_rows(self.path / RECORDS, frame)

    def records(self) -> pd.DataFrame:
        """As in Run."""
        return read_rows(self._checked_records())

    def last_values(self, *, split: str, measure: str) -> tuple[float, float]:
        """Epochs in the records and the last value of a metric of no layer, NaN if none; RunError if damaged."""
        return last_values(self._checked_records(), split=split, measure=measure)

    def save_spectra(self, step: int, spectra: Mapping[str, ArrayLike]) -> None:
        """As in Run."""
        name = file_of_step(step)
        self.forget(name)
        make_folder(self.path / FOLDER)
        write_spectra(self.path / name, spectra)
        self.register(name)

    def spectra(self, step: int) -> dict[str, NDArray[np.float64]]:
        """As in Run."""
        name = file_of_step(step)
        if name not in self._manifest.files:
            raise RunError(f"run {self.path} has no spectra of step {step}; it has {self.steps_probed()}")
        return read_spectra(self._manifest.check(self.path, name))

    def steps_probed(self) -> list[int]:
        """As in Run."""
        return sorted(s for s in map(step_of_file, self._manifest.files) if s is not None)

    def files(self, folder: str) -> list[str]:
        """Listed files in a folder of the run, sorted by name."""
        return sorted(name for name in self._manifest.files if name.startswith(f"{folder}/"))

    def has(self, name: str) -> bool:
        """Whether a file of that name is listed, so was completely written."""
        return name in self._manifest.files

    def check(self, name: str) -> Path:
        """Full path of a listed file after its SHA-256 was found right; RunError otherwise."""
        return self._manifest.check(self.path, name)

    def register(self, name: str) -> None:
        """List a file that has just been completely written; RunError if it is not there."""
        self._write(self._manifest.with_file(name, digest_of_file(self.path / name)))

    def forget(self, *names: str) -> None:
        """Take files off the list, then off the disk; names that are not there are no error."""
        listed = [name for name in names if name in self._manifest.files]
        if listed:
            self._write(self._manifest.without_files(*listed))
        for name in names:
            remove_file(self.path / name)

    def rewind(self, step: int) -> None:
        """Go back to what the run was at a step: later records and files go, and so does what was never listed.

        Killed processes leave files aside, and files of steps that were written but not yet listed.

        Args:
            step: Last step to keep; -1 keeps nothing.

        Raises:
            RunError: If the records are damaged or cannot be written.
        """
        remove_leftovers(self.path)
        delete_after(self.path / RECORDS, step)
        written = {path.relative_to(self.path).as_posix() for path in self.path.glob(OF_STEPS)}
        late = {name for name in self._manifest.files if step_of(name) > step}
        self.forget(*sorted(late | (written - set(self._manifest.files))))

    def difference(self, identity: Mapping[str, Any]) -> str:
        """In which settings another identity differs from this run's, in words; empty if in none."""
        return difference(self.identity, identity)

    def __repr__(self) -> str:
        return f"FolderRun({str(self.path)!r}, status={self.status!r})"

    def _checked_records(self) -> Path:
        """The database, after its SHA-256 was found right where the manifest has it: once the run is over."""
        return self._manifest.check(self.path, RECORDS) if RECORDS in self._manifest.files else self.path / RECORDS

    def _write(self, manifest: Manifest) -> None:
        """Write a manifest, then remember it."""
        manifest.write(self.path)
        self._manifest = manifest


def step_of(name: str) -> int:
    """The step that the name of a file of a run says; -1 where it says none."""
    match = _OF_STEP.match(name)
    return int(match[1]) if match else -1


def _known(status: str) -> str:
    """The status, if there is such a one."""
    if status not in STATUSES:
        raise RunError(f"no run has the status {status!r}; there are {', '.join(STATUSES)}")
    return status
