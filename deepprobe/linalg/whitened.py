"""Whitened Gram matrix: matrix products only, and nearly as accurate as QR; it knows how accurate, and says so.

The first rows, a few times as many as there are units, give W, with which their own columns become orthonormal; of all
rows the Gram matrix G of ``[1, X - c] W`` is accumulated. Scaled to a unit diagonal, G = D^½ C D^½ has a condition
number near 1 as long as later rows look like the first, and every singular value of ``chol(C) D^½ W⁻¹`` is right to
about u cond(C) of itself, beside the u ‖H‖_F that any method rounds away (multiplicative perturbations: Ostrowski 1959,
Li 1998). C is there at the end, so that the bound is computed, not hoped for; where C has lost its smallest eigenvalues
the factor says to what share of ‖H‖_F it is still good, if need be to none of it.

W takes the one wait for the device: once a layer, when enough rows have come.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import scipy.linalg
import torch

from deepprobe.errors import ShapeError, SpectrumError
from deepprobe.linalg.factor import Factor, shifted_resolution
from deepprobe.linalg.gram import nonfinite_units
from deepprobe.records.spectrum import ARITHMETIC_ROUNDOFF, frobenius_norm

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor

_U = 2.0**-53
_CLAMP = 1e-14  # directions of which the first rows have less than this share are as good as absent


@dataclass(frozen=True, eq=False)
class Triangle:
    """R of ``[1, X - c]``, upper triangular, and what is known of it.

    Attributes:
        r: Shape (d + 1, d + 1).
        shift: c, shape (d,).
        n_rows: Rows that went in.
        constant: Shape (d,), columns that equal c throughout.
        error: Largest error of any singular value of R, in the unit of the rows.
    """

    r: NDArray[np.float64]
    shift: NDArray[np.float64]
    n_rows: int
    constant: NDArray[np.bool_]
    error: float


class WhitenedGram:
    """Accumulates a whitened Gram matrix in float64, on the device of the rows.

    A portion of rows with a value that is not finite is left out whole, and counted.

    Args:
        n_features: Columns d.
        count_nonfinite: Count the values that are not finite, too.
    """

    def __init__(self, n_features: int, *, count_nonfinite: bool = False) -> None:
        self.n_features = n_features
        self.count_nonfinite = count_nonfinite
        self._first: list[Tensor] = []  # rows (·, d), float64, until there are enough of them
        self._whitening: Tensor | None = None  # W
        self._unwhitening: NDArray[np.float64] | None = None  # W⁻¹
        self._weight = 1.0  # of the column of ones, as long as a row: a longer one would round the others away
        self._shift: Tensor | None = None
        self._state: list[Tensor] = []  # G, columns still constant, [left out, not finite, first such unit, rows]
        self._merged: list[Triangle] = []

    @property
    def n_rows(self) -> int:
        """Rows taken so far; waits for the device."""
        waiting = sum(len(rows) for rows in self._finite_first())
        taken = int(self._state[2][3]) if self._whitening is not None else 0
        return waiting + taken + sum(t.n_rows for t in self._merged)

    @property
    def notes(self) -> tuple[int, int, int]:
        """Portions left out, values not finite, and the first unit that held one (-1: none); waits for the device."""
        left_out, count, first, _ = self._state[2].tolist() if self._state else (0, 0, -1, 0)
        return left_out + len(self._first) - len(self._finite_first()), count, first

    def update(self, blocks: NDArray[np.floating] | Tensor, *, last: bool = False) -> None:
        """Take rows as blocks of shape (b, d, p), a tensor on any device or an array; ``last`` changes nothing.

        Raises:
            ShapeError: If d is not ``n_features``.
        """
        tensor = torch.as_tensor(blocks)
        if tensor.ndim != 3 or tensor.shape[1] != self.n_features:
            raise ShapeError(f"rows of shape {tuple(tensor.shape)} do not fit (b, {self.n_features}, p)")
        rows = tensor.transpose(1, 2).reshape(-1, self.n_features).to(torch.float64, copy=True)
        if not len(rows):
            return
        self._start(rows.device)
        if self.count_nonfinite:
            counts, first = nonfinite_units(tensor[None])
            notes = self._state[2]
            notes[2] = torch.where(notes[2] < 0, first[0], notes[2])
            notes[1] += counts[0]
        if self._whitening is not None:
            self._take(rows)
            return
        self._first.append(rows)
        if sum(map(len, self._first)) >= 4 * (self.n_features + 1):
            self._whiten()

    def merge(self, other: WhitenedGram) -> None:
        """Take all rows of another accumulator, which is left as it was; waits for the device.

        Raises:
            ShapeError: If the numbers of columns differ.
        """
        if other.n_features != self.n_features:
            raise ShapeError(f"cannot merge {other.n_features} columns into {self.n_features}")
        self._merged += other._triangles()
        left_out, count, first = other.notes
        if left_out or count:
            self._start(torch.device("cpu"))
            notes = self._state[2]
            notes[2] = first if notes[2] < 0 else notes[2]
            notes[0] += left_out
            notes[1] += count

    def tensors(self) -> list[Tensor]:
        """The state, on its device."""
        return [*self._state, *([] if self._shift is None else [self._shift]), *self._first]

    def holding(self, tensors: Sequence[Tensor]) -> WhitenedGram:
        """The same accumulator with copies of ``tensors``, in any dtype that holds them."""
        new = WhitenedGram(self.n_features, count_nonfinite=self.count_nonfinite)
        new._merged = list(self._merged)
        new._unwhitening, new._weight = self._unwhitening, self._weight
        if tensors:
            gram, still, notes, *rest = tensors
            new._state = [gram.double().clone(), still.bool(), notes.long()]
            if self._whitening is not None:
                new._whitening, new._shift = gram.new_zeros(0), rest.pop(0).double().clone()  # it takes no more rows
            new._first = [rows.clone() for rows in rest]
        return new

    def result(self) -> Factor:
        """Factor of all rows so far; ``duplicate`` stays empty.

        Raises:
            SpectrumError: If squares overflowed.
        """
        d = self.n_features
        none = np.zeros(d, dtype=bool)
        parts = self._triangles()
        if not parts:
            zero = np.zeros((d, d))
            return Factor(zero, zero, 0, d, ~none, ~none, none, ARITHMETIC_ROUNDOFF)
        shift = parts[0].shift
        moved = []
        for part in parts:
            moved.append(part.r.copy())
            moved[-1][:, 1:] += part.r[:, :1] * (part.shift - shift)
        triangle = moved[0] if len(moved) == 1 else _r_of(np.concatenate(moved))
        if not np.isfinite(triangle).all():
            raise SpectrumError("squares of these values overflow: method='whitened' cannot hold them; say method='qr'")
        constant = np.logical_and.reduce([part.constant & (part.shift == shift) for part in parts])
        triangle[:, 1:][:, constant] = 0.0
        raw = triangle[:, 1:] + triangle[:, :1] * shift
        frobenius = frobenius_norm(raw)
        shifted = frobenius_norm(triangle[:, 1:])
        error = float(np.linalg.norm([part.error for part in parts]))
        return Factor(
            raw=raw,
            centred=np.asarray(triangle[1:, 1:]),
            n_rows=sum(part.n_rows for part in parts),
            n_features=d,
            dead=constant & (shift == 0),
            constant=constant,
            duplicate=none,
            resolution=shifted_resolution(ARITHMETIC_ROUNDOFF, shifted=shifted, frobenius=frobenius)
            + (error / frobenius if frobenius > 0 else 0.0),
        )

    def _start(self, device: torch.device) -> None:
        """Make the state, once the device is known."""
        if not self._state:
            d = self.n_features
            notes = torch.zeros(4, dtype=torch.int64, device=device)
            notes[2].fill_(-1)
            still = torch.ones(d, dtype=torch.bool, device=device)
            self._state = [torch.zeros(d + 1, d + 1, dtype=torch.float64, device=device), still, notes]

    def _finite_first(self) -> list[Tensor]:
        """Portions that wait for W and are finite; waits for the device."""
        return [rows for rows in self._first if bool(torch.isfinite(rows).all())]

    def _whiten(self) -> None:
        """Find W from the first rows, if enough of them are finite, and take them."""
        finite = self._finite_first()
        if sum(map(len, finite)) < 4 * (self.n_features + 1):
            return
        rows = torch.cat(finite)
        self._shift = rows[0].clone()
        self._weight = float(torch.linalg.matrix_norm(rows - self._shift)) / len(rows) ** 0.5 or 1.0
        triangle = torch.linalg.qr(_with_ones(rows, self._shift, self._weight), mode="r").R
        _, values, vectors = scipy.linalg.svd(triangle.cpu().numpy(), lapack_driver="gesvd")
        scale = np.maximum(values, _CLAMP * values[0])
        self._unwhitening = scale[:, None] * vectors
        self._whitening = torch.from_numpy(vectors.T / scale).to(rows.device)
        self._state[2][0] += len(self._first) - len(finite)
        self._first = []
        self._take(rows)

    def _take(self, rows: Tensor) -> None:
        """Add the product of whitened rows, shape (n, d); where a value is not finite, nothing."""
        assert self._whitening is not None
        assert self._shift is not None
        gram, still, notes = self._state
        whitened = _with_ones(rows, self._shift, self._weight) @ self._whitening
        product = whitened.T @ whitened
        finite = torch.isfinite(product.diagonal()).all()
        gram += torch.where(finite, product, 0.0)
        still &= ((rows.amin(dim=0) == self._shift) & (rows.amax(dim=0) == self._shift)) | ~finite
        notes[0] += ~finite
        notes[3] += torch.where(finite, len(rows), 0)

    def _triangles(self) -> list[Triangle]:
        """One for the rows taken here, if there are any, and those that were merged."""
        if self._whitening is not None:
            own = [self._own_triangle()]
        else:
            finite = self._finite_first()
            own = [_triangle_of(torch.cat(finite).cpu().numpy())] if finite else []
        return own + self._merged

    def _own_triangle(self) -> Triangle:
        """From G: through Cholesky where C allows, else through its eigenvalues, as far as those are to be trusted."""
        assert self._unwhitening is not None
        assert self._shift is not None
        gram, still = self._state[0].cpu().numpy(), self._state[1].cpu().numpy()
        n_rows, shift = int(self._state[2][3]), self._shift.cpu().numpy()
        if not np.isfinite(gram).all():
            return Triangle(gram, shift, n_rows, still, np.inf)  # squares overflowed: found out later
        diagonal = np.sqrt(np.maximum(np.diag(gram), 0))
        back = diagonal[:, None] * self._unwhitening  # D^½ W⁻¹, its rows as long as the columns of [w 1, X - c] V
        noise = _U * (4 * len(gram) + np.sqrt(n_rows))  # of C, whose diagonal is 1
        lengths = np.linalg.norm(back, axis=1)
        empty = lengths <= 4 * _U * len(gram) * frobenius_norm(back)  # nothing but rounding, which D would blow up
        back[:, 0] /= self._weight
        kept, dropped, back = np.flatnonzero(~empty), back[empty], back[~empty]
        values, vectors = np.linalg.eigh(gram[np.ix_(kept, kept)] / np.outer(diagonal[kept], diagonal[kept]))
        root = np.zeros((len(gram), len(gram)))
        root[: len(kept)] = (np.sqrt(np.maximum(values, 0))[:, None] * vectors.T) @ back
        r = _r_of(root)
        smallest, offset = float(values[0]), float(np.linalg.norm(shift)) + frobenius_norm(r[:, 1:]) / np.sqrt(n_rows)
        error = np.sqrt(2 * noise) * _norm(back, offset)
        if smallest > 10 * noise:
            error = min(error, noise / smallest * _norm(r, offset))
        error += 4 * noise * _norm(back, offset) + _norm(dropped, offset)
        return Triangle(r, shift, n_rows, still, float(error))


def _norm(factor: NDArray[np.float64], offset: float) -> float:
    """What a factor of ``[1, X - c]`` weighs in X and in X less its means, where ones stand for ``offset``."""
    return frobenius_norm(factor[:, 1:]) + frobenius_norm(factor[:, :1]) * offset


def _r_of(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """R of a matrix."""
    return np.asarray(np.linalg.qr(matrix, mode="r"), dtype=np.float64)


def _with_ones(rows: Tensor, shift: Tensor, weight: float) -> Tensor:
    """``[w 1, X - c]``."""
    return torch.cat([rows.new_full((len(rows), 1), weight), rows - shift], dim=1)


def _triangle_of(rows: NDArray[np.float64]) -> Triangle:
    """The triangle of few rows, shape (n, d), directly."""
    n, d = rows.shape
    both = np.zeros((max(n, d + 1), d + 1))
    both[:n, 0], both[:n, 1:] = 1.0, rows - rows[0]
    constant = (rows == rows[0]).all(axis=0)
    return Triangle(_r_of(both), rows[0].copy(), n, constant, 0.0)
