"""The ``hosvd`` views: unfoldings of single samples, each decomposed as it comes."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from deepprobe.errors import ShapeError
from deepprobe.linalg.factor import Factor
from deepprobe.linalg.matricize import unfoldings
from deepprobe.measures.conditioning import Subject, spectrum
from deepprobe.probes.reading import Reading, as_array, coarser, coarser_name
from deepprobe.records.spectrum import ARITHMETIC_ROUNDOFF, Spectrum, Units

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from deepprobe.probes.gathered import Gathered
    from deepprobe.records.layer import LayerCall

MOST_UNFOLDED = 128
"""Samples whose unfoldings the ``hosvd`` views decompose; the median over them hardly moves beyond."""


class UnfoldingCell:
    """Mode-k unfoldings of single samples; the layer's spectrum is that of the sample of median κ.

    It is what it gathers: small, picklable, and merged with its like.
    """

    def __init__(self, call: LayerCall, reading: Reading) -> None:
        self._call, self._reading = call, reading
        self._samples: list[Spectrum | int] = []  # of each sample its spectrum, or how many values are not finite
        self._dtype = ""

    @property
    def _found(self) -> list[Spectrum]:
        return [s for s in self._samples if isinstance(s, Spectrum)]

    @property
    def _n_nonfinite(self) -> int:
        return sum(s for s in self._samples if isinstance(s, int))

    def update(self, tensor: Tensor, *, last: bool) -> None:
        """Decompose each sample, up to 128 in all."""
        self._dtype = coarser(self._dtype, tensor.dtype)
        room = self._room(len(tensor))
        for sample in as_array(unfoldings(tensor.detach()[:room], self._reading.view)):
            bad = int(np.count_nonzero(~np.isfinite(sample)))
            subject = Subject(dtype=self._dtype, view=self._reading.view, call=self._call)
            self._samples.append(bad or spectrum(whole(sample), subject))

    is_full = False

    def settle(self) -> None:
        """Nothing is put off."""

    def tensors(self) -> list[list[Tensor]]:
        """Nothing is left on a device."""
        return []

    def gathered(self, tensors: Sequence[Sequence[Tensor]]) -> UnfoldingCell:
        """What was gathered: itself."""
        return self

    def merge(self, other: Gathered) -> None:
        """Take the samples of another, as if they had come here; it is left as it was.

        Raises:
            ShapeError: If the other has rows in place of samples.
        """
        if not isinstance(other, UnfoldingCell):
            raise ShapeError(f"layer {self._call.key!r} was read differently in two processes: they cannot be merged")
        self._dtype = coarser_name(self._dtype, other._dtype)
        for sample in other._samples:
            if self._room(1):
                self._samples.append(sample)

    def _room(self, wanted: int) -> int:
        """How many of so many samples are looked at; a warning where it is not all of them."""
        room = max(MOST_UNFOLDED - len(self._found), 0)
        if room < wanted:
            warnings.warn(f"view={self._reading.view!r} decomposes the first {MOST_UNFOLDED} samples", stacklevel=3)
        return min(room, wanted)

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
