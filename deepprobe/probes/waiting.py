"""Drawn rows that wait to be folded in together, in memory taken once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

ENOUGH_ROWS = 1024
"""Rows that are worth folding in: fewer wait for those of the next forward passes."""


class WaitingRows:
    """Gathers blocks of rows over forward passes.

    They are copied to one place that stays: small tensors kept from step to step would lie between the activations of
    a training step, and make the allocator fetch those pages anew each time (20 % of a step, measured).
    """

    def __init__(self) -> None:
        self._room: NDArray[np.floating] = np.empty((0, 0, 0))
        self._used = 0
        self._latest = 0

    @property
    def is_full(self) -> bool:
        """Whether as many blocks as came last would not fit any more."""
        return self._used > 0 and self._used + self._latest > len(self._room)

    def fits(self, blocks: NDArray[np.floating]) -> bool:
        """Whether these blocks, shape (b, d, p), can be added to those that wait."""
        alike = blocks.shape[1:] == self._room.shape[1:] and blocks.dtype == self._room.dtype
        return self._used == 0 or (alike and self._used + len(blocks) <= len(self._room))

    def add(self, blocks: NDArray[np.floating]) -> None:
        """Copy blocks that fit."""
        b, d, p = blocks.shape
        if self._used == 0 and (
            self._room.shape[1:] != (d, p) or b > len(self._room) or blocks.dtype != self._room.dtype
        ):
            self._room = np.empty((max(b, ENOUGH_ROWS // max(p, 1)), d, p), dtype=blocks.dtype)
        self._room[self._used : self._used + b] = blocks
        self._used += b
        self._latest = b

    def take(self) -> NDArray[np.floating]:
        """What waits, shape (b, d, p), to be used before anything is added."""
        waiting, self._used = self._room[: self._used], 0
        return waiting
