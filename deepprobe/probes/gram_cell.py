"""Rows that are accumulated where they are, as Gram matrices: nothing here waits for the device before the report."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

import torch

from deepprobe.linalg.gram import GramAccumulator, update_together
from deepprobe.linalg.groups import Groups
from deepprobe.linalg.matricize import blocks, random_positions, shuffled_samples
from deepprobe.linalg.whitened import WhitenedGram
from deepprobe.measures.device_units import DeviceUnitCounter
from deepprobe.probes.gathered import GatheredRows
from deepprobe.probes.positions import generator_for
from deepprobe.probes.reading import Reading, as_array, coarser
from deepprobe.seeding import derive_seed

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from torch import Tensor

    from deepprobe.probes.positions import Positions
    from deepprobe.records.layer import LayerCall


class GramCell:
    """Rows of one matrix as a Gram matrix, and counts of its units, on the device of the tensors.

    All rows of a tensor are multiplied in the hook, for what comes after may overwrite it; drawn rows are copied, and
    wait for the end of the forward pass, where ``settle_together`` takes those of all layers.
    """

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
        self._call, self._reading, self._limit, self._positions = call, reading, limit, positions
        self._live = GatheredRows(call, reading, n_features=n_features, limit=limit)
        self._counter = DeviceUnitCounter(n_features)
        self._shuffler = derive_seed(seed, call.key, "shuffled")
        self._generators: dict[torch.device, torch.Generator] = {}
        self._waiting: list[Tensor] = []

    is_full = False

    def settle(self) -> None:
        """Left to ``settle_together``."""

    def update(self, tensor: Tensor, *, last: bool) -> None:
        """Take one batch's tensor."""
        live = self._live
        live.dtype = coarser(live.dtype, tensor.dtype)
        with torch.inference_mode(False), torch.no_grad():  # what is kept outlives the forward pass's own mode
            tensor = tensor.detach().float() if tensor.dtype.itemsize == 1 else tensor.detach()
            rows = blocks(tensor, self._reading.view)
            live.check_width(rows.shape[1])
            if rows.numel():
                self._take(rows)

    def _take(self, rows: Tensor) -> None:
        """Take blocks of rows, shape (b, d, p)."""
        counts, grouped = self._reading.count_units, isinstance(self._live.rows, Groups)
        finite = self._counter.update(rows) if counts else None
        if self._live.shuffled is not None and len(rows) > 1:
            self._take_shuffled(rows, torch.isfinite(rows).all() if finite is None else finite)
        drawn = rows if self._positions is None else self._positions.drawn(rows)
        if finite is None and grouped:
            finite = self._counter.note(drawn)
        if finite is not None and (grouped or self._positions is not None):
            drawn = _spoilt(drawn, unless=finite)
        if self._live.exact is not None:
            self._take_exactly(drawn)
        if self._positions is None or not isinstance(self._live.rows, GramAccumulator):
            self._live.rows.update(drawn)
        else:
            self._waiting.append(drawn.clone() if drawn is rows else drawn)

    def _take_shuffled(self, maps: Tensor, finite: Tensor) -> None:
        """Take rows of the same maps, permuted over the samples, if all maps are finite."""
        assert self._live.shuffled is not None
        generator = generator_for(maps.device, self._shuffler, known=self._generators)
        rows = shuffled_samples(maps, generator)
        if self._reading.positions is not None:
            rows = random_positions(rows, self._reading.positions, generator)
        self._live.shuffled.update(_spoilt(rows, unless=finite))

    def _take_exactly(self, rows: Tensor) -> None:
        """Fold finite rows into the sums for exact ranks, on the host: the one thing here that waits for the device."""
        assert self._live.exact is not None
        if bool(torch.isfinite(rows).all()):
            self._live.exact.update(as_array(rows.transpose(1, 2).reshape(-1, self._live.n_features)))

    def waiting(self) -> list[tuple[GramAccumulator, Tensor]]:
        """Drawn rows that wait, with their accumulator; they wait no longer."""
        waiting, self._waiting = self._waiting, []
        assert isinstance(self._live.rows, GramAccumulator) or not waiting
        return [(self._live.rows, rows) for rows in waiting]  # type: ignore[misc]

    def tensors(self) -> list[list[Tensor]]:
        """The state, on its device."""
        return [self._counter.tensors(), *(part.tensors() for part in self._parts())]

    def gathered(self, tensors: Sequence[Sequence[Tensor]]) -> GatheredRows:
        """What was gathered, from copies of ``tensors`` on the host."""
        n_features = self._live.n_features
        found = GatheredRows(self._call, self._reading, n_features=n_features, limit=self._limit)
        found.dtype, found.exact = self._live.dtype, self._live.exact
        found.counter = DeviceUnitCounter.counter(n_features, tensors[0])
        parts = [live.holding(part) for live, part in zip(self._parts(), tensors[1:], strict=True)]
        if found.shuffled is not None:
            found.shuffled = parts.pop()
        if isinstance(self._live.rows, Groups):
            found.rows = self._live.rows.holding(parts)
        else:
            found.rows = parts[0]
            if not self._reading.count_units:
                found.counter.note(*parts[0].notes[1:])
        return found

    def _parts(self) -> list[GramAccumulator | WhitenedGram]:
        """All accumulators: the groups' or the only one, and the shuffled rows'."""
        rows = self._live.rows
        parts = [*(rows.parts if isinstance(rows, Groups) else [rows])]
        if self._live.shuffled is not None:
            parts.append(self._live.shuffled)
        return [part for part in parts if isinstance(part, GramAccumulator | WhitenedGram)]


def settle_together(cells: Iterable[GramCell]) -> None:
    """Multiply the drawn rows that wait: one batched product for all layers whose rows have one shape and dtype."""
    alike: dict[object, list[tuple[GramAccumulator, Tensor]]] = defaultdict(list)
    for cell in cells:
        for turn, (accumulator, rows) in enumerate(cell.waiting()):  # none twice in one product
            alike[turn, rows.device, rows.dtype, rows.shape].append((accumulator, rows))
    with torch.inference_mode(False), torch.no_grad():
        for group in alike.values():
            update_together([a for a, _ in group], torch.stack([rows for _, rows in group]))


def _spoilt(rows: Tensor, *, unless: Tensor) -> Tensor:
    """Rows as they are if ``unless``, shape (), holds, else NaN throughout: an accumulator leaves those out."""
    return torch.where(unless, rows, float("nan"))
