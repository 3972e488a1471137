"""Tasks as Ray core tasks, on this machine or on a cluster that Ray holds."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from deepprobe.errors import ConfigError
from deepprobe.extras import module_of_extra
from deepprobe.integrations.engines.sweep import Failure, attempt, drive

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence
    from types import ModuleType

    from deepprobe.pruning.lottery.tasks import Task


@dataclass(frozen=True)
class RayEngine:
    """Runs tasks with Ray. A Ray that the process is connected to already is used as it is and left running.

    On a cluster, deepprobe must be installed on each machine, and the experiment's folder be the same place on all.

    Attributes:
        n_cpus: Processors that a task takes; Ray gives it as many threads.
        n_gpus: GPUs that a task takes; 0.25 puts four tasks on one. With 0 a task sees no GPU.
        address: Of a running cluster; None takes the one that RAY_ADDRESS names, or starts Ray on this machine.
        retries: How often Ray starts a task again whose process or machine was lost.
        quiet: Show nothing.

    Raises:
        MissingPackageError: If ray is not installed.
        ConfigError: If a number is out of range.
    """

    n_cpus: float = 1
    n_gpus: float = 0
    address: str | None = None
    retries: int = 3
    quiet: bool = False

    def __post_init__(self) -> None:
        if self.n_cpus <= 0 or self.n_gpus < 0 or self.retries < 0:
            raise ConfigError(
                f"n_cpus={self.n_cpus}, n_gpus={self.n_gpus}, retries={self.retries}: the first must be above 0, "
                "the others at least 0"
            )
        _ray()

    def run(self, tasks: Sequence[Task]) -> None:
        """Run tasks to their end.

        Args:
            tasks: Each is given to Ray once what it needs has ended well.

        Raises:
            ConfigError: If the tasks' keys and needs do not fit together.
            SweepError: If a task failed, after all that do not need it have ended.
        """
        ray = _ray()
        own = not ray.is_initialized()
        if own:
            level = logging.ERROR if self.quiet else logging.INFO
            ray.init(address=self.address, include_dashboard=False, log_to_driver=False, logging_level=level)
        remote = ray.remote(num_cpus=self.n_cpus, num_gpus=self.n_gpus, max_retries=self.retries, max_calls=1)(attempt)
        try:
            drive(tasks, _RayWorkers(ray, remote), at_once=None, retries=0, quiet=self.quiet)
        finally:
            if own:
                ray.shutdown()


def _ray() -> ModuleType:
    """Ray, or what to install."""
    return module_of_extra("ray", extra="ray")


@dataclass(frozen=True)
class _RayWorkers:
    """Ray's processes; jobs are object references. Ray itself starts lost tasks again."""

    ray: ModuleType
    remote: Any

    def start(self, task: Task) -> Any:
        return self.remote.options(name=str(task)).remote(task.call)

    def wait(self, jobs: Collection[Any]) -> Iterable[Any]:
        ended: list[Any] = self.ray.wait(list(jobs), num_returns=1)[0]
        return ended

    def outcome(self, job: Any) -> Failure | None:
        try:
            found: Failure | None = self.ray.get(job)
        except self.ray.exceptions.RayError as error:
            lines = str(error).strip().splitlines()
            return Failure(f"{type(error).__name__}: {lines[0] if lines else 'lost'}", str(error))
        return found

    def cancel(self, jobs: Collection[Any]) -> None:
        for job in jobs:
            self.ray.cancel(job, force=True)
