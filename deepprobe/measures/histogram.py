"""Histograms of any values in fixed bins: quarters of an octave on both sides of zero, read off a number's own bits.

The first eleven bits of a float32 are its sign, its exponent and two bits of its mantissa: 2,048 bins that cover every
number, whose edges are 2ᵉ · {1, 1.25, 1.5, 1.75}. No range has to be known before, and histograms of batches, layers or
processes add up.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

N_BINS = 2048
_SHIFT = 21
_MOST_NUMBERS = 1 << 16
"""Values that are sorted into bins together; their 64-bit indices, 0.5 MB, stay in the cache."""


@dataclass(frozen=True, eq=False)
class Bins:
    """The bins of a histogram that hold something, in ascending order.

    Attributes:
        low: Lower edge of each, float64.
        high: Upper edge; equal to the lower one in the bin of zero. Of positive bins the lower edge belongs to the bin,
            of negative ones the upper.
        count: Values in each, int64.
    """

    low: NDArray[np.float64]
    high: NDArray[np.float64]
    count: NDArray[np.int64]


class Histogram:
    """Counts values by their bits, on their device and without waiting for it.

    Memory: 16 kB. Values of float64 are rounded to float32 first; those beyond its range count in its outermost or
    innermost bins, neither as infinite nor as zero.
    """

    def __init__(self) -> None:
        self._counts: Tensor | None = None

    def update(self, tensor: Tensor) -> None:
        """Count all values of a floating-point tensor."""
        if self._counts is None:  # bins, and last zeros
            self._counts = torch.zeros(N_BINS + 1, dtype=torch.int64, device=tensor.device)
        flat = tensor.detach().reshape(-1)
        for start in range(0, len(flat), _MOST_NUMBERS):
            values = _rounded(flat[start : start + _MOST_NUMBERS])
            bins = ((values.view(torch.int32) >> _SHIFT) & (N_BINS - 1)).long()
            bins = torch.where(values == 0, N_BINS, bins)
            self._counts.scatter_add_(0, bins, torch.ones_like(bins))

    def tensors(self) -> list[Tensor]:
        """The counts, on their device; nothing before the first values."""
        return [] if self._counts is None else [self._counts]

    @staticmethod
    def bins(counts: Tensor) -> tuple[Bins, int]:
        """The bins that hold something, and how many values were not finite; from a copy on the host."""
        numbers = counts.numpy()
        low, high = _edges()
        held = np.concatenate([numbers[N_BINS - 5 :: -1][: N_BINS // 2 - 4], numbers[-1:], numbers[: N_BINS // 2 - 4]])
        some = held > 0
        return Bins(low[some], high[some], held[some]), int(numbers[:-1].sum() + numbers[-1] - held.sum())


def _rounded(values: Tensor) -> Tensor:
    """Values as float32, finite where they were and zero only where they were."""
    found = values.float()
    if values.dtype != torch.float64:
        return found
    least, largest = (
        torch.full_like(found, bound).copysign(found) for bound in (2.0**-149, torch.finfo(torch.float32).max)
    )
    found = torch.where(found.isinf() & values.isfinite(), largest, found)
    return torch.where((found == 0) & (values != 0), least, found)


def _edges() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Edges of the bins of finite numbers, those of negative ones first and zero in the middle."""
    places = np.arange(N_BINS // 2 - 3, dtype=np.int32) << _SHIFT
    edges = places.view(np.float32).astype(np.float64)
    edges[-1] = 2.0**128  # the bits of infinity
    zero = np.zeros(1)
    low = np.concatenate([-edges[:0:-1], zero, edges[:-1]])
    return low, np.concatenate([-edges[-2::-1], zero, edges[1:]]) + 0.0
