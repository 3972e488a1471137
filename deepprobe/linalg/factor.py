"""What every accumulator hands over: small factors with the singular values of all that was streamed through it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from deepprobe.records.spectrum import frobenius_norm

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Factor:
    """Factors of an n × d matrix H, raw and centred, and what is certain of its columns.

    Attributes:
        raw: Shape (m, d) – or (m, n) where the matrix was wide – float64; its singular values are those of H.
        centred: The same for H less its column means; where H was wide it has n - 1 columns.
        n_rows: Rows n that went in.
        n_features: Columns d.
        dead: Shape (d,), bool; columns that are zero throughout.
        constant: Shape (d,), bool; columns with one value throughout, dead ones included.
        duplicate: Shape (d,), bool; live columns equal, in every row, to a live column before them.
        twin_rows: Rows equal to an earlier row or zero; counted for wide matrices only, where they decide the rank.
        twin_rows_centred: Rows equal to an earlier row; a single zero row is no defect of the centred matrix.
        resolution: Backward error of accumulation, as a share of ‖H‖_F.
        by_rows: True where the factor stands for Hᵀ, so that its columns are rows of H.
        distortion: Largest relative error of any singular value that a sketch allows, else 0.
    """

    raw: NDArray[np.float64]
    centred: NDArray[np.float64]
    n_rows: int
    n_features: int
    dead: NDArray[np.bool_]
    constant: NDArray[np.bool_]
    duplicate: NDArray[np.bool_]
    resolution: float
    twin_rows: int = 0
    twin_rows_centred: int = 0
    by_rows: bool = False
    distortion: float = 0.0

    @property
    def frobenius(self) -> float:
        """‖H‖_F."""
        return frobenius_norm(self.raw)


def shifted_resolution(resolution: float, *, shifted: float, frobenius: float) -> float:
    """Share of ‖H‖_F to which values are known where ‖H - c‖_F was what rounded: larger if row c is an outlier."""
    return resolution * max(1.0, shifted / frobenius) if frobenius > 0 else resolution


class Accumulator(Protocol):
    """Takes rows in any portions, merges with its like, and gives the factor of all rows."""

    def update(self, blocks: NDArray[np.floating]) -> None:
        """Take rows, as blocks of shape (b, d, p); they may be overwritten afterwards."""

    def merge(self, other: Accumulator) -> None:
        """Take all rows that another accumulator of the same kind took."""

    def result(self) -> Factor:
        """Factor of all rows so far; more may follow."""
