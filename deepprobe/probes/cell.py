"""What one layer call gathers: an accumulator, counts of its units, and the way to its spectrum."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch

from deepprobe.errors import ShapeError
from deepprobe.linalg.certificate import ExactSketch
from deepprobe.linalg.factor import Factor
from deepprobe.linalg.gram import GramAccumulator
from deepprobe.linalg.groups import Groups, Mergeable
from deepprobe.linalg.matricize import ROW_VIEWS, blocks, random_positions, shuffled_samples, unfoldings
from deepprobe.linalg.rows import WIDEST_TRIANGLE, Rows
from deepprobe.measures.conditioning import Subject, counted, spectrum
from deepprobe.measures.resampling import with_shuffled, with_standard_error
from deepprobe.measures.units import UnitCounter
from deepprobe.probes.waiting import WaitingRows
from deepprobe.records.spectrum import ARITHMETIC_ROUNDOFF, UNIT_ROUNDOFF, Spectrum, Units
from deepprobe.seeding import derive_seed

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from deepprobe.records.layer import LayerCall

MOST_CERTIFIED = 1024
"""Units up to which exact ranks are gathered."""

MOST_GROUPED = 1024
"""Units up to which rows are kept in groups: sixteen triangles of 8 MB each, and no wide rows to merge."""

MOST_UNFOLDED = 128
"""Samples whose unfoldings the ``hosvd`` views decompose; the median over them hardly moves beyond."""


@dataclass(frozen=True)
class Reading:
    """How layers are read.

    Attributes:
        view: How a tensor becomes rows.
        positions: Random positions a sample, or None for all.
        method: ``qr`` (float64, accurate to κ = 1e14) or ``gram`` (float64, on the model's device, blind below 4e-8).
        count_units: Whether dead, constant and rare units are counted over all rows.
        certify: Whether exact ranks are gathered for layers that come out singular at precision.
        error_groups: Groups of samples for the standard error, or 0.
        shuffled_null: Whether rows of maps permuted over samples are gathered too.
    """

    view: str = "channels"
    positions: int | None = None
    method: str = "qr"
    count_units: bool = True
    certify: bool = False
    error_groups: int = 0
    shuffled_null: bool = False


class Cell(Protocol):
    """Gathers the tensors of one layer call over batches."""

    def update(self, tensor: Tensor, *, last: bool) -> None:
        """Take one batch's tensor; ``last`` if no more will come."""

    @property
    def is_full(self) -> bool:
        """Whether so much was put off that it should be done now."""

    def settle(self) -> None:
        """Do what was put off, once no forward pass is under way."""

    def spectrum(self, *, floor_a_row: float) -> Spectrum:
        """Spectrum of all rows so far; the floor of n rows is √n times that of one."""


def cell_for(call: LayerCall, tensor: Tensor, *, reading: Reading, limit: tuple[int | None, bool], seed: int) -> Cell:
    """The kind of cell that a view and the tensor's shape ask for."""
    if reading.view.startswith("hosvd") and tensor.ndim != 2:
        return UnfoldingCell(call, reading)
    n_features = blocks(tensor, reading.view).shape[1]
    return RowsCell(call, reading, n_features=n_features, limit=limit, seed=seed)


class RowsCell:
    """Rows of one matrix, streamed; nothing of a tensor is kept but what its triangle needs."""

    def __init__(
        self, call: LayerCall, reading: Reading, *, n_features: int, limit: tuple[int | None, bool], seed: int
    ) -> None:
        self._call, self._reading, self._limit, self._n_features = call, reading, limit, n_features
        self._generator = torch.Generator().manual_seed(seed)
        grouped = reading.error_groups and n_features <= MOST_GROUPED
        self._rows: Mergeable = Groups(reading.error_groups, self._accumulator) if grouped else self._accumulator()
        shuffled = reading.shuffled_null and n_features <= WIDEST_TRIANGLE
        self._shuffled = self._accumulator() if shuffled else None
        self._shuffler = torch.Generator().manual_seed(derive_seed(seed, "shuffled"))
        self._counter = UnitCounter(n_features)
        self._exact = ExactSketch(n_features) if reading.certify and n_features <= MOST_CERTIFIED else None
        self._dtype = ""
        self._waiting = WaitingRows()

    def update(self, tensor: Tensor, *, last: bool) -> None:
        """Take one batch's tensor."""
        self._dtype = coarser(self._dtype, tensor.dtype)
        tensor = tensor.detach().float() if tensor.dtype.itemsize == 1 else tensor.detach()  # 8 bits cannot be added
        rows = blocks(tensor, self._reading.view)
        if rows.shape[1] != self._n_features:
            raise ShapeError(
                f"layer {self._call.key!r} had {self._n_features} units and now has {rows.shape[1]} in the view"
                f" {self._reading.view!r}: tensors of one size are needed, or another view"
            )
        if self._reading.count_units:
            if not self._finite(rows):
                return
            self._counter.update(as_array(rows))
        if (
            self._shuffled is not None
            and len(rows) > 1
            and (self._reading.count_units or bool(torch.isfinite(rows).all()))
        ):
            self._accumulate_shuffled(self._shuffled, rows, last=last)
        if self._reading.positions is None:
            if self._reading.count_units or self._finite(rows):
                self._accumulate(self._portion(rows), last=last)
            return
        drawn = random_positions(rows, self._reading.positions, self._generator)
        if not (self._reading.count_units or self._finite(drawn)):
            return
        if self._reading.method == "gram":
            self._accumulate(drawn, last=last)
            return
        array = as_array(drawn)
        if not self._waiting.fits(array):
            self.settle()
        self._waiting.add(array)

    @property
    def is_full(self) -> bool:
        """Whether enough drawn rows wait to be folded in."""
        return self._waiting.is_full

    def settle(self) -> None:
        """Fold in the rows that wait: together, and between forward passes, which it would hold up."""
        waiting = self._waiting.take()
        if len(waiting):
            self._accumulate(waiting, last=False)

    def _accumulator(self) -> Mergeable:
        """One accumulator, empty."""
        if self._reading.method == "gram":
            return GramAccumulator(self._n_features)
        return Rows(self._n_features, by_rows=self._reading.view in ROW_VIEWS)

    def _accumulate(self, rows: NDArray[np.floating] | Tensor, *, last: bool) -> None:
        """Hand finite rows to the accumulator."""
        if self._exact is not None:
            array = as_array(rows) if isinstance(rows, torch.Tensor) else rows
            self._exact.update(array.transpose(0, 2, 1).reshape(-1, self._n_features))
        self._rows.update(rows, last=last)

    def _accumulate_shuffled(self, shuffled: Mergeable, maps: Tensor, *, last: bool) -> None:
        """Hand over rows of the same maps, permuted over the samples."""
        rows = shuffled_samples(maps, self._shuffler)
        if self._reading.positions is not None:
            rows = random_positions(rows, self._reading.positions, self._shuffler)
        if bool(torch.isfinite(rows).all()):  # other positions than those that were looked at
            shuffled.update(self._portion(rows), last=last)

    def _portion(self, rows: Tensor) -> NDArray[np.floating] | Tensor:
        """Rows as the accumulator takes them."""
        return rows if self._reading.method == "gram" else as_array(rows)

    def _finite(self, rows: Tensor) -> bool:
        """Whether all values are finite: one sum, looked into only if that is not."""
        wide = torch.float32 if rows.dtype in {torch.float16, torch.bfloat16} else None  # half sums overflow at once
        return math.isfinite(rows.sum(dtype=wide).item()) or not self._counter.note_nonfinite(as_array(rows))

    def spectrum(self, *, floor_a_row: float = float("nan")) -> Spectrum:
        """Spectrum of all rows so far."""
        self.settle()
        factor = self._rows.result()
        subject = Subject(
            dtype=self._dtype,
            view=self._reading.view,
            call=self._call,
            rank_limit=self._limit[0],
            offset=self._limit[1],
            units=self._units(factor),
            floor=floor_a_row * float(np.sqrt(factor.n_rows)),
        )
        found = spectrum(factor, subject)
        doubtful = {found.status, found.centred.status if found.centred else ""}
        if self._exact is not None and "singular-at-precision" in doubtful:
            ranks = (self._exact.rank(), self._exact.rank(centred=True))
            found = spectrum(factor, replace(subject, exact_ranks=ranks))
        if isinstance(self._rows, Groups):
            found = with_standard_error(found, factor, self._rows.left_out())
        return found if self._shuffled is None else with_shuffled(found, factor, self._shuffled.result())

    def _units(self, factor: Factor) -> Units:
        """Counts over all rows, or over the rows used where all were not counted."""
        units = counted(factor)
        if self._reading.count_units:
            return self._counter.result(n_duplicate=units.n_duplicate)
        bad, first = self._counter.n_nonfinite, self._counter.first_nonfinite
        return replace(units, n_nonfinite=bad, first_nonfinite=first)


class UnfoldingCell:
    """Mode-k unfoldings of single samples; the layer's spectrum is that of the sample of median κ."""

    def __init__(self, call: LayerCall, reading: Reading) -> None:
        self._call, self._reading = call, reading
        self._found: list[Spectrum] = []
        self._n_nonfinite = 0
        self._dtype = ""

    def update(self, tensor: Tensor, *, last: bool) -> None:
        """Decompose each sample, up to 128 in all."""
        self._dtype = coarser(self._dtype, tensor.dtype)
        room = MOST_UNFOLDED - len(self._found)
        samples = as_array(unfoldings(tensor.detach()[: max(room, 0)], self._reading.view))
        if room < len(tensor):
            warnings.warn(f"view={self._reading.view!r} decomposes the first {MOST_UNFOLDED} samples", stacklevel=2)
        for sample in samples:
            bad = int(np.count_nonzero(~np.isfinite(sample)))
            self._n_nonfinite += bad
            if not bad:
                subject = Subject(dtype=self._dtype, view=self._reading.view, call=self._call)
                self._found.append(spectrum(whole(sample), subject))

    is_full = False

    def settle(self) -> None:
        """Nothing is put off."""

    def spectrum(self, *, floor_a_row: float = float("nan")) -> Spectrum:
        """The median sample's spectrum, ``condition_number_max`` over all; the centred one likewise."""
        if not self._found:
            empty = spectrum(
                no_rows(0), Subject(dtype=self._dtype or "float32", view=self._reading.view, call=self._call)
            )
            return replace(empty, units=Units(n_nonfinite=self._n_nonfinite))
        centred = _median([s.centred for s in self._found if s.centred is not None])
        median = _median(self._found)
        units = replace(median.units, n_nonfinite=self._n_nonfinite)
        floor = floor_a_row * float(np.sqrt(median.n_rows))
        return replace(median, centred=replace(centred, units=units, floor=floor), units=units, floor=floor)


def _median(found: list[Spectrum]) -> Spectrum:
    """The spectrum of (lower) median κ, infinite ones last, carrying the largest κ."""
    order = sorted(found, key=lambda s: (np.isnan(s.condition_number), s.condition_number))
    return replace(order[(len(order) - 1) // 2], condition_number_max=order[-1].condition_number)


def whole(matrix: NDArray[np.floating]) -> Factor:
    """The factor of a small matrix that is there as a whole: itself."""
    rows = matrix.astype(np.float64)
    _, first = np.unique(rows + 0.0, axis=1, return_index=True)
    later = np.ones(rows.shape[1], dtype=bool)
    later[first] = False
    dead = np.logical_not(rows.any(axis=0))
    return Factor(
        raw=rows,
        centred=rows - rows.mean(axis=0),
        n_rows=len(rows),
        n_features=rows.shape[1],
        dead=dead,
        constant=(rows == rows[:1]).all(axis=0),
        duplicate=later & ~dead,
        resolution=ARITHMETIC_ROUNDOFF,
    )


def no_rows(n_features: int) -> Factor:
    """The factor of nothing."""
    nothing, none = np.zeros((0, n_features)), np.zeros(n_features, dtype=bool)
    return Factor(nothing, nothing, 0, n_features, none, none, none, ARITHMETIC_ROUNDOFF)


def as_array(tensor: Tensor) -> NDArray[np.floating]:
    """The tensor as an array, without a copy for float32 and float64 on the CPU; halves widen to float32, exactly."""
    if tensor.dtype not in {torch.float32, torch.float64}:
        tensor = tensor.float()
    array: NDArray[np.floating] = tensor.detach().cpu().resolve_neg().numpy()
    return array


def coarser(name: str, dtype: torch.dtype) -> str:
    """Name of the coarser of two dtypes: the one that sets what can be known."""
    new = str(dtype).removeprefix("torch.")
    if new not in UNIT_ROUNDOFF:
        raise ShapeError(f"activations of dtype {new} have no spectrum: there are {', '.join(UNIT_ROUNDOFF)}")
    return new if not name or UNIT_ROUNDOFF[new] > UNIT_ROUNDOFF[name] else name
