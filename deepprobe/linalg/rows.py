"""The accumulator for rows of any width: a d × d triangle where d is small, the rows themselves where n is.

Up to 1,024 units a triangle is kept from the start. Beyond, rows are kept as they come; once they are more than 1,024,
a matrix of up to 4,096 units turns to a triangle (134 MB at most) and a wider one stops taking rows, with a warning.
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
    """

    def __init__(self, n_features: int) -> None:
        self._kept: StreamingQR | WideRows = (
            StreamingQR(n_features) if n_features <= MOST_ROWS else WideRows(n_features)
        )

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
        grown = self.n_rows + blocks.shape[0] * blocks.shape[2]
        if grown > MOST_ROWS and self._kept.n_features <= WIDEST_TRIANGLE:
            self._turn_to_triangle().update(blocks)
        else:
            self._kept.update(blocks, last=last)

    def merge(self, other: Rows) -> None:
        """Take all rows of another accumulator, which is left as it was.

        Raises:
            ShapeError: If the numbers of columns differ.
        """
        mine, its = self._kept, other._kept
        if isinstance(mine, WideRows) and (
            isinstance(its, StreamingQR)
            or (mine.n_rows + its.n_rows > MOST_ROWS and mine.n_features <= WIDEST_TRIANGLE)
        ):
            mine = self._turn_to_triangle()
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

    def _turn_to_triangle(self) -> StreamingQR:
        """Stream the kept rows into a triangle and go on with that."""
        assert isinstance(self._kept, WideRows)
        triangle = StreamingQR(self._kept.n_features)
        for rows in self._kept.kept_rows():
            triangle.update(rows[:, :, None])
        self._kept = triangle
        return triangle
