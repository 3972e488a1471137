"""Rows that are accumulated on the CPU, by streaming QR."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from deepprobe.linalg.matricize import blocks, random_positions, shuffled_samples
from deepprobe.probes.gathered import GatheredRows
from deepprobe.probes.positions import generator_for
from deepprobe.probes.reading import Reading, as_array, coarser
from deepprobe.probes.waiting import WaitingRows
from deepprobe.seeding import derive_seed

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from deepprobe.linalg.groups import Mergeable
    from deepprobe.probes.positions import Positions
    from deepprobe.records.layer import LayerCall


class RowsCell:
    """Rows of one matrix, streamed; nothing of a tensor is kept but what its triangle needs."""

    def __init__(
        self,
        call: LayerCall,
        reading: Reading,
        *,
        n_features: int,
        limit: tuple[int | None, bool],
        positions: Positions | None,
        seed: int,
    ) -> None:
        self._reading, self._positions = reading, positions
        self._gathered = GatheredRows(call, reading, n_features=n_features, limit=limit)
        self._shuffler = derive_seed(seed, call.key, "shuffled")
        self._generators: dict[torch.device, torch.Generator] = {}
        self._waiting = WaitingRows()

    def update(self, tensor: Tensor, *, last: bool) -> None:
        """Take one batch's tensor."""
        gathered, counts = self._gathered, self._reading.count_units
        gathered.dtype = coarser(gathered.dtype, tensor.dtype)
        tensor = tensor.detach().float() if tensor.dtype.itemsize == 1 else tensor.detach()  # 8 bits cannot be added
        rows = blocks(tensor, self._reading.view)
        gathered.check_width(rows.shape[1])
        if counts:
            if not self._finite(rows):
                if self._positions is not None:
                    self._positions.index(rows)  # later draws do not hang on what a layer holds
                return
            gathered.counter.update(as_array(rows))
        if gathered.shuffled is not None and len(rows) > 1 and (counts or bool(torch.isfinite(rows).all())):
            self._accumulate_shuffled(gathered.shuffled, rows, last=last)
        if self._positions is None:
            if counts or self._finite(rows):
                self._accumulate(as_array(rows), last=last)
            return
        drawn = self._positions.drawn(rows)
        if not (counts or self._finite(drawn)):
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

    def tensors(self) -> list[list[Tensor]]:
        """Nothing is left on a device."""
        return []

    def gathered(self, tensors: Sequence[Sequence[Tensor]]) -> GatheredRows:
        """What was gathered so far; more may follow, in it."""
        self.settle()
        return self._gathered

    def _accumulate(self, rows: NDArray[np.floating], *, last: bool) -> None:
        """Hand finite rows to the accumulator."""
        if self._gathered.exact is not None:
            self._gathered.exact.update(rows.transpose(0, 2, 1).reshape(-1, self._gathered.n_features))
        self._gathered.rows.update(rows, last=last)

    def _accumulate_shuffled(self, shuffled: Mergeable, maps: Tensor, *, last: bool) -> None:
        """Hand over rows of the same maps, permuted over the samples."""
        generator = generator_for(maps.device, self._shuffler, known=self._generators)
        rows = shuffled_samples(maps, generator)
        if self._reading.positions is not None:
            rows = random_positions(rows, self._reading.positions, generator)
        if bool(torch.isfinite(rows).all()):  # other positions than those that were looked at
            shuffled.update(as_array(rows), last=last)

    def _finite(self, rows: Tensor) -> bool:
        """Whether all values are finite: one sum, looked into only if that is not."""
        wide = torch.float32 if rows.dtype in {torch.float16, torch.bfloat16} else None  # half sums overflow at once
        return math.isfinite(rows.sum(dtype=wide).item()) or not self._gathered.counter.note_nonfinite(as_array(rows))
