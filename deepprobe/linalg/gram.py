"""Float64 Gram matrix: one matrix product an update, on any device; blind below 4e-8 of the largest value, and says so.

The error of a squared matrix is that of its square: singular values below about √(u_64 …) σ_1 are noise (measured floor
1.0e-8 to 1.5e-8 σ_1 for up to 1e6 rows). For float32 activations that floor lies under their own rounding, which makes
this the accumulator for a GPU; the factor carries the floor as its resolution, so that nothing below is certified.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from deepprobe.errors import ShapeError, SpectrumError
from deepprobe.linalg.factor import Factor, shifted_resolution

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

GRAM_RESOLUTION = 4e-8
"""Share of ‖H‖_F below which a Gram matrix's singular values are taken for noise."""


class GramAccumulator:
    """Accumulates the Gram matrix of ``[1, X - c]`` in float64, c the first row, on the device of the rows.

    Args:
        n_features: Columns d.
    """

    def __init__(self, n_features: int) -> None:
        self.n_features = n_features
        self.n_rows = 0
        self._gram: Tensor | None = None
        self._shift: Tensor | None = None

    def update(self, blocks: NDArray[np.floating] | Tensor, *, last: bool = False) -> None:
        """Take rows as blocks of shape (b, d, p), a tensor on any device or an array; ``last`` changes nothing.

        Raises:
            ShapeError: If d is not ``n_features``.
        """
        tensor = torch.as_tensor(blocks)
        if tensor.ndim != 3 or tensor.shape[1] != self.n_features:
            raise ShapeError(f"rows of shape {tuple(tensor.shape)} do not fit (b, {self.n_features}, p)")
        rows = tensor.transpose(1, 2).reshape(-1, self.n_features).double()
        if len(rows) == 0:
            return
        if self._gram is None or self._shift is None:
            self._shift = rows[0].clone()
            self._gram = rows.new_zeros(self.n_features + 1, self.n_features + 1)
        rows = torch.cat([rows.new_ones(len(rows), 1), rows - self._shift], dim=1)
        self._gram.addmm_(rows.T, rows)
        self.n_rows += len(rows)

    def merge(self, other: GramAccumulator) -> None:
        """Add another accumulator's rows, which is left as it was.

        Raises:
            ShapeError: If the numbers of columns differ.
        """
        if other.n_features != self.n_features:
            raise ShapeError(f"cannot merge {other.n_features} columns into {self.n_features}")
        if other._gram is None or other._shift is None:
            return
        if self._gram is None or self._shift is None:
            self._gram, self._shift = other._gram.clone(), other._shift.clone()
        else:
            move = torch.eye(self.n_features + 1, dtype=torch.float64, device=self._gram.device)
            move[0, 1:] = other._shift.to(move.device) - self._shift
            self._gram += move.T @ other._gram.to(move.device) @ move
        self.n_rows += other.n_rows

    def result(self) -> Factor:
        """Factor of all rows so far; ``duplicate`` stays empty, for a Gram matrix cannot tell equal from nearly so.

        Raises:
            SpectrumError: If squares overflowed.
        """
        d = self.n_features
        none = np.zeros(d, dtype=bool)
        if self._gram is None or self._shift is None:
            zero = np.zeros((d, d))
            return Factor(zero, zero, 0, d, ~none, ~none, none, GRAM_RESOLUTION)
        gram, shift = self._gram.cpu().numpy(), self._shift.cpu().numpy()
        mean = gram[0, 1:] / gram[0, 0]
        with np.errstate(over="ignore", invalid="ignore"):  # found out below
            centred = gram[1:, 1:] - np.outer(mean, gram[0, 1:])
            raw = centred + gram[0, 0] * np.outer(mean + shift, mean + shift)
        if not np.isfinite(raw).all():
            raise SpectrumError("squares of these values overflow: method='gram' cannot hold them; say method='qr'")
        constant = ~np.diag(gram)[1:].astype(bool)
        shifted, frobenius = np.sqrt(np.trace(gram[1:, 1:])), np.sqrt(max(np.trace(raw), 0.0))
        return Factor(
            raw=_root(raw),
            centred=_root(centred),
            n_rows=self.n_rows,
            n_features=d,
            dead=constant & (shift == 0),
            constant=constant,
            duplicate=none,
            resolution=shifted_resolution(GRAM_RESOLUTION, shifted=float(shifted), frobenius=float(frobenius)),
        )


def _root(gram: NDArray[np.float64]) -> NDArray[np.float64]:
    """A matrix of which this is the Gram matrix; columns are scaled first, eigenvalues below zero taken for zero."""
    scale = np.sqrt(np.maximum(np.diag(gram), 0))
    unit = np.where(scale > 0, scale, 1.0)
    values, vectors = np.linalg.eigh(gram / np.outer(unit, unit))
    return np.asarray(np.sqrt(np.maximum(values, 0))[:, None] * vectors.T * scale)
