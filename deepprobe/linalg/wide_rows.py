"""Few rows of very many units: the whole batch of flattened images, d of 1e3 … 1e6.

A factor of d × d is out of reach and the n × n one needs every pair of rows, so rows are kept as they came (exact, up
to 2²³ numbers) and at the end the *units* are streamed through a QR of Hᵀ. Beyond that the units are folded into 8,192
random signed sums as they come (sparse embedding: Clarkson & Woodruff 2013, Nelson & Nguyen 2013; eight a unit, one in
each eighth of the sums), which moves every singular value by a factor within 1 ± (0.05 + 1.3 √(n / 8192)), whatever κ
is: the Gaussian law with room for the worst rows, each on one unit of its own (seen: 0.09, 0.16, 0.30, 0.41 for n = 16,
128, 400, 1,024). At most 1,024 rows are taken.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse

from deepprobe.errors import ShapeError
from deepprobe.linalg.decompose import without_common_direction
from deepprobe.linalg.factor import Factor, shifted_resolution
from deepprobe.linalg.streaming_qr import triangle_of
from deepprobe.records.spectrum import ARITHMETIC_ROUNDOFF, frobenius_norm

if TYPE_CHECKING:
    from numpy.typing import NDArray

MOST_ROWS = 1024
MOST_NUMBERS = 2**23
SKETCH_WIDTH = 8 * MOST_ROWS
_SIGNS_A_UNIT = 8


class WideRows:
    """Accumulates rows of a matrix with more columns than it will ever have rows.

    Args:
        n_features: Columns d, more than ``MOST_ROWS``.
        seed: Of the sketch; equal seeds merge.
    """

    def __init__(self, n_features: int, *, seed: int = 0) -> None:
        self.n_features = n_features
        self.n_rows = 0
        self._seed = seed
        self._rows: list[NDArray[np.floating]] = []
        self._sketched = False
        self._signs: scipy.sparse.csr_array | None = None  # made of the seed whenever they are needed
        self._first: NDArray[np.floating] | None = None
        self._constant = np.ones(n_features, dtype=bool)
        self._hash = np.zeros(n_features, dtype=np.uint64)
        self._factor: Factor | None = None

    def update(self, blocks: NDArray[np.floating], *, last: bool = False) -> None:
        """Take rows as blocks of shape (b, d, p); those beyond the first 1,024 are left out, with a warning.

        Args:
            blocks: Shape (b, d, p), finite; copied unless ``last``.
            last: No more rows will come: reduce at once and keep only the factor.

        Raises:
            ShapeError: If d is not ``n_features``, or more rows come after ``last``.
        """
        if blocks.ndim != 3 or blocks.shape[1] != self.n_features:
            raise ShapeError(
                f"rows of shape {blocks.shape} do not fit (b, {self.n_features}, p), d = {self.n_features}"
            )
        rows = blocks[:, :, 0] if blocks.shape[2] == 1 else blocks.transpose(0, 2, 1).reshape(-1, self.n_features)
        if self._factor is not None:
            raise ShapeError(f"rows of {self.n_features} units after last=True: the factor is closed")
        rows = rows[: self._room(len(rows))]
        if len(rows):
            self._note(rows)
            compressed = self._compressed(rows, keep=last)  # may replace self._rows
            self._rows.append(compressed)
        if last:
            self._factor = self.result()
            self._rows.clear()

    def merge(self, other: WideRows) -> None:
        """Take all rows of another accumulator, which is left as it was.

        Raises:
            ShapeError: If the numbers of columns or the seeds differ, or either was closed by ``last``.
        """
        if other.n_features != self.n_features or other._seed != self._seed:
            raise ShapeError(f"cannot merge {other.n_features} columns into {self.n_features}")
        if self._factor is not None or other._factor is not None:
            raise ShapeError("cannot merge an accumulator that was closed with last=True")
        if other._first is None:
            return
        if not other._sketched:
            for rows in other._rows:
                self.update(rows[:, :, None])  # as if they had come here in the first place
            return
        if self._first is None:
            self._first = other._first
        else:
            self._constant &= self._first == other._first
        self._constant &= other._constant
        # the other's hash was formed with row numbers from 0; unequal columns stay unequal under any fixed weights
        self._hash = self._hash * np.uint64(0x9E3779B97F4A7C15) + other._hash
        self._sketch_all()
        for rows in other._rows:
            taken = rows[: self._room(len(rows))]
            self.n_rows += len(taken)
            self._rows.append(taken)

    def result(self) -> Factor:
        """Factor of all rows so far, by rows: shape (·, n) raw and (·, n - 1) centred."""
        if self._factor is not None:
            return self._factor
        n, d = self.n_rows, self.n_features
        if n == 0 or self._first is None:
            empty, none = np.zeros((0, 0)), np.zeros(d, dtype=bool)
            return Factor(empty, empty, 0, d, ~none, ~none, none, ARITHMETIC_ROUNDOFF, by_rows=True)
        matrix = np.concatenate(self._rows)
        twins, has_zero = _twin_rows(matrix)
        triangle = triangle_of(matrix)
        sketched = self._sketched
        dead = self._constant & (self._first == 0)
        _, first = np.unique(self._hash, return_index=True)
        later = np.ones(d, dtype=bool)
        later[first] = False
        raw = triangle[:, 1:] + triangle[:, :1]
        shifted, frobenius = frobenius_norm(triangle[:, 1:]), frobenius_norm(raw)
        return Factor(
            raw=raw,
            centred=without_common_direction(triangle[:, 1:]),
            n_rows=n,
            n_features=d,
            dead=dead,
            constant=self._constant.copy(),
            duplicate=later & ~dead,
            resolution=shifted_resolution(ARITHMETIC_ROUNDOFF, shifted=shifted, frobenius=frobenius),
            twin_rows=twins + has_zero,
            twin_rows_centred=twins,
            by_rows=True,
            distortion=0.05 + 1.3 * float(np.sqrt(n / SKETCH_WIDTH)) if sketched else 0.0,
        )

    def kept_rows(self) -> list[NDArray[np.floating]]:
        """The rows as they came, in portions of shape (·, d).

        Raises:
            ShapeError: If they were folded into a sketch or reduced by ``last``.
        """
        if self._sketched or self._factor is not None:
            raise ShapeError(f"the rows of {self.n_features} units are no longer kept")
        return self._rows

    def _room(self, wanted: int) -> int:
        """How many of so many rows are taken; a warning where it is not all of them."""
        room = max(MOST_ROWS - self.n_rows, 0)
        if wanted > room:
            warnings.warn(
                f"a view of {self.n_features:,} units takes at most {MOST_ROWS:,} rows; the others are left out",
                stacklevel=3,
            )
        return min(wanted, room)

    def _note(self, rows: NDArray[np.floating]) -> None:
        """Keep what is certain of the columns: constant so far, and a 64-bit hash of their bits."""
        if self._first is None:
            self._first = rows[0].copy()
        self._constant &= (rows == self._first).all(axis=0)
        weights = np.random.default_rng([self._seed, self.n_rows]).integers(0, 2**63, len(rows), dtype=np.uint64)
        bits = np.ascontiguousarray(rows + rows.dtype.type(0)).view(f"u{rows.dtype.itemsize}")
        if bits.dtype.itemsize == 8:  # numbers of few digits end in zeros, which a product alone would keep
            bits = bits ^ (bits >> np.uint64(32))
        for weight, row in zip(weights * np.uint64(2) + np.uint64(1), bits, strict=True):
            self._hash += row * weight
        self.n_rows += len(rows)

    def _compressed(self, rows: NDArray[np.floating], *, keep: bool) -> NDArray[np.floating]:
        """Rows as they are kept: themselves, or their signed sums."""
        if not self._sketched and self.n_rows * self.n_features > MOST_NUMBERS and self.n_features > SKETCH_WIDTH:
            self._sketch_all()
        if not self._sketched:
            return rows if keep else rows.copy()
        if self._signs is None:
            self._signs = _signs(self.n_features, self._seed)
        return np.asarray((self._signs @ rows.T.astype(np.float64)).T)

    def _sketch_all(self) -> None:
        """Turn to sketching: fold what was kept."""
        if not self._sketched:
            self._sketched = True
            self._rows = [self._compressed(r, keep=True) for r in self._rows]

    def __getstate__(self) -> dict[str, Any]:
        """All but the signs, which the seed gives."""
        return {**vars(self), "_signs": None}


def _signs(n_features: int, seed: int) -> scipy.sparse.csr_array:
    """Sparse sign matrix, shape (SKETCH_WIDTH, d): eight entries ±1/√8 a column, one in each eighth of the rows."""
    generator = np.random.default_rng([seed, n_features])
    share = SKETCH_WIDTH // _SIGNS_A_UNIT
    buckets = generator.integers(0, share, (n_features, _SIGNS_A_UNIT)) + share * np.arange(_SIGNS_A_UNIT)
    signs = generator.choice([-1.0, 1.0], n_features * _SIGNS_A_UNIT) / np.sqrt(_SIGNS_A_UNIT)
    columns = np.repeat(np.arange(n_features), _SIGNS_A_UNIT)
    return scipy.sparse.csr_array((signs, (buckets.reshape(-1), columns)), shape=(SKETCH_WIDTH, n_features))


def _twin_rows(matrix: NDArray[np.floating]) -> tuple[int, bool]:
    """How many rows equal an earlier row, and whether any is zero."""
    seen = {(row + row.dtype.type(0)).tobytes() for row in matrix}
    return len(matrix) - len(seen), np.zeros_like(matrix[0]).tobytes() in seen
