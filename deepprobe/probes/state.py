"""What a probe has gathered so far, away from model and device: merged over processes, and turned into spectra."""

from __future__ import annotations

import copy
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from deepprobe.linalg.threads import one_blas_thread

if TYPE_CHECKING:
    from collections.abc import Sequence

    from deepprobe.probes.gathered import Gathered
    from deepprobe.records.layer import LayerCall
    from deepprobe.records.spectrum import Spectrum


@dataclass
class ProbeState:
    """What each layer call gathered; can be pickled, so that processes can exchange it.

    Attributes:
        cells: From a layer call's key to the call and what it gathered.
        floors: Measured floors a row by layer call, where they were measured.
    """

    cells: dict[str, tuple[LayerCall, Gathered]] = field(default_factory=dict)
    floors: dict[str, float] = field(default_factory=dict)

    def merge(self, other: ProbeState) -> None:
        """Take what another process gathered, as if its batches had come after those here; it is left as it was.

        Floors are those of the first process that measured any, as of one process that measures its first batch.

        Raises:
            ShapeError: If a layer had other units there, or was read in another way.
        """
        for key, (call, gathered) in other.cells.items():
            if key in self.cells:
                self.cells[key][1].merge(gathered)
            else:
                self.cells[key] = (call, copy.deepcopy(gathered))
        self.floors = self.floors or other.floors

    def spectra(self) -> dict[str, Spectrum]:
        """Spectrum of each layer call, in depth order, with no rows lost: more may be merged."""
        ordered = sorted(self.cells.items(), key=lambda item: (item[1][0].depth, item[1][0].order))
        cells = {key: cell for key, (_, cell) in ordered}
        with one_blas_thread(), ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
            found = pool.map(lambda key: cells[key].spectrum(floor_a_row=self.floors.get(key, float("nan"))), cells)
            return dict(zip(cells, found, strict=True))


def merged(states: Sequence[ProbeState]) -> ProbeState:
    """The states of several processes as one, in their order; they are left as they were."""
    if len(states) == 1:
        return states[0]
    total = ProbeState()
    with one_blas_thread():
        for state in states:
            total.merge(state)
    return total
