"""Counts of units on the device of the activations: nothing is asked of the device before the report."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from deepprobe.linalg.gram import nonfinite_units
from deepprobe.measures.units import UnitCounter

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


class DeviceUnitCounter:
    """Counts what ``UnitCounter`` counts, with the same results, of tensors on any device and without waiting for it.

    A batch with a value that is not finite counts for nothing else. No unit is cleared for good, which would have to be
    known: every row is looked at.

    Args:
        n_features: Units d.
    """

    def __init__(self, n_features: int) -> None:
        self.n_features = n_features
        self._state: list[Tensor] = []  # fired, still, first, and [any row taken, values not finite, first such unit]

    def note(self, blocks: Tensor) -> Tensor:
        """Count values that are not finite in blocks (b, d, p); whether there was none, shape ()."""
        count, first = nonfinite_units(blocks[None])
        self._start(blocks)
        notes = self._state[3]
        notes[2] = torch.where(notes[2] < 0, first[0], notes[2])
        notes[1] += count[0]
        return count[0] == 0

    def update(self, blocks: Tensor) -> Tensor:
        """Take rows, as blocks of shape (b, d, p); whether they were finite and were taken, shape ()."""
        if not blocks.numel():
            return torch.ones((), dtype=torch.bool, device=blocks.device)
        finite = self.note(blocks)
        fired, still, first, notes = self._state
        first.copy_(torch.where(notes[0] > 0, first, blocks[0, :, 0]))
        fired += torch.where(finite, torch.count_nonzero(blocks, dim=(0, 2)), 0)
        same = (blocks.amin(dim=(0, 2)) == first) & (blocks.amax(dim=(0, 2)) == first)
        still &= same | ~finite
        notes[0] |= finite
        return finite

    def _start(self, blocks: Tensor) -> None:
        """Make the state, once the device is known."""
        if not self._state:
            d = self.n_features
            notes = torch.zeros(3, dtype=torch.int64, device=blocks.device)
            notes[2].fill_(-1)
            counts = torch.zeros(d, dtype=torch.int64, device=blocks.device)
            self._state = [counts, torch.ones_like(counts, dtype=torch.bool), blocks.new_zeros(d), notes]

    def tensors(self) -> list[Tensor]:
        """The state, on its device."""
        return self._state

    @classmethod
    def counter(cls, n_features: int, tensors: Sequence[Tensor]) -> UnitCounter:
        """The counter on the host with the state that ``tensors`` gave, in any dtype that holds it."""
        if not tensors:
            return UnitCounter(n_features)
        fired, still, first, notes = tensors
        taken, count, unit = notes.long().tolist()
        counter = (
            UnitCounter.of(fired=fired.long().numpy(), still=still.bool().numpy(), first=first.double().numpy())
            if taken
            else UnitCounter(n_features)
        )
        counter.note(count, unit)
        return counter
