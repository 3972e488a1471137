"""Weights & Biases: a run's numbers in files of its own, to be sent later or never; or sent at once."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from deepprobe.extras import module_of_extra
from deepprobe.integrations.trackers.scalars import LAYER_MEASURES, identity, scalars

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    import pandas as pd

PROJECT = "deepprobe"


class WandbTracker:
    """Tracker that writes ``folder/wandb/offline-run-*``; ``wandb sync`` sends such a folder to an account.

    The run's id is made of its name and configuration, so that a resumed run goes on under it. W&B takes no number for
    a step before its last: after a kill, the steps between checkpoint and kill stay as they were first sent. NaN and
    infinity are kept. A run that the user has open is left alone. W&B writes in a process of its own, which has written
    everything shortly after the run has ended, and at the latest when Python ends.

    Args:
        folder: Made where it is missing.
        project: Name of the project.
        mode: "offline", or "online" with an account that ``wandb login`` knows.
        layer_measures: What is sent of each layer.

    Raises:
        MissingPackageError: If wandb is not installed.
    """

    def __init__(
        self,
        folder: Path | str,
        *,
        project: str = PROJECT,
        mode: Literal["offline", "online"] = "offline",
        layer_measures: Collection[str] = LAYER_MEASURES,
    ) -> None:
        self._wandb = module_of_extra("wandb", extra="trackers")
        self.folder, self.project, self.mode, self.layer_measures = Path(folder), project, mode, layer_measures

    def start(self, name: str, config: Mapping[str, Any]) -> None:
        """As in Tracker."""
        self.folder.mkdir(parents=True, exist_ok=True)
        own = identity(name, config)
        self._run = self._wandb.init(
            project=self.project, id=own, name=name, config=dict(config), dir=str(self.folder), mode=self.mode,
            resume="allow" if self.mode == "online" else None, reinit="create_new",
            settings=self._wandb.Settings(silent=True, console="off", x_disable_stats=True),
        )  # fmt: skip

    def log(self, frame: pd.DataFrame) -> None:
        """As in Tracker."""
        for step, values in scalars(frame, layer_measures=self.layer_measures).items():
            self._run.log(values, step=step)

    def finish(self, status: str) -> None:
        """As in Tracker."""
        self._run.summary["status"] = status
        self._run.finish(exit_code=0 if status == "complete" else 1)
