"""Tasks in this process, one after the other, or in several processes of this machine."""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, wait
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from joblib.externals.loky import ProcessPoolExecutor

from deepprobe.errors import ConfigError
from deepprobe.integrations.engines.sweep import Failure, WorkerLostError, attempt, drive

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence

    from deepprobe.pruning.lottery.tasks import Task


@dataclass(frozen=True)
class LocalEngine:
    """Runs tasks on this machine.

    With one worker they run in this process. With more, each task has a process of its own, so that memory, also the
    device's, is given back with it. Processes share the threads of this one equally, and GPUs in turn.

    Attributes:
        n_workers: Tasks at the same moment.
        retries: How often a task whose process was killed is started again.
        quiet: Show nothing.

    Raises:
        ConfigError: If a number is out of range.
    """

    n_workers: int = 1
    retries: int = 3
    quiet: bool = False

    def __post_init__(self) -> None:
        if self.n_workers < 1 or self.retries < 0:
            raise ConfigError(f"n_workers={self.n_workers}, retries={self.retries}: at least 1 and 0 are needed")

    def run(self, tasks: Sequence[Task]) -> None:
        """Run tasks to their end.

        Args:
            tasks: Each starts once what it needs has ended well.

        Raises:
            ConfigError: If the tasks' keys and needs do not fit together.
            SweepError: If a task failed, after all that do not need it have ended.
        """
        workers = _Here() if self.n_workers == 1 else _Processes(self.n_workers)
        drive(tasks, workers, at_once=self.n_workers, retries=self.retries, quiet=self.quiet)


@dataclass(frozen=True, eq=False)
class _Ended:
    """A task that has run in this process."""

    failure: Failure | None


class _Here:
    """This process: a task has ended when `start` returns."""

    def start(self, task: Task) -> _Ended:
        return _Ended(attempt(task.call))

    def wait(self, jobs: Collection[_Ended]) -> Iterable[_Ended]:
        return jobs

    def outcome(self, job: _Ended) -> Failure | None:
        return job.failure

    def cancel(self, jobs: Collection[_Ended]) -> None:
        """Nothing runs."""


@dataclass(frozen=True)
class _Processes:
    """A fresh process a task, by loky: it takes functions and models of notebooks too, and no main module is needed."""

    n: int
    _seats: dict[Any, tuple[int, Any]] = field(default_factory=dict)
    """Of each job: which of the n places it takes, and its pool of one process."""

    def start(self, task: Task) -> Any:
        seat = min(set(range(self.n)) - {taken for taken, _ in self._seats.values()})
        pool = ProcessPoolExecutor(max_workers=1, env=_environment(seat, self.n))
        job = pool.submit(_attempt_under, os.getpid(), task.call)
        self._seats[job] = seat, pool
        return job

    def wait(self, jobs: Collection[Any]) -> Iterable[Any]:
        return wait(jobs, return_when=FIRST_COMPLETED).done

    def outcome(self, job: Any) -> Failure | None:
        _, pool = self._seats.pop(job)
        try:
            found: Failure | None = job.result()
        except BrokenExecutor as error:
            raise WorkerLostError("its process was killed or ran out of memory") from error
        except KeyboardInterrupt:  # told so by a signal
            return Failure("its process was interrupted")
        finally:
            pool.shutdown(kill_workers=True)
        return found

    def cancel(self, jobs: Collection[Any]) -> None:
        for job in jobs:
            self._seats.pop(job)[1].shutdown(kill_workers=True)


def _environment(seat: int, n: int) -> dict[str, str]:
    """What one of n processes is told of threads and GPUs before it loads anything."""
    threads = str(max(1, torch.get_num_threads() // n))
    told = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), threads)
    every = ",".join(map(str, range(torch.cuda.device_count())))
    gpus = (os.environ.get("CUDA_VISIBLE_DEVICES") or every).split(",")
    return told | ({"CUDA_VISIBLE_DEVICES": gpus[seat % len(gpus)]} if len(gpus) > 1 else {})


def _attempt_under(parent: int, call: Callable[[], None]) -> Failure | None:
    """Run a task, and end with the process that asked for it, whose lock on the experiment ends with it too."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    return attempt(call)
