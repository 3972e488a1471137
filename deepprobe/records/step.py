"""A point in training, lengths of training in words ("1ep", "500it", "120ep50it"), and what happens when.

One type for epochs and iterations follows ``foundations/step.py`` of facebookresearch/open_lth.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import total_ordering
from typing import Any, Generic, Protocol, TypeVar

from deepprobe.errors import ConfigError

_LENGTH = re.compile(r"(?=[0-9])(?:(?P<epochs>[0-9]{1,9})ep)?(?:(?P<iterations>[0-9]{1,12})it)?\Z")

C = TypeVar("C")


@dataclass(frozen=True)
class Length:
    """So many epochs plus so many iterations.

    Example:
        >>> Length.parse("120ep50it").iterations_in(391)
        46970
    """

    epochs: int = 0
    iterations: int = 0

    @classmethod
    def parse(cls, text: str) -> Length:
        """Read "1ep", "500it" or "120ep50it".

        Args:
            text: Epochs, iterations, or both in this order; no blanks, no sign.

        Returns:
            The length; "0it" and "0ep" are allowed.

        Raises:
            ConfigError: If the text is not of this form.
        """
        match = _LENGTH.match(text) if isinstance(text, str) else None
        if match is None:
            raise ConfigError(f"{text!r} is no length of training; write it as '1ep', '500it' or '120ep50it'")
        return cls(int(match["epochs"] or 0), int(match["iterations"] or 0))

    def iterations_in(self, iterations_per_epoch: int) -> int:
        """Number of iterations, given how many make an epoch."""
        return self.epochs * iterations_per_epoch + self.iterations

    def __str__(self) -> str:
        epochs = f"{self.epochs}ep" if self.epochs else ""
        return epochs + (f"{self.iterations}it" if self.iterations or not epochs else "")


@total_ordering
@dataclass(frozen=True, eq=False)
class Step:
    """A point in training: after ``index`` updates, so that 0 is the untrained network.

    Attributes:
        index: Updates made so far.
        iterations_per_epoch: Updates in one pass over the training data, at least 1.

    Example:
        >>> step = Step(47, iterations_per_epoch=20)
        >>> str(step), step.epoch, step.iteration, step.epochs
        ('2ep7it', 2, 7, 2.35)
    """

    index: int
    iterations_per_epoch: int

    @classmethod
    def parse(cls, text: str, iterations_per_epoch: int) -> Step:
        """The step that "1ep", "500it" or "120ep50it" names; ConfigError if the text is of another form."""
        return cls(Length.parse(text).iterations_in(iterations_per_epoch), iterations_per_epoch)

    @property
    def epoch(self) -> int:
        """Whole epochs done."""
        return self.index // self.iterations_per_epoch

    @property
    def iteration(self) -> int:
        """Iterations done of the epoch under way."""
        return self.index % self.iterations_per_epoch

    @property
    def epochs(self) -> float:
        """Epochs done, with the fraction of the one under way."""
        return self.index / self.iterations_per_epoch

    @property
    def ends_epoch(self) -> bool:
        """Whether an epoch has just been completed."""
        return self.index > 0 and self.iteration == 0

    def next(self) -> Step:
        """The step after one more update."""
        return Step(self.index + 1, self.iterations_per_epoch)

    def __str__(self) -> str:
        return str(Length(self.epoch, self.iteration))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Step):
            return NotImplemented
        return (self.index, self.iterations_per_epoch) == (other.index, other.iterations_per_epoch)

    def __lt__(self, other: Step) -> bool:
        return self.index < other.index

    def __hash__(self) -> int:
        return hash((self.index, self.iterations_per_epoch))


class Schedule(Protocol):
    """When something happens in training."""

    def is_due(self, step: Step) -> bool:
        """Whether it happens at this step."""


@dataclass(frozen=True)
class Every:
    """Due each time a length of training has passed, and at step 0 if ``also_at_start``."""

    length: Length
    also_at_start: bool = False

    def is_due(self, step: Step) -> bool:
        """Whether a whole number of lengths has passed."""
        if step.index == 0:
            return self.also_at_start
        return step.index % self.length.iterations_in(step.iterations_per_epoch) == 0


@dataclass(frozen=True)
class At:
    """Due at the points named, counted from the untrained network."""

    points: tuple[Length, ...]

    def is_due(self, step: Step) -> bool:
        """Whether this step is one of the points."""
        return any(step.index == point.iterations_in(step.iterations_per_epoch) for point in self.points)


@dataclass(frozen=True)
class Scheduled(Generic[C]):
    """A callback and when to call it."""

    schedule: Schedule
    callback: Callable[[C], Any]

    def __call__(self, context: C) -> None:
        """Call the callback, due or not; who keeps the schedule asks ``schedule`` first."""
        self.callback(context)


@dataclass(frozen=True)
class ScheduleDecorator:
    """What ``every`` and ``at`` return: a schedule that turns a callback into a scheduled one."""

    schedule: Schedule

    def __call__(self, callback: Callable[[C], Any]) -> Scheduled[C]:
        """The callback with this schedule."""
        return Scheduled(self.schedule, callback)


def every(length: str, *, also_at_start: bool = False) -> ScheduleDecorator:
    """Schedule a callback each time a length of training has passed.

    Args:
        length: "1ep", "500it", "1ep50it"; at least one iteration.
        also_at_start: Also call it on the untrained network.

    Returns:
        Decorator for a callback; its ``schedule`` may be asked on its own.

    Raises:
        ConfigError: If the length is not of this form, or is zero.

    Example:
        >>> every("1ep").schedule.is_due(Step(40, iterations_per_epoch=20))
        True
    """
    parsed = Length.parse(length)
    if parsed == Length():
        raise ConfigError(f"every({length!r}): the length must be at least '1it'; for the start alone use at('0it')")
    return ScheduleDecorator(Every(parsed, also_at_start))


def at(points: str) -> ScheduleDecorator:
    """Schedule a callback at named points.

    Args:
        points: Lengths from the untrained network, separated by commas: "0it,5it,1ep".

    Returns:
        Decorator for a callback; its ``schedule`` may be asked on its own.

    Raises:
        ConfigError: If a point is not of this form.

    Example:
        >>> at("0it, 5it, 1ep").schedule.is_due(Step(5, iterations_per_epoch=20))
        True
    """
    return ScheduleDecorator(At(tuple(Length.parse(point.strip()) for point in points.split(","))))
