"""Dead, constant and rarely firing units, counted over every row: one sum and one thin sample a tensor, no copies."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from deepprobe.records.spectrum import Units

if TYPE_CHECKING:
    from numpy.typing import NDArray

RARE = 50
"""A unit is rare where it is not zero in fewer rows than this."""

_THIN = 256  # rows of the thin sample that clears most units of suspicion
_CLEARED = 3  # units that fire at least this often in it are not counted one by one


class UnitCounter:
    """Counts, over all rows, how often each unit is not zero and whether it ever changes.

    Whether a unit is dead or constant is exact. Firing counts are exact for units that fire in less than about 1 % of
    the rows; for the others a thin sample's count is taken, scaled up.

    Args:
        n_features: Units d.
    """

    def __init__(self, n_features: int) -> None:
        self.n_features = n_features
        self.n_nonfinite = 0
        self.first_nonfinite = -1
        self._first: NDArray[np.floating] | None = None
        self._fired = np.zeros(n_features)
        self._still = np.arange(n_features)  # units that have not changed so far

    def update(self, blocks: NDArray[np.floating]) -> None:
        """Take rows, as blocks of shape (b, d, p), finite."""
        if blocks.size == 0:
            return
        if self._first is None:
            self._first = blocks[0, :, 0].copy()
        b, _, p = blocks.shape
        thin = blocks[:: max(1, b // _THIN), :, :: max(1, b * p // _THIN)] if b * p > 2 * _THIN else blocks
        fired = np.count_nonzero(thin, axis=(0, 2)).astype(np.float64)
        if thin.size < blocks.size:
            fired = self._over_all_rows(blocks, fired, scale=blocks.size / thin.size)
        self._fired += fired
        for part in (thin, blocks):  # the thin sample leaves few units to look at in full
            if len(self._still):
                same = part[:, self._still] == self._first[self._still][:, None]
                self._still = self._still[same.all(axis=(0, 2))]

    def _over_all_rows(
        self, blocks: NDArray[np.floating], thin: NDArray[np.float64], *, scale: float
    ) -> NDArray[np.float64]:
        """Firing counts over all rows: exact for the few units the thin sample leaves under suspicion, else scaled."""
        fired = thin * scale
        quiet = np.flatnonzero(thin < _CLEARED)
        if len(quiet):
            fired[quiet] = np.count_nonzero(blocks[:, quiet], axis=(0, 2))
        return fired

    def note_nonfinite(self, blocks: NDArray[np.floating]) -> int:
        """Count NaN and infinite values, and remember the first unit that held one; returns their number here."""
        bad = ~np.isfinite(blocks)
        count = int(np.count_nonzero(bad))
        if count:
            self.n_nonfinite += count
            if self.first_nonfinite < 0:
                self.first_nonfinite = int(np.flatnonzero(bad.any(axis=(0, 2)))[0])
        return count

    def result(self, *, n_duplicate: int = 0) -> Units:
        """Counts so far, with the duplicates that the accumulator found."""
        if self._first is None:
            return Units(n_nonfinite=self.n_nonfinite, first_nonfinite=self.first_nonfinite)
        dead = self._fired == 0
        return Units(
            n_dead=int(np.count_nonzero(dead)),
            n_constant=len(self._still),
            n_duplicate=n_duplicate,
            n_rare=int(np.count_nonzero((self._fired < RARE) & ~dead)),
            n_nonfinite=self.n_nonfinite,
            first_nonfinite=self.first_nonfinite,
        )
