"""Tasks as jobs of Slurm, through submitit, which can also start them on this machine."""

from __future__ import annotations

import re
import shutil
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepprobe.errors import ConfigError
from deepprobe.extras import module_of_extra
from deepprobe.integrations.engines.sweep import Failure, WorkerLostError, attempt, drive

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
    from types import ModuleType

    from deepprobe.pruning.lottery.tasks import Task


@dataclass(frozen=True)
class SlurmEngine:
    """Runs tasks as jobs of Slurm.

    This process submits each job once the jobs that it needs have ended, and waits for the last. A job that reaches its
    time limit, or is preempted, is queued again by submitit; one that dies is submitted again.

    submitit hands jobs over as pickles. Each job has a new folder for that, FOLDER/jobs/…, so that nothing is read but
    what this process and its job wrote. It is removed when the job has ended well.

    Attributes:
        folder: The experiment's, or another that all machines see.
        cluster: "slurm"; "local" starts processes on this machine instead; None is whichever is there.
        partition: Of Slurm; None is its default.
        minutes: Time limit of a job.
        n_cpus: Processors of a job.
        n_gpus: GPUs of a job. With 0 it sees none.
        memory_gb: Of a job; None is the partition's default.
        at_once: Jobs at the same moment; None leaves that to Slurm, and is 1 with "local".
        retries: How often a job that died, or reached its time limit, is started again.
        options: More for submitit's `update_parameters`, such as {"slurm_account": "physics"}.
        quiet: Show nothing.

    Raises:
        MissingPackageError: If submitit is not installed.
        ConfigError: If a setting is out of range, or there is no Slurm where it is asked for.
    """

    folder: str | Path
    cluster: str | None = None
    partition: str | None = None
    minutes: int = 24 * 60
    n_cpus: int = 1
    n_gpus: int = 0
    memory_gb: float | None = None
    at_once: int | None = None
    retries: int = 3
    options: Mapping[str, Any] = field(default_factory=dict)
    quiet: bool = False

    def __post_init__(self) -> None:
        if min(self.minutes, self.n_cpus) < 1 or min(self.n_gpus, self.retries) < 0 or (self.at_once or 1) < 1:
            raise ConfigError(
                f"minutes={self.minutes}, n_cpus={self.n_cpus}, n_gpus={self.n_gpus}, at_once={self.at_once}, "
                f"retries={self.retries}: at least 1, 1, 0, 1 and 0 are needed"
            )
        if self.cluster not in {None, "slurm", "local"}:
            raise ConfigError(f"cluster={self.cluster!r}: must be 'slurm', 'local' or None")
        _submitit()
        if self.cluster == "slurm" and not shutil.which("srun"):
            raise ConfigError("there is no Slurm here (no command srun); use cluster='local', or a login node of one")

    def run(self, tasks: Sequence[Task]) -> None:
        """Run tasks to their end.

        Args:
            tasks: Each is submitted once what it needs has ended well.

        Raises:
            ConfigError: If the tasks' keys and needs do not fit together, or submitit or Slurm refuses a job.
            SweepError: If a task failed, after all that do not need it have ended.
        """
        cluster = self.cluster or ("slurm" if shutil.which("srun") else "local")
        folder = Path(self.folder).absolute() / "jobs"
        folder.mkdir(parents=True, exist_ok=True)
        workers = _Jobs(self, folder=folder, cluster=cluster)
        at_once = self.at_once or (1 if cluster == "local" else None)
        drive(tasks, workers, at_once=at_once, retries=self.retries, quiet=self.quiet)
        with suppress(OSError):  # kept while there is something in it
            folder.rmdir()


def _submitit() -> ModuleType:
    """Submitit, or what to install."""
    return module_of_extra("submitit", extra="slurm")


@dataclass(frozen=True)
class _Job:
    """A task as submitit takes it: on its time limit or preemption it is queued again as it is."""

    call: Callable[[], None]

    def __call__(self) -> Failure | None:
        return attempt(self.call)

    def checkpoint(self) -> Any:
        return _submitit().helpers.DelayedSubmission(self)


@dataclass(frozen=True)
class _Jobs:
    """submitit's jobs, asked every half second whether they have ended."""

    engine: SlurmEngine
    folder: Path
    cluster: str

    def start(self, task: Task) -> Any:
        slug = re.sub(r"[^A-Za-z0-9_.-]+", "-", str(task))[-60:]
        folder = tempfile.mkdtemp(dir=self.folder, prefix=f"{slug}-")
        retries = {f"{self.cluster}_max_num_timeout": self.engine.retries}
        executor = _submitit().AutoExecutor(folder, cluster=self.cluster, **retries)
        try:
            executor.update_parameters(**self._parameters(slug))
            return executor.submit(_Job(task.call))
        except (ValueError, TypeError, NameError, _submitit().core.utils.FailedJobError) as error:
            shutil.rmtree(folder)
            raise ConfigError(f"the job cannot be submitted: {str(error).strip()}") from error

    def _parameters(self, name: str) -> dict[str, Any]:
        """Settings of a job in submitit's words."""
        engine = self.engine
        found = {
            "name": name, "timeout_min": engine.minutes, "cpus_per_task": engine.n_cpus,
            "gpus_per_node": engine.n_gpus, "mem_gb": engine.memory_gb, "slurm_partition": engine.partition,
        }  # fmt: skip
        return {key: value for key, value in found.items() if value is not None} | dict(engine.options)

    def wait(self, jobs: Collection[Any]) -> Iterable[Any]:
        while not (ended := [job for job in jobs if job.done()]):
            time.sleep(0.5)
        return ended

    def outcome(self, job: Any) -> Failure | None:
        error, log = job.exception(), f"its log is in {job.paths.folder}"
        if isinstance(error, _submitit().core.utils.FailedJobError):
            return Failure(f"its job failed; {log}", str(error))
        if error is not None and job.state.startswith("CANCELLED"):
            return Failure(f"its job {job.job_id} was cancelled")
        if error is not None:
            raise WorkerLostError(f"its job {job.job_id} died ({job.state}; {log})") from error
        found: Failure | None = job.result()
        if found is None:
            shutil.rmtree(job.paths.folder, ignore_errors=True)
        return found

    def cancel(self, jobs: Collection[Any]) -> None:
        for job in jobs:
            job.cancel(check=False)
        limit = time.monotonic() + 10
        while not all(job.done() for job in jobs) and time.monotonic() < limit:
            time.sleep(0.1)
