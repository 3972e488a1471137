"""TensorBoard: a run's numbers as event files, a folder a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepprobe.extras import module_of_extra
from deepprobe.integrations.trackers.scalars import LAYER_MEASURES, clean, scalars

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    import pandas as pd


class TensorBoardTracker:
    """Tracker that writes ``folder/<run>/events.out.tfevents.*``; look with ``tensorboard --logdir folder``.

    A run that is resumed goes on in its folder; what was written there after the point it went back to is no longer
    shown. TensorBoard keeps float32: a condition number above 3.4e38 becomes infinite, NaN and infinity are kept.

    Args:
        folder: Made where it is missing.
        layer_measures: What is sent of each layer.

    Raises:
        MissingPackageError: If tensorboard is not installed.
    """

    def __init__(self, folder: Path | str, *, layer_measures: Collection[str] = LAYER_MEASURES) -> None:
        self._module = module_of_extra("torch.utils.tensorboard", extra="tensorboard")
        self.folder, self.layer_measures = Path(folder), layer_measures
        self._writer: Any = None

    def start(self, name: str, config: Mapping[str, Any]) -> None:
        """As in Tracker; the file is opened by the first numbers, which say where the run goes on."""
        self._path, self._config, self._writer = self.folder / clean(name), dict(config), None

    def log(self, frame: pd.DataFrame) -> None:
        """As in Tracker."""
        for step, values in scalars(frame, layer_measures=self.layer_measures).items():
            if self._writer is None:
                self._writer = self._opened(step)
            for name, value in values.items():
                self._writer.add_scalar(name, value, step)
        if self._writer is not None:
            self._writer.flush()

    def finish(self, status: str) -> None:
        """As in Tracker."""
        if self._writer is not None:
            self._writer.add_text("status", status)
            self._writer.close()
            self._writer = None

    def _opened(self, step: int) -> Any:
        """A writer that takes back what an earlier one wrote from this step on."""
        again = self._path.is_dir() and any(self._path.glob("events.out.tfevents.*"))
        writer = self._module.SummaryWriter(str(self._path), purge_step=step if again else None)
        if not again:
            writer.add_text("config", f"```json\n{json.dumps(self._config, indent=1, default=str)}\n```")
        return writer
