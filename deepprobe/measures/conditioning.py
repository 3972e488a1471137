"""From an accumulated factor to the spectrum of a layer: its values, what makes it singular, κ over live units."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from deepprobe.linalg.decompose import singular_values
from deepprobe.linalg.matricize import ROW_VIEWS
from deepprobe.linalg.null import gaussian_condition_number
from deepprobe.records.spectrum import Spectrum, Units, ratio

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from deepprobe.linalg.factor import Factor
    from deepprobe.records.layer import LayerCall


@dataclass(frozen=True)
class Subject:
    """What a factor is the factor of.

    Attributes:
        dtype: Name of the activations' dtype.
        view: How the tensor became rows.
        call: Which tensor, if it came from a layer.
        rank_limit: Largest rank that the layer's own shape allows (a 1×1 convolution from 16 channels: 16), if known.
        offset: Whether a bias may add one to the rank of the uncentred matrix.
        units: Counts over all rows, where they were counted.
        floor: Measured ‖H_32 - H_64‖_2, or NaN.
        exact_ranks: Exact ranks of the stored matrix, raw and centred, where they were asked for.
    """

    dtype: str = "float64"
    view: str = "channels"
    call: LayerCall | None = None
    rank_limit: int | None = None
    offset: bool = False
    units: Units | None = None
    floor: float = float("nan")
    exact_ranks: tuple[int, int] | None = None


def spectrum(factor: Factor, subject: Subject | None = None, *, with_centred: bool = True) -> Spectrum:
    """Spectrum of an accumulated matrix, raw, with the centred one inside.

    Args:
        factor: From any accumulator.
        subject: What it is the factor of; by default a float64 matrix in the ``channels`` view.
        with_centred: Whether the centred one is wanted; of weights, whose rows are no samples, it says nothing.

    Returns:
        The raw matrix's spectrum; ``.centred`` is that of the matrix less its column means, or None.
    """
    subject = subject or Subject()
    centred = _one_spectrum(factor, subject, is_centred=True, centred=None) if with_centred else None
    return _one_spectrum(factor, subject, is_centred=False, centred=centred)


def _one_spectrum(factor: Factor, subject: Subject, *, is_centred: bool, centred: Spectrum | None) -> Spectrum:
    """The raw or the centred spectrum."""
    n = max(factor.n_rows - is_centred, 0)
    d = factor.n_features
    matrix = factor.centred if is_centred else factor.raw
    values = singular_values(matrix, min(n, d)) if n else np.zeros(0)
    values = _snapped(values, factor, n, is_centred=is_centred)
    limit = d if subject.rank_limit is None else subject.rank_limit + (subject.offset and not is_centred)
    bound = min(n, d, limit)
    over_values = subject.view in ROW_VIEWS
    reasons = _reasons(factor, subject, n, bound, is_centred=is_centred, over_values=over_values)
    found = Spectrum(
        singular_values=values,
        n_rows=factor.n_rows,
        n_features=d,
        dtype=subject.dtype,
        frobenius=factor.frobenius,
        call=subject.call,
        view=subject.view,
        rank_bound=bound,
        reasons=reasons,
        units=subject.units or counted(factor),
        over_values=over_values,
        sketched=factor.distortion > 0,
        sketch_distortion=factor.distortion,
        resolution=factor.resolution,
        floor=subject.floor,
        is_centred=is_centred,
        centred=centred,
        certificate=None if subject.exact_ranks is None else subject.exact_ranks[is_centred],
        condition_number_null=gaussian_condition_number(n, d),
    )
    return _with_live(found, factor, matrix, n)


def _with_live(found: Spectrum, factor: Factor, matrix: NDArray[np.float64], n: int) -> Spectrum:
    """Add κ over live units, as they are and scaled to unit norm."""
    if found.status in {"nonfinite", "empty", "zero"}:
        return found
    if factor.by_rows:  # n < d, and units cannot be taken out: no dead or duplicate one can make rows alike
        over_rows = ratio(found.singular_values, found.uncertainty)
        return replace(found, condition_number_live=over_rows if found.over_values else float("nan"))
    live = live_units(factor, is_centred=found.is_centred)
    if n < live.sum() and not found.over_values:
        return found  # singular however many units are taken out: left NaN
    values = found.singular_values
    if not live.all():
        values = singular_values(matrix[:, live], min(n, int(live.sum())))
    norms = _column_norms(matrix[:, live])
    scaled = singular_values(matrix[:, live] / norms, len(values))
    blown = found.delta / found.frobenius * np.linalg.norm(_column_norms(factor.raw[:, live]) / norms)
    return replace(
        found,
        condition_number_live=ratio(values, found.uncertainty),
        condition_number_scaled=ratio(scaled, max(blown, found.floor / norms.min(initial=np.inf))),
    )


def _column_norms(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """Norm of each column, shape (d,), without overflow; 1 for zero columns, so that one can divide by it."""
    largest = np.abs(matrix).max(axis=0, initial=0.0)
    largest = np.where(largest > 0, largest, 1.0)
    norms = largest * np.linalg.norm(matrix / largest, axis=0)
    return np.asarray(np.where(norms > 0, norms, 1.0))


def live_units(factor: Factor, *, is_centred: bool) -> NDArray[np.bool_]:
    """Units that alone do not make a matrix singular, shape (d,): not dead (centred: constant), not a duplicate."""
    return np.asarray(~((factor.constant if is_centred else factor.dead) | factor.duplicate))


def _snapped(values: NDArray[np.float64], factor: Factor, n: int, *, is_centred: bool) -> NDArray[np.float64]:
    """Values that are zero for certain set to zero, in place of the rounding that a computed zero leaves."""
    if factor.by_rows:
        certain = factor.twin_rows_centred if is_centred else factor.twin_rows
    else:
        idle = factor.constant if is_centred else factor.dead
        certain = int((idle | factor.duplicate).sum()) - max(factor.n_features - n, 0)
    if certain > 0 and len(values):
        values = values.copy()
        values[max(len(values) - certain, 0) :] = 0.0
    return values


def _reasons(
    factor: Factor, subject: Subject, n: int, bound: int, *, is_centred: bool, over_values: bool
) -> tuple[str, ...]:
    """Certain causes of singularity, in words."""
    d = factor.n_features
    reasons = []
    if n < d and not over_values:
        reasons.append(f"n < d: {factor.n_rows} rows{' less their mean' if is_centred else ''}, {d} units")
    if n >= d:
        reasons += _unit_reasons(factor, subject, is_centred=is_centred)
    elif twins := (factor.twin_rows_centred if is_centred else factor.twin_rows):
        reasons.append(f"{twins} samples alike{'' if is_centred else ' or zero'}")
    if bound < min(n, d):
        reasons.append(f"rank bound: {bound} of {d} by the layer's shape")
    if subject.exact_ranks is not None and subject.exact_ranks[is_centred] < min(n, d) and not reasons:
        reasons.append(f"exact rank {subject.exact_ranks[is_centred]} of {min(n, d)}, proven modulo two primes")
    return tuple(reasons)


def _unit_reasons(factor: Factor, subject: Subject, *, is_centred: bool) -> list[str]:
    """Units that make a matrix singular for certain."""
    n_dead, n_constant = int(factor.dead.sum()), int(factor.constant.sum())
    n_duplicate = int(factor.duplicate.sum())
    seen = (
        ""
        if subject.units is None or subject.units.n_dead == n_dead
        else f" in the rows used ({subject.units.n_dead} in all)"
    )
    reasons = []
    if n_dead:
        reasons.append(f"{n_dead} dead {_units(n_dead)}{seen}")
    if is_centred and n_constant > n_dead:
        reasons.append(f"{n_constant - n_dead} constant {_units(n_constant - n_dead)}")
    if n_duplicate:
        reasons.append(f"{n_duplicate} duplicate {_units(n_duplicate)}")
    return reasons


def _units(count: int) -> str:
    return "unit" if count == 1 else "units"


def counted(factor: Factor) -> Units:
    """Counts that the factor itself gives, over the rows it took."""
    return Units(
        n_dead=int(factor.dead.sum()), n_constant=int(factor.constant.sum()), n_duplicate=int(factor.duplicate.sum())
    )
