"""How far training has come: a bar on a terminal, elsewhere a line an epoch, or now and then."""

from __future__ import annotations

import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from deepprobe.records.step import Step


SECONDS_BETWEEN_LINES = 60
"""Least time between lines where a training is one of many."""


class Progress:
    """Shows loss, accuracies, samples a second and the time left.

    Args:
        name: Of the run.
        step: Where training begins.
        last: Index of the last step.
        quiet: Show nothing.
        brief: The training is one of many: the bar goes when it has ended, and there is a line a minute at most.
    """

    def __init__(self, name: str, step: Step, *, last: int, quiet: bool, brief: bool) -> None:
        self._name, self._begin, self._last = name, step.index, last
        self._began = self._said = time.monotonic()
        self._quiet, self._brief = quiet, brief
        self._bar = tqdm(
            total=last, initial=step.index, unit="step", desc=name, disable=True if quiet else None, dynamic_ncols=True,
            leave=not brief,
        )  # fmt: skip

    @classmethod
    @contextmanager
    def shown(cls, name: str, step: Step, *, last: int, quiet: bool, brief: bool) -> Iterator[Progress]:
        """A Progress that is closed on the way out."""
        progress = cls(name, step, last=last, quiet=quiet, brief=brief)
        with progress._bar:
            yield progress

    def advance(self) -> None:
        """One step more."""
        self._bar.update()

    def epoch(self, step: Step, metrics: Mapping[str, Mapping[str, float]]) -> None:
        """The measures of an epoch that has ended."""
        shown = _in_short(metrics)
        self._bar.set_postfix(shown)
        if self._bar.disable and not self._quiet and self._may_speak():
            words = ", ".join(f"{key} {value}" for key, value in shown.items())
            print(f"{self._name}: epoch {step.epoch}: {words}{self._time_left(step)}", file=sys.stderr, flush=True)

    def _may_speak(self) -> bool:
        """Whether a line is due now."""
        if self._brief and time.monotonic() - self._said < SECONDS_BETWEEN_LINES:
            return False
        self._said = time.monotonic()
        return True

    def _time_left(self, step: Step) -> str:
        """About how long it will take to the end, in words."""
        done = step.index - self._begin
        seconds = (time.monotonic() - self._began) / done * (self._last - step.index) if done else 0
        if seconds < 1:
            return ""
        return f", about {tqdm.format_interval(seconds)} left"


def _in_short(metrics: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """Loss, accuracies by split, and speed."""
    train = metrics["train"]
    shown = {"loss": f"{train['loss']:.3g}"}
    shown |= {split: f"{values['accuracy']:.1%}" for split, values in metrics.items() if "accuracy" in values}
    return shown | {"samples/s": f"{train['samples_per_second']:,.0f}"}
