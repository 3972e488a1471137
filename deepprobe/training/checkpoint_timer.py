"""When a checkpoint is due: after so many epochs or iterations, or after so many minutes."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from time import monotonic
from typing import TYPE_CHECKING, Self

from deepprobe.errors import ConfigError
from deepprobe.records.step import Every, Length

if TYPE_CHECKING:
    from deepprobe.records.step import Step

_MINUTES = re.compile(r"(?P<minutes>[0-9]{1,6}(\.[0-9]{1,6})?)min\Z")


@dataclass
class CheckpointTimer:
    """Due every so many steps, or once so many seconds have passed since it was last reset.

    Attributes:
        every: Steps between checkpoints, or None where the clock decides.
        seconds: Seconds between checkpoints, where the clock decides.
    """

    every: Every | None
    seconds: float = float("inf")
    _since: float = field(default_factory=lambda: monotonic())

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read "1ep", "500it", "1ep50it" or "10min"; ConfigError if the text is of another form, or zero."""
        match = _MINUTES.match(text)
        if match is not None and float(match["minutes"]) > 0:
            return cls(None, float(match["minutes"]) * 60)
        try:
            length = Length.parse(text)
        except ConfigError:
            length = Length()
        if length == Length():
            raise ConfigError(
                f"checkpoint_every={text!r}: write it as '1ep', '500it' or '10min', and at least '1it' or '0.1min'"
            )
        return cls(Every(length))

    def is_due_at(self, step: Step) -> bool:
        """Whether the steps ask for a checkpoint."""
        return self.every is not None and self.every.is_due(step)

    def is_due_now(self) -> bool:
        """Whether the clock asks for one."""
        return monotonic() - self._since >= self.seconds

    def reset(self) -> None:
        """Start the clock anew."""
        self._since = monotonic()
