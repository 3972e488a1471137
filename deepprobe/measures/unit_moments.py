"""What each unit of a layer does over all rows: mean, spread, extremes, how often it fires, what it fires for.

Rows come as blocks (b, d, p): b samples of p positions. Every sample is reduced on its own first; then samples are
merged by weights (West 1979), in float64 where the device has it: no second moment minus product of means. A sample in
which a unit is not finite is left out of that unit's numbers. Everything stays on the device of the activations.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from deepprobe.linalg.precision import wide_dtype

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor

_MOST_NUMBERS = 1 << 18
"""Values that are looked at together: their float64 copy, 2 MB, stays in the cache."""

_INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclass(frozen=True, eq=False)
class UnitNumbers:
    """What was found of d units, on the host; float64 unless said.

    Attributes:
        n_rows: Rows seen, one number.
        n_samples: Samples seen, one number.
        samples: Samples in which the unit was finite, (d,).
        rows: Their rows, (d,).
        mean: Mean over rows, (d,); NaN of a unit that was never finite.
        mean_se: Its standard error over samples, (d,).
        variance: Σ(x − mean)² / rows, (d,).
        least: Smallest value, (d,).
        greatest: Largest value, (d,).
        fired: Rows in which it was not zero, int64, (d,).
        firing_se: Standard error over samples of the share of rows in which it fires, (d,).
        saturated: Rows in the flat part, int64, (d,); −1 where there is none.
        duplicate_of: First earlier unit that is not dead and the same in every row, int64, (d,); −1 for none.
        class_means: Mean over the rows of each class, (classes, d); NaN of a class without rows. Without labels (0, d).
        class_rows: Rows of each class, (classes, d).
    """

    n_rows: int
    n_samples: int
    samples: NDArray[np.float64]
    rows: NDArray[np.float64]
    mean: NDArray[np.float64]
    mean_se: NDArray[np.float64]
    variance: NDArray[np.float64]
    least: NDArray[np.float64]
    greatest: NDArray[np.float64]
    fired: NDArray[np.int64]
    firing_se: NDArray[np.float64]
    saturated: NDArray[np.int64]
    duplicate_of: NDArray[np.int64]
    class_means: NDArray[np.float64]
    class_rows: NDArray[np.float64]


class _Means:
    """Weighted mean and squared deviations of d units over samples."""

    def __init__(self, zeros: Tensor) -> None:
        self.weight, self.mean, self.squares = zeros.clone(), zeros.clone(), zeros.clone()

    def take(self, values: Tensor, weights: Tensor) -> None:
        """Take values of samples with their weights, both (b, d)."""
        weight = weights.sum(0)
        mean = (weights * values).sum(0) / weight.clamp(min=1)
        off = mean - self.mean
        total = self.weight + weight
        part = weight / total.clamp(min=1)
        self.squares += (weights * (values - mean) ** 2).sum(0) + off**2 * self.weight * part
        self.mean += off * part
        self.weight = total


class UnitMoments:
    """Numbers of d units over any number of batches, on the device of the blocks and without waiting for it.

    Memory: 13 numbers a unit, and two a unit and class. Equal units are known by a fingerprint, the sum over rows of
    the value's bits times a random odd 64-bit number: units that differ somewhere are taken for equal with a
    probability below 2⁻³² a pair.

    Args:
        n_features: Units d.
        flat: Up to which and from which value on a unit is saturated; None where its range has no flat part.
    """

    def __init__(self, n_features: int, *, flat: tuple[float, float] | None = None) -> None:
        self.n_features, self.flat = n_features, flat
        self.n_rows = self.n_samples = 0
        self._generator: torch.Generator | None = None

    def update(self, blocks: Tensor, classes: Tensor | None = None) -> None:
        """Take rows.

        Args:
            blocks: Shape (b, d, p), floating point.
            classes: The samples' classes as zeros and ones, (b, classes), on the device; the same width or a larger one
                than before.
        """
        b, d, p = blocks.shape
        if not blocks.numel():
            return
        if self._generator is None:
            self._start(blocks.device)
        if classes is not None:
            self._widen(classes.shape[1])
        self.n_rows += b * p
        self.n_samples += b
        step = max(1, _MOST_NUMBERS // (d * p))
        for start in range(0, b, step):
            part = slice(start, start + step)
            self._take(blocks[part], None if classes is None else classes[part])

    def _start(self, device: torch.device) -> None:
        """Make the state, once the device is known."""
        self._dtype = wide_dtype(device)
        self._generator = torch.Generator(device=device).manual_seed(0)
        zeros = torch.zeros(self.n_features, dtype=self._dtype, device=device)
        counts = torch.zeros(self.n_features, dtype=torch.int64, device=device)
        self._level, self._firing = _Means(zeros), _Means(zeros)
        self._samples, self._within = zeros.clone(), zeros.clone()
        self._least, self._greatest = zeros + torch.inf, zeros - torch.inf
        self._fired, self._saturated, self._print = counts.clone(), counts.clone(), counts.clone()
        self._class_sums = zeros.new_zeros((0, self.n_features))
        self._class_rows = self._class_sums

    def _widen(self, n_classes: int) -> None:
        """Make room for classes that were not seen before."""
        more = n_classes - len(self._class_sums)
        if more > 0:
            room = self._class_sums.new_zeros((more, self.n_features))
            self._class_sums = torch.cat([self._class_sums, room])
            self._class_rows = torch.cat([self._class_rows, room])

    def _take(self, part: Tensor, classes: Tensor | None) -> None:
        """Take a few samples, (b, d, p)."""
        part = part.float() if part.dtype.itemsize == 1 else part
        values = torch.add(part, 0.0).contiguous()  # -0.0 becomes 0.0
        p = values.shape[2]
        wide = values.to(self._dtype, copy=True)  # centred in place below
        totals = wide.sum(2)
        usable = torch.isfinite(totals)
        means = torch.where(usable, totals / p, 0.0)
        weights = usable.to(self._dtype) * p
        wide -= means[:, :, None]
        self._within += torch.where(usable, torch.linalg.vector_norm(wide, dim=2) ** 2, 0.0).sum(0)
        self._level.take(means, weights)
        fired = torch.where(usable, torch.count_nonzero(values, dim=2), 0)
        self._firing.take(fired.to(self._dtype) / p, weights)
        self._fired += fired.sum(0)
        self._samples += usable.sum(0)
        least, greatest = values.amin(2).to(self._dtype), values.amax(2).to(self._dtype)
        self._least = torch.minimum(self._least, torch.where(usable, least, torch.inf).amin(0))
        self._greatest = torch.maximum(self._greatest, torch.where(usable, greatest, -torch.inf).amax(0))
        if self.flat is not None:
            outside = torch.count_nonzero((values <= self.flat[0]) | (values >= self.flat[1]), dim=2)
            self._saturated += torch.where(usable, outside, 0).sum(0)
        self._print += torch.where(usable, self._fingerprints(values), 0).sum(0)
        if classes is not None:
            held = classes.to(self._dtype).T
            self._class_sums[: len(held)] += held @ torch.where(usable, totals, 0.0)
            self._class_rows[: len(held)] += held @ weights

    def _fingerprints(self, values: Tensor) -> Tensor:
        """Sum over positions of random odd numbers times the bits of the values, modulo 2⁶⁴; (b, d)."""
        bits = values.view(_INTEGERS[values.dtype.itemsize])
        if bits.dtype == torch.int64:
            bits = bits ^ (bits >> 32)  # the last bits of rounded numbers are often all zero
        shape = (values.shape[0], 1, values.shape[2])
        drawn = torch.randint(-(2**62), 2**62, shape, generator=self._generator, device=values.device)
        return (bits * (2 * drawn + 1)).sum(2)

    def tensors(self) -> list[Tensor]:
        """The state, on its device; nothing before the first rows."""
        if self._generator is None:
            return []
        level, firing = self._level, self._firing
        return [
            level.weight, level.mean, level.squares, firing.squares, self._samples, self._within,
            self._least, self._greatest, self._fired, self._saturated, self._print, self._class_sums, self._class_rows,
        ]  # fmt: skip

    def numbers(self, tensors: Sequence[Tensor]) -> UnitNumbers:
        """What was found, from copies of ``tensors`` on the host; at least one row must have been seen."""
        reals = [t.double().numpy() for t in (*tensors[:8], *tensors[11:])]
        weight, mean, squares, firing_squares, samples, within, least, greatest, sums, class_rows = reals
        fired, saturated, prints = (t.numpy() for t in tensors[8:11])
        met = samples > 0
        with np.errstate(divide="ignore", invalid="ignore"):
            spread = np.where(met, weight * (samples - 1), np.nan)
            return UnitNumbers(
                n_rows=self.n_rows,
                n_samples=self.n_samples,
                samples=samples,
                rows=weight,
                mean=np.where(met, mean, np.nan),
                mean_se=np.where(samples > 1, np.sqrt(squares / spread), np.nan),
                variance=np.where(met, (squares + within) / weight, np.nan),
                least=np.where(met, least, np.nan),
                greatest=np.where(met, greatest, np.nan),
                fired=fired,
                firing_se=np.where(samples > 1, np.sqrt(firing_squares / spread), np.nan),
                saturated=np.full_like(saturated, -1) if self.flat is None else saturated,
                duplicate_of=_duplicates(prints, samples == self.n_samples, least, greatest, fired),
                class_means=sums / class_rows,
                class_rows=class_rows,
            )


def _duplicates(
    prints: NDArray[np.int64], finite: NDArray[np.bool_], least: NDArray[np.float64],
    greatest: NDArray[np.float64], fired: NDArray[np.int64],
) -> NDArray[np.int64]:  # fmt: skip
    """For each live unit that was finite in all samples the first unit that is the same, or −1; (d,)."""
    found = np.full(len(prints), -1, dtype=np.int64)
    live = (fired > 0) & finite
    first: dict[tuple[float, ...], int] = {}
    for unit in np.flatnonzero(live):
        key = (int(prints[unit]), float(least[unit]), float(greatest[unit]), int(fired[unit]))
        earlier = first.setdefault(key, int(unit))
        found[unit] = earlier if earlier != unit else -1
    return found
