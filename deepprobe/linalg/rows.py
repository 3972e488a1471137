"""The accumulator for rows of any width: a d × d triangle where d is small, the rows themselves where n is.

A triangle of up to 4,096 units (134 MB) is kept once there are more rows than that is worth; until then, and for wider
matrices always, rows are kept as they come, 1,024 at most, and those beyond are left out with a warning.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from deepprobe.linalg.streaming_qr import StreamingQR
from deepprobe.linalg.wide_rows import MOST_ROWS, WideRows

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from deepprobe.linalg.factor import Factor

WIDEST_TRIANGLE = 4096


class Rows:
    """Accumulates rows of d units, exactly wherever n or d is small; see the module for what happens where neither is.

    Args:
        n_features: Columns d, at least 1.
        by_rows: Whether rows are what is asked about (view ``samples``): then a triangle is formed only once n ≥ d,
            else for up to 1,024 units from the start, so that live units can be told from dead ones whatever n is.
    """

    def __init__(self, n_features: int, *, by_rows: bool = False) -> None:
        self._kept: StreamingQR | WideRows
        if n_features > MOST_ROWS or by_rows:
            self._kept = WideRows(n_features)
        else:
            self._kept = StreamingQR(n_features)

    @property
    def n_rows(self) -> int:
        """Rows taken so far."""
        return self._kept.n_rows

    def update(self, blocks: NDArray[np.floating], *, last: bool = False) -> None:
        """Take rows as blocks of shape (b, d, p); ``last`` says that no more will come.

        Raises:
            ShapeError: If d is not ``n_features``.
        """
        if isinstance(self._kept, StreamingQR):
            self._kept.update(blocks)
            return
        if self._outgrown(self._kept, blocks.shape[0] * blocks.shape[2]):
            self._turn_to_triangle(self._kept).update(blocks)
        else:
            self._kept.update(blocks, last=last)

    def merge(self, other: Rows) -> None:
        """Take all rows of another accumulator, which is left as it was.

        Raises:
            ShapeError: If the numbers of columns differ.
        """
        mine, its = self._kept, other._kept
        if isinstance(mine, WideRows) and (isinstance(its, StreamingQR) or self._outgrown(mine, its.n_rows)):
            mine = self._turn_to_triangle(mine)
        if isinstance(mine, WideRows):
            assert isinstance(its, WideRows)
            mine.merge(its)
        elif isinstance(its, WideRows):
            for rows in its.kept_rows():
                mine.update(rows[:, :, None])
        else:
            mine.merge(its)

    def result(self) -> Factor:
        """Factor of all rows so far."""
        return self._kept.result()

    @staticmethod
    def _outgrown(kept: WideRows, more: int) -> bool:
        """Whether with so many more rows a triangle is the smaller thing to keep."""
        grown = kept.n_rows + more
        return kept.n_features <= WIDEST_TRIANGLE and (grown >= kept.n_features or grown > MOST_ROWS)

    def _turn_to_triangle(self, kept: WideRows) -> StreamingQR:
        """Stream the kept rows into a triangle and go on with that."""
        triangle = StreamingQR(kept.n_features)
        for rows in kept.kept_rows():
            triangle.update(rows[:, :, None])
        self._kept = triangle
        return triangle
