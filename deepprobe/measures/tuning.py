"""How selective a unit is: for classes, and among all inputs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

SATURATED_SHARE = 0.95
"""A unit is saturated where at least this share of its values lies in the flat part of its non-linearity."""


def class_selectivity(class_means: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Selectivity index of each unit, and the class that it prefers.

    ``(µ_max − µ_−max) / (µ_max + µ_−max)`` with µ_max the highest class-conditional mean activity and µ_−max the mean
    of the other classes' (Morcos et al. 2018, "On the importance of single directions for generalization", section
    2.3). Between 0, equal for all classes, and 1, active for one class only.

    Args:
        class_means: Mean activity of each unit over the rows of each class, shape (classes, d). Classes with NaN, which
            had no rows, are left out.

    Returns:
        Index and preferred class, both float64, (d,). NaN with fewer than two classes, where a class mean is negative
        (the index is one of rates) and where all are zero.

    Example:
        >>> index, preferred = class_selectivity(np.array([[3.0, 0.0], [1.0, 0.0]]))
        >>> index.tolist(), preferred.tolist()
        ([0.5, nan], [0.0, nan])
    """
    known = ~np.isnan(class_means)
    counted = known.sum(0)
    means = np.where(known, class_means, -np.inf)
    usable = (counted > 1) & np.all(~known | (class_means >= 0), axis=0)
    if len(class_means) < 2:
        return np.full(class_means.shape[1], np.nan), np.full(class_means.shape[1], np.nan)
    highest = means.max(0)
    with np.errstate(divide="ignore", invalid="ignore"):
        others = (np.where(known, class_means, 0.0).sum(0) - highest) / (counted - 1)
        index = np.where(usable, (highest - others) / (highest + others), np.nan)
    return index, np.where(np.isnan(index), np.nan, means.argmax(0))


def class_variance_share(
    class_means: NDArray[np.float64], class_rows: NDArray[np.float64], variance: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Share η² of each unit's variance that lies between the classes (the correlation ratio; Fisher 1925).

    ``η² = Σ_c n_c (µ_c − µ)² / Σ (x − µ)²``, for activations of any sign. With maps the positions' own variance is part
    of the denominator.

    Args:
        class_means: Shape (classes, d); NaN of a class without rows.
        class_rows: Rows of each class, shape (classes, d).
        variance: Variance over all rows, shape (d,).

    Returns:
        Between 0 and 1, shape (d,). NaN with fewer than two classes and of a constant unit.
    """
    rows = class_rows.sum(0)
    means = np.where(class_rows > 0, class_means, 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = (class_rows * means).sum(0) / rows
        share = (class_rows * (means - mean) ** 2).sum(0) / (rows * variance)
    return np.where((np.count_nonzero(class_rows, axis=0) > 1) & (variance > 0), np.minimum(share, 1.0), np.nan)


def lifetime_sparseness(
    mean: NDArray[np.float64], variance: NDArray[np.float64], rows: NDArray[np.float64], least: NDArray[np.float64]
) -> NDArray[np.float64]:
    """How few of the rows hold a unit's activity: ``(1 − (Σr/n)² / (Σr²/n)) / (1 − 1/n)``.

    Vinje & Gallant (2000), after Rolls & Tovee (1995). 0 where the unit answers all rows alike, 1 where only one.

    Args:
        mean: Over rows, shape (d,).
        variance: Over rows, shape (d,).
        rows: Rows n, shape (d,).
        least: Smallest value, shape (d,).

    Returns:
        Shape (d,). NaN of a unit that is dead, is negative somewhere, or was seen in fewer than two rows.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        sparseness = variance / (variance + mean**2) / (1 - 1 / rows)
    return np.where((least >= 0) & (rows > 1), sparseness, np.nan)
