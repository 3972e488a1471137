"""Running mean and spread of numbers by unit, over samples that come in parts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor


class SampleMoments:
    """Mean and sum of squared deviations of each of d numbers, float64, merged part by part.

    Chan, Golub & LeVeque (1983), "Algorithms for computing the sample variance", equation 2.1. Nothing leaves the
    device before it is asked for.
    """

    def __init__(self) -> None:
        self.n = 0
        self._mean: Tensor | None = None
        self._squares: Tensor | None = None

    def update(self, rows: Tensor) -> None:
        """Take rows, shape (n, d)."""
        n = len(rows)
        if not n:
            return
        rows = rows.double()
        mean = rows.mean(dim=0)
        squares = ((rows - mean) ** 2).sum(dim=0)
        if self._mean is None or self._squares is None:
            self.n, self._mean, self._squares = n, mean, squares
            return
        total = self.n + n
        off = mean - self._mean
        self._squares = self._squares + squares + off**2 * (self.n * n / total)
        self._mean = self._mean + off * (n / total)
        self.n = total

    def mean(self) -> NDArray[np.float64]:
        """Mean over the rows, shape (d,)."""
        return _array(self._mean)

    def variance(self) -> NDArray[np.float64]:
        """Mean squared deviation from the mean (divided by n), shape (d,)."""
        return _array(self._squares) / max(self.n, 1)

    def standard_error(self) -> NDArray[np.float64]:
        """Of the mean: √(Σ (x − x̄)² / (n − 1) / n), shape (d,); NaN of a single row."""
        if self.n < 2:
            return np.full_like(self.mean(), np.nan)
        return np.asarray(np.sqrt(_array(self._squares) / (self.n - 1) / self.n))


def _array(values: Tensor | None) -> NDArray[np.float64]:
    """A tensor as an array."""
    return np.zeros(0) if values is None else values.cpu().numpy()
