"""What a layer call's rows came to: on the host, merged with its like from other processes, and its spectrum."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Protocol

import numpy as np

from deepprobe.errors import ShapeError, SpectrumError
from deepprobe.linalg.certificate import ExactSketch
from deepprobe.linalg.gram import GramAccumulator
from deepprobe.linalg.groups import Groups, Mergeable
from deepprobe.linalg.matricize import ROW_VIEWS
from deepprobe.linalg.rows import WIDEST_TRIANGLE, Rows
from deepprobe.linalg.whitened import WhitenedGram
from deepprobe.measures.conditioning import Subject, counted, spectrum
from deepprobe.measures.resampling import with_shuffled, with_standard_error
from deepprobe.measures.units import UnitCounter
from deepprobe.probes.reading import coarser_name

if TYPE_CHECKING:
    from deepprobe.linalg.factor import Factor
    from deepprobe.probes.reading import Reading
    from deepprobe.records.layer import LayerCall
    from deepprobe.records.spectrum import Spectrum, Units

MOST_CERTIFIED = 1024
"""Units up to which exact ranks are gathered."""

MOST_GROUPED = 1024
"""Units up to which rows are kept in groups: sixteen triangles of 8 MB each, and no wide rows to merge."""


class Gathered(Protocol):
    """What one layer call gathered; can be pickled."""

    def merge(self, other: Gathered) -> None:
        """Take what another process gathered of the same layer call."""

    def spectrum(self, *, floor_a_row: float) -> Spectrum:
        """Spectrum of all rows so far; the floor of n rows is √n times that of one."""


def new_accumulator(reading: Reading, n_features: int) -> Mergeable:
    """An empty accumulator for the rows of one matrix."""
    if reading.method in {"gram", "whitened"}:
        kind = GramAccumulator if reading.method == "gram" else WhitenedGram
        counts = not reading.count_units and not is_grouped(reading, n_features)
        return kind(n_features, count_nonfinite=counts)
    return Rows(n_features, by_rows=reading.view in ROW_VIEWS)


def is_grouped(reading: Reading, n_features: int) -> bool:
    """Whether rows are kept in groups."""
    return bool(reading.error_groups) and n_features <= MOST_GROUPED


class GatheredRows:
    """Accumulators, counts and sums of one matrix.

    Args:
        call: Which tensor.
        reading: How it was read, with its method settled.
        n_features: Units d.
        limit: Largest rank that the layer's shape allows, and whether a bias may add one.

    Attributes:
        rows: Of the rows used.
        shuffled: Of the same maps, permuted over samples, where that was asked for.
        counter: Counts of units over all rows; of values that are not finite in any case.
        exact: Sums for exact ranks, where they were asked for.
        dtype: Name of the coarsest dtype met.
    """

    def __init__(self, call: LayerCall, reading: Reading, *, n_features: int, limit: tuple[int | None, bool]) -> None:
        self.call, self.reading, self.n_features, self.limit = call, reading, n_features, limit
        new = partial(new_accumulator, reading, n_features)
        self.rows: Mergeable = Groups(reading.error_groups, new) if is_grouped(reading, n_features) else new()
        self.shuffled = new() if reading.shuffled_null and n_features <= WIDEST_TRIANGLE else None
        self.counter = UnitCounter(n_features)
        self.exact = ExactSketch(n_features) if reading.certify and n_features <= MOST_CERTIFIED else None
        self.dtype = ""

    def check_width(self, n_features: int) -> None:
        """ShapeError where a tensor has another number of units than those before it."""
        if n_features != self.n_features:
            raise ShapeError(
                f"layer {self.call.key!r} had {self.n_features} units and now has {n_features} in the view"
                f" {self.reading.view!r}: tensors of one size are needed, or another view"
            )

    def merge(self, other: Gathered) -> None:
        """Take what another process gathered of the same layer call; its rows follow on those here.

        Raises:
            ShapeError: If it has another number of units, or was gathered by another method.
        """
        if not isinstance(other, GatheredRows) or other.reading != self.reading:
            raise ShapeError(f"layer {self.call.key!r} was read differently in two processes: they cannot be merged")
        self.check_width(other.n_features)
        self.dtype = coarser_name(self.dtype, other.dtype)
        self.rows.merge(other.rows)
        self.counter.merge(other.counter)
        if self.shuffled is not None:
            self.shuffled.merge(other.shuffled)
        if self.exact is not None and other.exact is not None:
            self.exact.merge(other.exact)

    def spectrum(self, *, floor_a_row: float = float("nan")) -> Spectrum:
        """Spectrum of all rows so far.

        Raises:
            SpectrumError: If rows were left out of a Gram matrix because their sums overflowed.
        """
        self._check_left_out()
        factor = self.rows.result()
        subject = Subject(
            dtype=self.dtype,
            view=self.reading.view,
            call=self.call,
            rank_limit=self.limit[0],
            offset=self.limit[1],
            units=self._units(factor),
            floor=floor_a_row * float(np.sqrt(factor.n_rows)),
        )
        found = spectrum(factor, subject)
        doubtful = {found.status, found.centred.status if found.centred else ""}
        if self.exact is not None and "singular-at-precision" in doubtful:
            ranks = (self.exact.rank(), self.exact.rank(centred=True))
            found = spectrum(factor, replace(subject, exact_ranks=ranks))
        if isinstance(self.rows, Groups):
            found = with_standard_error(found, factor, self.rows.left_out())
        return found if self.shuffled is None else with_shuffled(found, factor, self.shuffled.result())

    def _check_left_out(self) -> None:
        """SpectrumError where a portion was left out although every value in it is finite."""
        if (
            isinstance(self.rows, GramAccumulator | WhitenedGram)
            and self.rows.notes[0]
            and not self.counter.n_nonfinite
        ):
            raise SpectrumError(f"layer {self.call.key!r}: sums of its values overflow; say method='qr'")

    def _units(self, factor: Factor) -> Units:
        """Counts over all rows, or over the rows used where all were not counted."""
        units = counted(factor)
        if self.reading.count_units:
            return self.counter.result(n_duplicate=units.n_duplicate)
        bad, first = self.counter.n_nonfinite, self.counter.first_nonfinite
        return replace(units, n_nonfinite=bad, first_nonfinite=first)
