"""Few rows of very many units on an accelerator: kept there as they are until the report."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from deepprobe.linalg.matricize import blocks

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from deepprobe.probes.gathered import GatheredRows
    from deepprobe.probes.rows_cell import RowsCell

MOST_KEPT = 2**22
"""Numbers of one layer that are kept on its device, 16 MB of float32: 256 images of 16,384 units."""


class KeptCell:
    """The view ``samples``: copies wait on the device, and are taken by a cell on the host when they are fetched.

    More than 2²² numbers of one layer do not wait for the report but go to the host at once.

    Args:
        on_host: Takes the rows.
    """

    def __init__(self, on_host: RowsCell) -> None:
        self._on_host = on_host
        self._kept: list[Tensor] = []

    is_full = False

    def settle(self) -> None:
        """Nothing is put off that could be done without the host."""

    def update(self, tensor: Tensor, *, last: bool) -> None:
        """Keep one batch's rows."""
        with torch.inference_mode(False), torch.no_grad():
            self._kept.append(blocks(tensor.detach(), "samples")[:, :, 0].clone())
        if sum(rows.numel() for rows in self._kept) > MOST_KEPT:
            self._hand_over(self._kept)

    def tensors(self) -> list[list[Tensor]]:
        """The rows that wait."""
        return [self._kept]

    def gathered(self, tensors: Sequence[Sequence[Tensor]]) -> GatheredRows:
        """What was gathered so far, given the rows that wait; they wait no longer."""
        self._hand_over(tensors[0])
        return self._on_host.gathered([])

    def _hand_over(self, rows: Sequence[Tensor]) -> None:
        """Give rows to the cell on the host."""
        self._kept = []
        for part in rows:
            self._on_host.update(part, last=False)
