"""Trackers: places outside the run – TensorBoard, MLflow, Weights & Biases – that follow its records."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Protocol
from warnings import warn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import pandas as pd

    from deepprobe.runs import Run


class Tracker(Protocol):
    """What ``train`` asks of a tracker; ``deepprobe.integrations.trackers`` has some."""

    def start(self, name: str, config: Mapping[str, Any]) -> None:
        """Begin, or go on with, what belongs to the run of that name and configuration (plain, nested values)."""

    def log(self, frame: pd.DataFrame) -> None:
        """Take tidy rows (columns ``records.frame.TIDY``) that have just been appended to the run."""

    def finish(self, status: str) -> None:
        """End; the status is that of the run."""


@contextmanager
def following(run: Run, trackers: Sequence[Tracker]) -> Iterator[None]:
    """Let trackers follow a run. One that raises is warned about and left out: it must not end a training."""
    with ExitStack() as stack:
        for tracker in trackers:
            stack.enter_context(_follow(run, _Careful(tracker)))
        yield


@contextmanager
def _follow(run: Run, tracker: _Careful) -> Iterator[None]:
    """One tracker, told of the start, of all rows that are appended, and of the end."""
    tracker.tell("start", run.name, run.config)
    with run.followed_by(lambda frame: tracker.tell("log", frame)):
        try:
            yield
        finally:
            tracker.tell("finish", run.status)


class _Careful:
    """A tracker that is not asked again once it has failed."""

    def __init__(self, tracker: Tracker) -> None:
        self._tracker = tracker
        self._works = True

    def tell(self, verb: str, *values: Any) -> None:
        """Call a verb of the tracker."""
        if not self._works:
            return
        call: Callable[..., None] = getattr(self._tracker, verb)
        try:
            call(*values)
        except Exception as error:  # whatever a tracker's service may raise
            self._works = False
            warn(
                f"{type(self._tracker).__name__}.{verb} failed and is left out from here on: "
                f"{type(error).__name__}: {error}",
                stacklevel=2,
            )
