"""Ctrl-C and SIGTERM end training between two steps, not in the middle of one."""

from __future__ import annotations

import signal
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass
class Interruption:
    """Whether somebody asked for the end.

    Attributes:
        requested: Set by the first signal; the second one raises KeyboardInterrupt at once.
    """

    requested: bool = False

    def __call__(self, number: int, frame: Any) -> None:
        """Take a signal."""
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True


@contextmanager
def interruptible() -> Iterator[Interruption]:
    """Catch SIGINT and SIGTERM inside; the handlers before are restored after. Outside the main thread: nothing."""
    interruption = Interruption()
    if threading.current_thread() is not threading.main_thread():
        yield interruption
        return
    before = {number: signal.signal(number, interruption) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield interruption
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
