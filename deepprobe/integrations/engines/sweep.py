"""What all engines share: the order of tasks, what a failed one means for the others, and what a lost worker costs."""

from __future__ import annotations

import sys
import traceback
from collections import Counter, deque
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from typing import TYPE_CHECKING, Any, Protocol

from deepprobe.errors import ConfigError, DeepprobeError, SweepError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Hashable, Iterable, Sequence

    from deepprobe.pruning.lottery.tasks import Task


@dataclass(frozen=True)
class Failure:
    """Why a task did not end well, as text, so that it can come from another machine.

    Attributes:
        reason: One line.
        details: What helps to find the fault, such as the traceback; empty where the reason says all.
    """

    reason: str
    details: str = ""


class WorkerLostError(Exception):
    """The process of a task ended without an outcome; its message says how."""


class Workers(Protocol):
    """What an engine is to `drive`. A job is whatever `start` returns."""

    def start(self, task: Task) -> Hashable:
        """Give a task to a worker."""

    def wait(self, jobs: Collection[Any]) -> Iterable[Any]:
        """Block until at least one of the jobs has ended; return those that have."""

    def outcome(self, job: Any) -> Failure | None:
        """Why an ended job failed, None where it did not; WorkerLostError where its process died."""

    def cancel(self, jobs: Collection[Any]) -> None:
        """End what runs."""


def attempt(call: Callable[[], None]) -> Failure | None:
    """Run a task where this is called; an exception becomes a Failure. Ctrl-C passes through."""
    try:
        call()
    except Exception as error:  # a task is anybody's function; what it raised is told at the end
        known = isinstance(error, DeepprobeError)
        return Failure(_in_a_line(error), "" if known else traceback.format_exc())
    return None


def _in_a_line(error: Exception) -> str:
    """Type and first line of an error."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


class Sweep:
    """Which tasks may start, and how those that ended did.

    Args:
        tasks: With distinct keys; each needs only keys of the others.
        quiet: Show nothing.

    Raises:
        ConfigError: If keys are not distinct, a needed key is missing, or tasks need each other in a circle.
    """

    def __init__(self, tasks: Sequence[Task], *, quiet: bool) -> None:
        self._tasks = {task.key: task for task in tasks}
        self._quiet, self._n_done = quiet, 0
        self._failures: dict[str, Failure] = {}
        if len(self._tasks) < len(tasks):
            twice = [task for task in tasks if self._tasks[task.key] is not task]
            raise ConfigError(f"two tasks are called '{twice[0]}'; each needs a key of its own")
        for task in tasks:
            for key in task.needs:
                if key not in self._tasks:
                    raise ConfigError(f"task '{task}' needs {key}, which is no task of this sweep")
        self._order = TopologicalSorter({task.key: task.needs for task in tasks})
        try:
            self._order.prepare()
        except CycleError as error:
            circle = " → ".join(str(self._tasks[key]) for key in error.args[1])
            raise ConfigError(f"tasks need each other in a circle: {circle}") from error

    def ready(self) -> list[Task]:
        """Tasks not returned before whose needs have all ended well."""
        return [self._tasks[key] for key in self._order.get_ready()]

    def ended(self, task: Task, failure: Failure | None) -> None:
        """Take a task's outcome and say it in a line."""
        if failure is None:
            self._n_done += 1
            self._order.done(task.key)
        else:
            self._failures[str(task)] = failure
        n_ended = self._n_done + len(self._failures)
        outcome = f"failed: {failure.reason}" if failure else "done"
        self.say(f"{n_ended} of {len(self._tasks)}: {task}: {outcome}")

    def say(self, line: str) -> None:
        """A line of progress."""
        if not self._quiet:
            print(line, file=sys.stderr, flush=True)

    def check(self) -> None:
        """Raise SweepError, with all reasons, if not all tasks ended well."""
        if not self._failures:
            return
        n, n_failed = len(self._tasks), len(self._failures)
        n_barred = n - n_failed - self._n_done
        barred = f", {n_barred} not started because they need what failed" if n_barred else ""
        reasons = "; ".join(f"{name}: {failure.reason}" for name, failure in self._failures.items())
        error = SweepError(
            f"{n_failed} of {n} tasks failed{barred}, {self._n_done} are done ({reasons}); "
            "once that is mended, the same command goes on with what is missing"
        )
        for name, failure in self._failures.items():
            if failure.details:
                error.add_note(f"{name}:\n{failure.details}")
        raise error


def drive(tasks: Sequence[Task], workers: Workers, *, at_once: int | None, retries: int, quiet: bool) -> None:
    """Run tasks on workers, each once what it needs has ended well.

    Args:
        tasks: In the order of preference.
        workers: Where they run.
        at_once: How many at the same moment; None leaves that to the workers.
        retries: How often a task whose worker was lost is started again. It goes on from what it wrote to its folder.
        quiet: Show nothing.

    Raises:
        ConfigError: If the tasks' keys and needs do not fit together.
        SweepError: If a task failed, after all that do not need it have ended.
    """
    sweep = Sweep(tasks, quiet=quiet)
    waiting, running, lost = deque[Any](), dict[Any, Any](), Counter[Any]()
    try:
        while True:
            waiting.extend(sweep.ready())
            while waiting and (at_once is None or len(running) < at_once):
                task = waiting.popleft()
                running[workers.start(task)] = task
            if not running:
                break
            for job in list(workers.wait(running)):
                task = running.pop(job)
                try:
                    sweep.ended(task, workers.outcome(job))
                except WorkerLostError as error:
                    lost[task.key] += 1
                    if lost[task.key] > retries:
                        sweep.ended(task, Failure(f"{error}, {lost[task.key]} times"))
                    else:
                        sweep.say(f"{task}: {error}; started again")
                        waiting.appendleft(task)
    finally:
        workers.cancel(running)
    sweep.check()
