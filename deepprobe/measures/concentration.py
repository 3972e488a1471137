"""How unevenly a quantity is spread over the units of a layer: Lorenz curve, Gini coefficient, share of the largest."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from deepprobe.errors import ConfigError, ShapeError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


def lorenz_curve(values: ArrayLike) -> NDArray[np.float64]:
    """Share of the total that the smallest 0, 1, …, d units hold: from 0 to 1, convex (Lorenz 1905).

    Args:
        values: Of each unit, not negative, shape (d,).

    Returns:
        Shape (d + 1,), float64; all NaN where the total is zero or a value is not finite.

    Raises:
        ShapeError: If there is no value, or they are not a vector.
        ConfigError: If a value is negative.

    Example:
        >>> lorenz_curve([3.0, 1.0]).tolist()
        [0.0, 0.25, 1.0]
    """
    given = np.asarray(values, dtype=np.float64)
    if given.ndim != 1 or not given.size:
        raise ShapeError(f"a Lorenz curve is of a vector of at least one value, not of shape {given.shape}")
    if (given < 0).any():
        raise ConfigError(f"a Lorenz curve is of values that are not negative; the least is {given.min():g}")
    largest = given.max()
    if not np.isfinite(largest) or largest == 0:
        return np.full(given.size + 1, np.nan)
    sums = np.concatenate([[0.0], np.cumsum(np.sort(given / largest))])  # scaled: a sum of large values may overflow
    return np.asarray(sums / sums[-1])


def gini(values: ArrayLike) -> float:
    """Gini coefficient: 0 where all units hold the same, (d − 1)/d where one unit holds all.

    ``G = Σ_i (2i − d − 1) x_(i) / (d Σ x)``, x_(1) ≤ … ≤ x_(d), which is the mean absolute difference of two units over
    twice their mean (Gini 1912); of the measures of sparsity the one with all six properties one would want (Hurley &
    Rickard 2009). Unchanged by scaling and by repeating all units.

    Args:
        values: Of each unit, not negative, shape (d,).

    Returns:
        Dimensionless; NaN where the total is zero or a value is not finite.

    Raises:
        ShapeError: If there is no value, or they are not a vector.
        ConfigError: If a value is negative.

    Example:
        >>> gini([0.0, 0.0, 0.0, 1.0])
        0.75
    """
    curve = lorenz_curve(values)
    d = len(curve) - 1
    ranks = 2 * np.arange(1, d + 1) - d - 1
    return float(ranks @ np.diff(curve) / d)


def top_share(values: ArrayLike, fraction: float) -> float:
    """Share of the total that the largest units hold, so many that they are ``fraction`` of all.

    ``1 − L(1 − fraction)`` with the Lorenz curve L drawn straight between its points: where a fraction is not a whole
    number of units, a part of a unit holds that part of its value.

    Args:
        values: Of each unit, not negative, shape (d,).
        fraction: Between 0 and 1.

    Returns:
        Between ``fraction`` and 1; NaN where the total is zero or a value is not finite.

    Raises:
        ShapeError: If there is no value, or they are not a vector.
        ConfigError: If a value is negative, or ``fraction`` is not between 0 and 1.

    Example:
        >>> top_share([1.0, 1.0, 1.0, 5.0], 0.25)
        0.625
    """
    if not 0 <= fraction <= 1:
        raise ConfigError(f"fraction={fraction!r} is not between 0 and 1")
    curve = lorenz_curve(values)
    return float(1 - np.interp(1 - fraction, np.linspace(0, 1, len(curve)), curve))
