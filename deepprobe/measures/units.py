"""Dead, constant and rarely firing units, counted over every row, at next to no cost once the others are cleared."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from deepprobe.records.spectrum import Units

if TYPE_CHECKING:
    from numpy.typing import NDArray

RARE = 50
"""A unit is rare where it is not zero in fewer rows than this."""

_THIN = 1024  # rows that clear most units of a large first batch of being rare


class UnitCounter:
    """Finds, over all rows, the units that are never, hardly ever, or always the same; exact.

    A unit that has fired 50 times is cleared of being rare, and one that has changed of being constant, for good: from
    the second batch on only the few that are left are looked at.

    Args:
        n_features: Units d.
    """

    def __init__(self, n_features: int) -> None:
        self.n_features = n_features
        self.n_nonfinite = 0
        self.first_nonfinite = -1
        self._first: NDArray[np.floating] | None = None
        self._quiet = np.arange(n_features)  # units that have fired fewer than RARE times, and how often
        self._fired = np.zeros(n_features, dtype=np.int64)
        self._still = np.arange(n_features)  # units that have not changed

    @classmethod
    def of(cls, *, fired: NDArray[np.int64], still: NDArray[np.bool_], first: NDArray[np.floating]) -> UnitCounter:
        """A counter that knows how often each unit fired, which ones never changed, and the first row; all (d,)."""
        new = cls(len(fired))
        new._first, new._still = first, np.flatnonzero(still)
        new._quiet = np.flatnonzero(fired < RARE)
        new._fired = fired[new._quiet]
        return new

    def update(self, blocks: NDArray[np.floating]) -> None:
        """Take rows, as blocks of shape (b, d, p), finite."""
        b, _, p = blocks.shape
        if blocks.size == 0:
            return
        if self._first is None:
            self._first = blocks[0, :, 0].copy()
            thin = blocks[:: max(1, b // _THIN), :, :: max(1, b * p // _THIN)]
            self._clear_changed(thin)
            self._quiet = np.flatnonzero(np.count_nonzero(thin, axis=(0, 2)) < RARE)
            self._fired = self._fired[self._quiet]
        self._clear_changed(blocks)
        if len(self._quiet):
            self._fired += np.count_nonzero(blocks[:, self._quiet], axis=(0, 2))
            left = self._fired < RARE
            self._quiet, self._fired = self._quiet[left], self._fired[left]

    def _clear_changed(self, blocks: NDArray[np.floating]) -> None:
        """Drop the units that differ from the first row."""
        if len(self._still) and self._first is not None:
            same = blocks[:, self._still] == self._first[self._still][:, None]
            self._still = self._still[same.all(axis=(0, 2))]

    def note_nonfinite(self, blocks: NDArray[np.floating]) -> int:
        """Count NaN and infinite values, and remember the first unit that held one; returns their number here."""
        with np.errstate(over="ignore", invalid="ignore"):
            if np.isfinite(blocks.sum()):  # a sum is cheaper than a look at every value
                return 0
        bad = ~np.isfinite(blocks)
        count = int(np.count_nonzero(bad))
        if count:
            self.note(count, int(np.flatnonzero(bad.any(axis=(0, 2)))[0]))
        return count

    def note(self, count: int, first: int) -> None:
        """Add a count of values that are not finite, found elsewhere and later, ``first`` the first unit of them."""
        self.n_nonfinite += count
        if self.first_nonfinite < 0:
            self.first_nonfinite = first

    def merge(self, other: UnitCounter) -> None:
        """Take all rows of another counter, which is left as it was."""
        self.note(other.n_nonfinite, other.first_nonfinite)
        if other._first is None:
            return
        if self._first is None:
            self._first = other._first
        both, mine, its = np.intersect1d(self._quiet, other._quiet, return_indices=True)
        fired = self._fired[mine] + other._fired[its]
        self._quiet, self._fired = both[fired < RARE], fired[fired < RARE]
        still = np.intersect1d(self._still, other._still)
        self._still = still[self._first[still] == other._first[still]]

    def result(self, *, n_duplicate: int = 0) -> Units:
        """Counts so far, with the duplicates that the accumulator found."""
        if self._first is None:
            return Units(n_nonfinite=self.n_nonfinite, first_nonfinite=self.first_nonfinite)
        return Units(
            n_dead=int(np.count_nonzero(self._fired == 0)),
            n_constant=len(self._still),
            n_duplicate=n_duplicate,
            n_rare=int(np.count_nonzero(self._fired)),
            n_nonfinite=self.n_nonfinite,
            first_nonfinite=self.first_nonfinite,
        )
