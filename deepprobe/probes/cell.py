"""What one layer call gathers its rows in: the kind of cell that a view, a method and a tensor ask for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from deepprobe.linalg.matricize import blocks
from deepprobe.probes.gram_cell import GramCell
from deepprobe.probes.kept_cell import KeptCell
from deepprobe.probes.rows_cell import RowsCell
from deepprobe.probes.unfolding_cell import UnfoldingCell

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from deepprobe.probes.gathered import Gathered
    from deepprobe.probes.positions import Positions
    from deepprobe.probes.reading import Reading
    from deepprobe.records.layer import LayerCall


class Cell(Protocol):
    """Gathers the tensors of one layer call over batches."""

    def update(self, tensor: Tensor, *, last: bool) -> None:
        """Take one batch's tensor; ``last`` if no more will come."""

    @property
    def is_full(self) -> bool:
        """Whether so much was put off that it should be done now."""

    def settle(self) -> None:
        """Do what was put off, once no forward pass is under way."""

    def tensors(self) -> list[list[Tensor]]:
        """What of its state is on a device."""

    def gathered(self, tensors: Sequence[Sequence[Tensor]]) -> Gathered:
        """What was gathered so far, given copies of ``tensors`` on the host."""


def cell_for(
    call: LayerCall,
    tensor: Tensor,
    *,
    reading: Reading,
    limit: tuple[int | None, bool],
    positions: Positions | None,
    seed: int,
) -> Cell:
    """The kind of cell that a view and the tensor ask for."""
    if reading.view.startswith("hosvd") and tensor.ndim != 2:
        return UnfoldingCell(call, reading)
    n_features = blocks(tensor, reading.view).shape[1]
    reading = reading.settled(tensor, n_features)
    kind = RowsCell if reading.method == "qr" else GramCell
    cell = kind(call, reading, n_features=n_features, limit=limit, positions=positions, seed=seed)
    waits = reading.view == "samples" and tensor.device.type != "cpu"
    return KeptCell(cell) if waits and isinstance(cell, RowsCell) else cell
