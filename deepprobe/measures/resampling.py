"""How far κ hangs on the choice of samples, and what it would be if units had nothing in common.

Both are of κ over live units (dead, duplicate and, centred, constant ones taken out): one dead unit makes the plain one
infinite whatever the samples. Which units are live is decided once, on all rows.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from deepprobe.linalg.decompose import singular_values
from deepprobe.measures.conditioning import live_units
from deepprobe.records.spectrum import ratio

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from deepprobe.linalg.factor import Factor
    from deepprobe.records.spectrum import Spectrum


def jackknife_standard_error(left_out: Sequence[float]) -> float:
    """Standard error of a statistic from its values without each of g groups, ``√((g - 1) / g · Σ (θ_i - mean)²)``.

    Efron & Stein (1981), with groups of about one size in place of single observations.

    Args:
        left_out: The statistic without each group in turn.

    Returns:
        In the unit of the statistic; NaN of fewer than two groups, or where a value is not finite.

    Example:
        >>> jackknife_standard_error([1.0, 3.0])
        1.0
    """
    values = np.asarray(left_out, dtype=np.float64)
    g = len(values)
    if g < 2 or not np.isfinite(values).all():
        return float("nan")
    return float(np.sqrt((g - 1) / g * np.sum((values - values.mean()) ** 2)))


def with_standard_error(found: Spectrum, factor: Factor, left_out: Iterable[Factor]) -> Spectrum:
    """The spectrum, and the centred one in it, with the standard error of log10 κ over live units, in dex.

    Args:
        found: Spectrum of all rows.
        factor: Of all rows.
        left_out: Of all rows but one group's, for each group; not asked for where κ is not finite anyway.

    Returns:
        ``found`` with ``condition_number_se``: NaN where κ, of all rows or without some group, is not finite.
    """
    if not any(np.isfinite(s.condition_number_live) for s in _both(found)):
        return found
    kappas = np.array([[_live_kappa(s, factor, other) for s in _both(found)] for other in left_out])
    logs = np.log10(kappas.reshape(-1, len(_both(found))))
    return _replaced(found, "condition_number_se", [jackknife_standard_error(column) for column in logs.T])


def with_shuffled(found: Spectrum, factor: Factor, shuffled: Factor) -> Spectrum:
    """The spectrum, and the centred one in it, with κ of shuffled rows over the same live units.

    Args:
        found: Spectrum of the rows as they are.
        factor: Of the rows as they are.
        shuffled: Of rows in which every unit's maps were permuted over the samples on their own.

    Returns:
        ``found`` with ``condition_number_shuffled``: inf where singular at precision, NaN of fewer rows than live units
        or where the layer itself has no κ over live units.
    """
    kappas = [_live_kappa(s, factor, shuffled) if s.condition_number_live > 0 else np.nan for s in _both(found)]
    return _replaced(found, "condition_number_shuffled", kappas)


def _both(found: Spectrum) -> list[Spectrum]:
    """The raw and, if there is one, the centred spectrum."""
    return [found] if found.centred is None else [found, found.centred]


def _replaced(found: Spectrum, name: str, values: Sequence[float]) -> Spectrum:
    """The spectrum with one field set, in the raw and in the centred one."""
    new = [replace(s, **{name: value}) for s, value in zip(_both(found), values, strict=True)]  # type: ignore[arg-type]
    return replace(new[0], centred=new[1]) if len(new) > 1 else new[0]


def _live_kappa(found: Spectrum, factor: Factor, other: Factor) -> float:
    """κ of other rows over the units that are live in all rows; NaN of no such unit, or of fewer rows than those."""
    live = live_units(factor, is_centred=found.is_centred)
    count = int(live.sum())
    if other.by_rows or factor.by_rows or not 0 < count <= other.n_rows - found.is_centred:
        return float("nan")
    matrix = other.centred if found.is_centred else other.raw
    return ratio(singular_values(matrix[:, live], count), found.uncertainty)
