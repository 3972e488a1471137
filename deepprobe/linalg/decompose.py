"""Singular values of a small factor, right to the last bits even where columns differ by thirty orders of magnitude."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import scipy.linalg

from deepprobe.errors import SpectrumError

if TYPE_CHECKING:
    from numpy.typing import NDArray


def singular_values(matrix: NDArray[np.float64], count: int | None = None) -> NDArray[np.float64]:
    """Singular values of a matrix, descending, by column-pivoted QR followed by an SVD of the triangle.

    The pivoting orders the scales; without it the small values of a matrix whose columns have scales 1 … 1e-30 are
    wrong by factors of 1e2 to 1e5, with it they are right to about 1e-15, and zero columns give exact zeros (Drmač &
    Veselić 2008 explain why; Businger & Golub 1965 is the factorisation).

    Args:
        matrix: Shape (m, d), finite, any real dtype; computed in float64.
        count: How many values to keep, at most min(m, d); all by default.

    Returns:
        Shape (count,), float64, descending.

    Raises:
        SpectrumError: If a value is not finite: activations beyond about 1e307 overflow on the way here.
    """
    wide = matrix.shape[0] < matrix.shape[1]
    tall: NDArray[np.float64] = np.asarray(matrix.T if wide else matrix, dtype=np.float64)
    count = min(matrix.shape) if count is None else count
    if count == 0:
        return np.zeros(0)
    if not np.isfinite(tall).all():
        raise SpectrumError("values overflow float64 on the way to a spectrum: scale the matrix down")
    (triangle, _) = scipy.linalg.qr(tall, mode="r", pivoting=True, check_finite=False)
    triangle = triangle[: tall.shape[1]]
    try:
        values = scipy.linalg.svdvals(triangle, check_finite=False)
    except scipy.linalg.LinAlgError:  # divide and conquer gave up; the slower QR iteration does not
        values = scipy.linalg.svd(triangle, compute_uv=False, check_finite=False, lapack_driver="gesvd")
    return np.asarray(values[:count], dtype=np.float64)


def without_common_direction(factor: NDArray[np.float64]) -> NDArray[np.float64]:
    """``factor`` (m, n) times an orthonormal basis (n, n - 1) of what is orthogonal to the vector of ones.

    Turns the factor of a matrix with samples as columns into that of the matrix with its mean sample taken out, and
    drops the one direction that centring removes. A Householder reflection, hence backward stable.
    """
    n = factor.shape[1]
    v = np.full(n, 1 / np.sqrt(n))
    v[0] += 1.0
    reflected = factor - np.outer(factor @ v, v * (2 / (v @ v)))
    return np.asarray(reflected[:, 1:])
