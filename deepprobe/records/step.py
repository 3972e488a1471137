"""A point in training, lengths of training in words ("1ep", "500it", "120ep50it"), and what happens when.

Schedules are frozen values, equal where they are due at the same points for the same reason; ``parse_schedule`` reads
them from words.

One type for epochs and iterations follows ``foundations/step.py`` of facebookresearch/open_lth.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, total_ordering
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from deepprobe.errors import ConfigError

_LENGTH = re.compile(r"(?=[0-9])(?:(?P<epochs>[0-9]{1,9})ep)?(?:(?P<iterations>[0-9]{1,12})it)?\Z")
_LOG = re.compile(r"(?P<first>[0-9epit]+)\.\.(?P<last>[0-9epit]+)(?:\s+x(?P<count>[0-9]{1,4}))?\Z")

LOG_POINTS = 10
"""Points of a log-spaced schedule that does not say how many."""

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
class LogSpaced:
    """Due at so many points from first to last, each the same ratio after the one before, rounded to whole iterations.

    Points that round to the same iteration are one, so that there may be fewer; first and last are always among them.
    """

    first: Length
    last: Length
    count: int = LOG_POINTS
    also_at_start: bool = False

    def is_due(self, step: Step) -> bool:
        """Whether this step is one of the points."""
        if step.index == 0:
            return self.also_at_start
        ends = (length.iterations_in(step.iterations_per_epoch) for length in (self.first, self.last))
        return step.index in _log_points(*ends, self.count)


@lru_cache(maxsize=64)
def _log_points(first: int, last: int, count: int) -> frozenset[int]:
    """Iterations from first to last, evenly spaced on a logarithmic axis."""
    return frozenset(int(i) for i in np.rint(np.geomspace(first, last, count)))


@dataclass(frozen=True)
class Scheduled(Generic[C]):
    """A callback and when to call it; whatever else the callback has (``around_update``) is found here too."""

    schedule: Schedule
    callback: Callable[[C], Any]

    def __call__(self, context: C) -> None:
        """Call the callback, due or not; who keeps the schedule asks ``schedule`` first."""
        if callable(self.callback):  # one that only has an ``around_update`` is not
            self.callback(context)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "callback":  # a copy under way has no callback yet
            raise AttributeError(name)
        return getattr(self.callback, name)


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


def parse_schedule(text: str, *, also_at_start: bool = False) -> Schedule:
    """Read a schedule in words.

    ==========================  ========================================================================================
    "1ep", "500it", "1ep50it"   each time this length of training has passed
    "at 0,1,2,5,10ep"           at these points; a number without a unit takes that of the next point that has one
    "at 0it,5it,1ep"            at these points
    "log 1it..10ep"             at 10 points from first to last, evenly spaced on a logarithmic axis
    "log 1it..10ep x8"          at 8 such points
    "1ep +start"                also at the untrained network; so for all of these
    ==========================  ========================================================================================

    Args:
        text: One of these; blanks around commas do not matter.
        also_at_start: As "+start", but left to themselves are schedules that name their points ("at …").

    Returns:
        A frozen schedule; equal texts give equal ones.

    Raises:
        ConfigError: If the text is none of these forms, an interval is zero, or log-spaced points begin at zero.

    Example:
        >>> due = parse_schedule("log 1it..2ep x4 +start").is_due
        >>> [i for i in range(201) if due(Step(i, iterations_per_epoch=100))]
        [0, 1, 6, 34, 200]
    """
    try:
        return _parsed(text, also_at_start=also_at_start)
    except (ConfigError, AttributeError) as error:  # a value that is no text has no ``strip``
        raise ConfigError(
            f"{text!r} is no schedule; write it as '1ep', '500it', 'at 0,1,2,5,10ep', 'at 0it,5it,1ep' or "
            "'log 1it..10ep x8', with ' +start' at the end for the untrained network too"
        ) from error


def _parsed(text: str, *, also_at_start: bool) -> Schedule:
    """The schedule; ConfigError or AttributeError if the text is no such form."""
    body = text.strip().removesuffix("+start").rstrip()
    said = body != text.strip()
    form, _, rest = body.partition(" ")
    if form == "at":
        points = _points([point.strip() for point in rest.split(",")])
        return At((Length(), *points) if said and Length() not in points else points)
    start = said or also_at_start
    if form == "log":
        match = _LOG.match(rest.strip())
        if match is None:
            raise ConfigError(rest)
        ends = (Length.parse(match["first"]), Length.parse(match["last"]))
        count = int(match["count"] or LOG_POINTS)
        if Length() in ends or count < 2:
            raise ConfigError(rest)
        return LogSpaced(*ends, count, also_at_start=start)
    length = Length.parse(body)
    if length == Length():
        raise ConfigError(body)
    return Every(length, also_at_start=start)


def _points(words: list[str]) -> tuple[Length, ...]:
    """Lengths, numbers without a unit taking that of the next word that has one."""
    lengths: list[Length] = []
    unit = ""
    for word in reversed(words):
        if not word.isdecimal():
            unit = word[-2:] if word[:-2].isdecimal() else ""
        lengths.append(Length.parse(word + unit if word.isdecimal() else word))
    return tuple(reversed(lengths))
