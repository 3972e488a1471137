"""MLflow: a run's numbers in a SQLite file of one's own, or on a tracking server."""

from __future__ import annotations

import logging
import os
import time
import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepprobe.extras import module_of_extra
from deepprobe.integrations.trackers.scalars import LAYER_MEASURES, clean, identity, scalars, settings

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    import pandas as pd

EXPERIMENT = "deepprobe"
END = {"complete": "FINISHED", "diverged": "FAILED", "interrupted": "KILLED", "running": "FAILED"}
"""What MLflow calls the end of a run, by its status; ``running`` is that of a run that an error ended."""
METRICS_AT_ONCE, PARAMETERS_AT_ONCE = 1000, 100
LONGEST_PARAMETER = 6000


class MLflowTracker:
    """Tracker that writes an MLflow run; look with ``mlflow ui --backend-store-uri sqlite:///folder/mlflow.db``.

    A run of the same name and configuration that had not ended well is gone on with, and numbers that it has already
    are not written twice. NaN is kept; a SQLite file holds the largest float64, 1.8e308, in place of infinity.
    MLflow's reports of how it is used are switched off, unless the environment variable MLFLOW_DISABLE_TELEMETRY says
    otherwise.

    Args:
        place: A folder, made where it is missing, or a tracking URI such as ``https://host:5000``.
        experiment: Name of the experiment that the run belongs to.
        layer_measures: What is sent of each layer.

    Raises:
        MissingPackageError: If mlflow is not installed.
    """

    def __init__(
        self,
        place: Path | str,
        *,
        experiment: str = EXPERIMENT,
        layer_measures: Collection[str] = LAYER_MEASURES,
    ) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        with _quiet():
            self._tracking = module_of_extra("mlflow.tracking", extra="trackers")
            self._entities = module_of_extra("mlflow.entities", extra="trackers")
        self.place, self.experiment, self.layer_measures = place, experiment, layer_measures

    def start(self, name: str, config: Mapping[str, Any]) -> None:
        """As in Tracker."""
        own = identity(name, config)
        with _quiet():
            self._client, artifacts = self._connected()
            experiment = self._experiment(artifacts)
            found = self._client.search_runs([experiment], filter_string=f"tags.deepprobe_identity = '{own}'")
            open_runs = [run.info.run_id for run in found if run.info.status != "FINISHED"]
            if open_runs:
                self.run_id = open_runs[0]
                self._client.update_run(self.run_id, status="RUNNING")
            else:
                tags = {"deepprobe_identity": own}
                self.run_id = self._client.create_run(experiment, run_name=name, tags=tags).info.run_id
                self._write_settings(config)
        self._continued = bool(open_runs)
        self._last_steps: dict[str, int] = {}

    def log(self, frame: pd.DataFrame) -> None:
        """As in Tracker."""
        now = int(time.time() * 1000)
        metrics = [
            self._entities.Metric(name, value, now, step)
            for step, values in scalars(frame, layer_measures=self.layer_measures).items()
            for name, value in values.items()
            if not self._continued or step > self._last_step(name)
        ]
        for some in _portions(metrics, METRICS_AT_ONCE):
            self._client.log_batch(self.run_id, metrics=some)

    def finish(self, status: str) -> None:
        """As in Tracker."""
        self._client.set_tag(self.run_id, "deepprobe_status", status)
        self._client.set_terminated(self.run_id, END.get(status, "FAILED"))

    def _connected(self) -> tuple[Any, str | None]:
        """A client, and where artifacts go if that is ours to say."""
        if "://" in str(self.place):
            return self._tracking.MlflowClient(tracking_uri=str(self.place)), None
        folder = Path(self.place).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        client = self._tracking.MlflowClient(tracking_uri=f"sqlite:///{folder / 'mlflow.db'}")
        return client, (folder / "artifacts").as_uri()

    def _experiment(self, artifacts: str | None) -> str:
        """Id of the experiment, made where it is missing."""
        found = self._client.get_experiment_by_name(self.experiment)
        if found is not None:
            return str(found.experiment_id)
        return str(self._client.create_experiment(self.experiment, artifact_location=artifacts))

    def _write_settings(self, config: Mapping[str, Any]) -> None:
        """Settings as MLflow's parameters."""
        parameters = [
            self._entities.Param(clean(name), text[:LONGEST_PARAMETER]) for name, text in settings(config).items()
        ]
        for some in _portions(parameters, PARAMETERS_AT_ONCE):
            self._client.log_batch(self.run_id, params=some)

    def _last_step(self, name: str) -> int:
        """Last step at which an earlier process wrote this metric, or -1; asked once a metric."""
        if name not in self._last_steps:
            history = self._client.get_metric_history(self.run_id, name)
            self._last_steps[name] = max((metric.step for metric in history), default=-1)
        return self._last_steps[name]


def _portions(things: list[Any], size: int) -> list[list[Any]]:
    """The things in lists of at most so many."""
    return [things[start : start + size] for start in range(0, len(things), size)]


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what MLflow and its database layer say of themselves while a file is opened."""
    logger = logging.getLogger("mlflow")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
