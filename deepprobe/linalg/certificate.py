"""Exact rank of a matrix of floats, modulo a prime: settles *singular or not* without a tolerance.

Floats are dyadic rationals, so their residues modulo an odd prime are exact. The rank modulo p never exceeds the true
one: full rank modulo p proves full rank. Deficient for two primes proves deficient up to a chance of about (d / p)².
Rows are first folded into d + 16 random sums, which keeps the rank but for the same chance.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from deepprobe.errors import ShapeError, SpectrumError

if TYPE_CHECKING:
    from numpy.typing import NDArray

PRIMES = (4_194_301, 4_194_287)
"""The two largest primes below 2²², so that products of residues and their sums stay exact in int64."""

_SPARE = 16
_TERMS = 1 << 18  # products below 2**44, so this many add up below 2**62


def exact_rank(matrix: NDArray[np.floating], *, centred: bool = False, seed: int = 0) -> int:
    """Rank over the rationals of the matrix as stored.

    Args:
        matrix: Shape (n, d), finite, float16, float32 or float64.
        centred: Rank of the matrix less its column means, by rank([1, H]) - 1.
        seed: Of the random sums.

    Returns:
        The rank: proven if it is min(n, d) – centred: min(n - 1, d) –, else certain up to a chance of about (d / p)².

    Raises:
        SpectrumError: If a value is not finite.
    """
    sketch = ExactSketch(min(matrix.shape), seed=seed)
    tall = matrix if matrix.shape[0] >= matrix.shape[1] else matrix.T
    if centred and tall is not matrix:
        # rank(H - 1 mᵀ) for wide H: differences from the first row span the same space, and are exact modulo p
        return max(_rank_mod(_differences(matrix, p), p, seed) for p in PRIMES)
    sketch.update(tall)
    return sketch.rank(centred=centred)


class ExactSketch:
    """Random sums of rows modulo two primes, streamed: (d + 16) × (d + 1) integers a prime.

    Args:
        n_features: Columns d.
        seed: Of the random multipliers.
    """

    def __init__(self, n_features: int, *, seed: int = 0) -> None:
        self.n_features = n_features
        self._merged = 0
        self._generator = np.random.default_rng([seed, n_features])
        self._sums = [np.zeros((n_features + _SPARE, n_features + 1), dtype=np.int64) for _ in PRIMES]

    def update(self, rows: NDArray[np.floating]) -> None:
        """Take rows, shape (n, d), finite.

        Raises:
            SpectrumError: If a value is not finite.
        """
        if not np.isfinite(rows).all():
            raise SpectrumError("an exact rank needs finite values")
        buckets = self.n_features + _SPARE
        for start in range(0, len(rows), 4 * buckets):
            part = np.concatenate(
                [np.ones((len(rows[start : start + 4 * buckets]), 1)), rows[start : start + 4 * buckets]], 1
            )
            for sums, p in zip(self._sums, PRIMES, strict=True):
                residues = _residues(part, p)
                weights = self._generator.integers(1, p, (buckets, len(part)))
                sums += _product_mod(weights, residues, p)
                sums %= p

    def merge(self, other: ExactSketch) -> None:
        """Take the sums of another sketch, which is left as it was.

        They are mixed at random first: two sketches of one seed have the same multipliers, and their plain sum would be
        a sketch of the sum of their rows.

        Raises:
            ShapeError: If the numbers of columns differ.
        """
        if other.n_features != self.n_features:
            raise ShapeError(f"cannot merge {other.n_features} columns into {self.n_features}")
        self._merged += 1
        generator = np.random.default_rng([self.n_features, self._merged, _SPARE])
        for mine, its, p in zip(self._sums, other._sums, PRIMES, strict=True):
            mine += _product_mod(generator.integers(1, p, (len(its), len(its))), its, p)
            mine %= p

    def rank(self, *, centred: bool = False) -> int:
        """Rank of all rows so far; the larger of the two primes' answers, for either is a lower bound."""
        if centred:
            return max(max(_eliminate(s.copy(), p) - 1, 0) for s, p in zip(self._sums, PRIMES, strict=True))
        return max(_eliminate(s[:, 1:].copy(), p) for s, p in zip(self._sums, PRIMES, strict=True))


def _residues(values: NDArray[np.floating], p: int) -> NDArray[np.int64]:
    """Each float modulo p: integer mantissa times a power of two, whose inverse exists because p is odd."""
    mantissa, exponent = np.frexp(np.asarray(values, dtype=np.float64))
    whole = (mantissa * 2.0**53).astype(np.int64) % p
    table = np.array([pow(2, int(e) - 53, p) for e in range(-1100, 1100)], dtype=np.int64)
    return np.asarray(whole * table[exponent.astype(np.int64) + 1100] % p)


def _product_mod(a: NDArray[np.int64], b: NDArray[np.int64], p: int) -> NDArray[np.int64]:
    """A @ b modulo p, through float64 matrix products that stay exact: 11-bit halves of a, sums below 2**53."""
    low, high = (a & 2047).astype(np.float64), (a >> 11).astype(np.float64)
    right = b.astype(np.float64)
    total = np.zeros((a.shape[0], b.shape[1]), dtype=np.int64)
    for start in range(0, a.shape[1], _TERMS):
        stop = start + _TERMS
        upper = (high[:, start:stop] @ right[start:stop]).astype(np.int64) % p
        lower = (low[:, start:stop] @ right[start:stop]).astype(np.int64) % p
        total = (total + (upper << 11) + lower) % p
    return total


def _differences(matrix: NDArray[np.floating], p: int) -> NDArray[np.int64]:
    """Rows less the first row, modulo p."""
    residues = _residues(matrix, p)
    return np.asarray((residues[1:] - residues[0]) % p)


def _rank_mod(residues: NDArray[np.int64], p: int, seed: int) -> int:
    """Rank modulo p of a wide matrix, its columns first folded into n + 16 random sums."""
    n, d = residues.shape
    if n == 0:
        return 0
    weights = np.random.default_rng([seed, d, p]).integers(1, p, (n + _SPARE, d))
    return _eliminate(_product_mod(weights, np.ascontiguousarray(residues.T), p), p)


def _eliminate(matrix: NDArray[np.int64], p: int) -> int:
    """Rank modulo p by Gaussian elimination; the matrix is overwritten."""
    rank = 0
    for column in range(matrix.shape[1]):
        pivots = np.flatnonzero(matrix[rank:, column])
        if len(pivots) == 0:
            continue
        pivot = rank + int(pivots[0])
        matrix[[rank, pivot]] = matrix[[pivot, rank]]
        matrix[rank] = matrix[rank] * pow(int(matrix[rank, column]), -1, p) % p
        below = matrix[rank + 1 :]
        below -= np.outer(below[:, column], matrix[rank]) % p
        below %= p
        rank += 1
        if rank == len(matrix):
            break
    return rank
