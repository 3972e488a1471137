"""Exact ranks, against constructions and rational arithmetic."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepprobe.errors import SpectrumError
from deepprobe.linalg.certificate import PRIMES, ExactSketch, exact_rank

CASES = {
    "full": (lambda x: x, 12, 12),
    "dead": (lambda x: _set(x, 3, 0 * x[:, 3]), 11, 11),
    "duplicate": (lambda x: _set(x, 3, x[:, 5]), 11, 11),
    "-4 times": (lambda x: _set(x, 3, -4 * x[:, 5]), 11, 11),
    "constant": (lambda x: _set(x, 3, np.ones_like(x[:, 3])), 12, 11),
    "rounded 0.3 times": (lambda x: _set(x, 3, (x[:, 5].astype(np.float64) * 0.3).astype(x.dtype)), 12, 12),
    "scales": (lambda x: _scaled(x), 12, 12),
}


def _set(x: np.ndarray, column: int, values: np.ndarray) -> np.ndarray:
    x = x.copy()
    x[:, column] = values
    return x


def _scaled(x: np.ndarray) -> np.ndarray:
    return (x * 10.0 ** np.linspace(-4, 4, x.shape[1])).astype(x.dtype)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("seed", range(3))
def test_exact_rank(case: str, dtype: type, seed: int) -> None:
    build, raw, centred = CASES[case]
    matrix = build(np.random.default_rng(seed).standard_normal((300, 12)).astype(dtype))
    assert exact_rank(matrix) == raw
    assert exact_rank(matrix, centred=True) == centred
    wide = np.ascontiguousarray(matrix.T)
    assert exact_rank(wide) == raw


def test_subnormals_and_extremes() -> None:
    rng = np.random.default_rng(0)
    assert exact_rank(rng.integers(1, 9, (40, 4)) * 5e-324) == 4
    assert exact_rank(rng.standard_normal((40, 4)) * np.array([1e300, 1e-300, 1.0, 1e-320])) == 4


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 2**31))
def test_against_rational_elimination(n: int, d: int, seed: int) -> None:
    matrix = np.random.default_rng(seed).integers(-2, 3, (n, d)).astype(np.float64) / 8
    assert exact_rank(matrix) == _rational_rank(matrix)
    centred = [
        [Fraction(v) - sum(map(Fraction, col)) / n for v, col in zip(row, matrix.T, strict=True)] for row in matrix
    ]
    assert exact_rank(matrix, centred=True) == _rational_rank(centred)


def _rational_rank(rows) -> int:
    rows = [[Fraction(v) for v in row] for row in rows]
    rank = 0
    for column in range(len(rows[0])):
        pivot = next((i for i in range(rank, len(rows)) if rows[i][column]), None)
        if pivot is None:
            continue
        rows[rank], rows[pivot] = rows[pivot], rows[rank]
        for i in range(rank + 1, len(rows)):
            factor = rows[i][column] / rows[rank][column]
            rows[i] = [a - factor * b for a, b in zip(rows[i], rows[rank], strict=True)]
        rank += 1
    return rank


def test_streaming_equals_whole() -> None:
    rows = np.random.default_rng(0).standard_normal((500, 20)).astype(np.float32)
    rows[:, 4] = rows[:, 7] * 2
    sketch = ExactSketch(20)
    for part in np.array_split(rows, 9):
        sketch.update(part)
    assert sketch.rank() == 19
    assert sketch.rank(centred=True) == 19


def test_primes_are_prime_and_small() -> None:
    for p in PRIMES:
        assert p < 2**22
        assert all(p % i for i in range(2, 2049))


def test_nonfinite_is_refused() -> None:
    with pytest.raises(SpectrumError, match="an exact rank needs finite values"):
        exact_rank(np.array([[1.0, np.nan]]))
