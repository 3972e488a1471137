"""Float64 Gram matrix: one matrix product an update, on any device; blind below 4e-8 of the largest value, and says so.

The error of a squared matrix is that of its square: singular values below about √(u_64 …) σ_1 are noise (measured floor
1.0e-8 to 1.5e-8 σ_1 for up to 1e6 rows). For float32 activations that floor lies under their own rounding, which makes
this the accumulator for a GPU; the factor carries the floor as its resolution, so that nothing below is certified.

An update never waits for the device. What it would have to ask the device – whether a value is not finite, whether rows
came before – is answered there and acted on there, by selection. Accumulators of one width take their rows together, in
one batched product: their matrices then lie in one tensor, a *bank*, and stay there for the next time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from deepprobe.errors import ShapeError, SpectrumError
from deepprobe.linalg.factor import Factor, shifted_resolution

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor

GRAM_RESOLUTION = 4e-8
"""Share of ‖H‖_F below which a Gram matrix's singular values are taken for noise."""

_MOST_NUMBERS = 2**24  # float64 numbers of rows that one product takes: 128 MB


class GramAccumulator:
    """Accumulates the Gram matrix of ``[1, X - c]`` in float64, c the first row, on the device of the rows.

    A portion of rows with a value that is not finite is left out whole, and counted.

    Args:
        n_features: Columns d.
        count_nonfinite: Count the values that are not finite, too, which takes another look at every value.
    """

    def __init__(self, n_features: int, *, count_nonfinite: bool = False) -> None:
        self.n_features = n_features
        self.count_nonfinite = count_nonfinite
        self._bank: _Bank | None = None
        self._place = 0

    @property
    def n_rows(self) -> int:
        """Rows taken so far; waits for the device."""
        return 0 if self._bank is None else int(self._bank.gram[self._place, 0, 0])

    @property
    def notes(self) -> tuple[int, int, int]:
        """Portions left out, values not finite, and the first unit that held one (-1: none); waits for the device."""
        if self._bank is None:
            return 0, 0, -1
        left_out, count, first = self._bank.notes[self._place].tolist()
        return left_out, count, first

    def update(self, blocks: NDArray[np.floating] | Tensor, *, last: bool = False) -> None:
        """Take rows as blocks of shape (b, d, p), a tensor on any device or an array; ``last`` changes nothing.

        Raises:
            ShapeError: If d is not ``n_features``.
        """
        update_together([self], torch.as_tensor(blocks)[None])

    def merge(self, other: GramAccumulator) -> None:
        """Add another accumulator's rows, which is left as it was.

        Raises:
            ShapeError: If the numbers of columns differ.
        """
        if other.n_features != self.n_features:
            raise ShapeError(f"cannot merge {other.n_features} columns into {self.n_features}")
        if other._bank is None:
            return
        mine = _bank_of([self], other._bank.gram.device if self._bank is None else self._bank.gram.device)
        mine.add(*(part.to(mine.gram.device) for part in other.tensors()))

    def tensors(self) -> list[Tensor]:
        """The state, on its device: Gram matrix, shift and notes; nothing before the first rows."""
        return [] if self._bank is None else [part[self._place] for part in self._bank.parts]

    def holding(self, tensors: Sequence[Tensor]) -> GramAccumulator:
        """The same accumulator with copies of ``tensors``, in any dtype that holds them."""
        new = GramAccumulator(self.n_features, count_nonfinite=self.count_nonfinite)
        if tensors:
            gram, shift, notes = tensors
            new._bank = _Bank(gram.double()[None], shift.double()[None], notes.long()[None])
        return new

    def __getstate__(self) -> dict[str, Any]:
        """Its own part of the bank, on the CPU."""
        return {
            "n_features": self.n_features,
            "count_nonfinite": self.count_nonfinite,
            "tensors": [part.cpu().clone() for part in self.tensors()],
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Alone in a bank of its own."""
        self.__init__(state["n_features"], count_nonfinite=state["count_nonfinite"])  # type: ignore[misc]
        self._bank = self.holding(state["tensors"])._bank

    def result(self) -> Factor:
        """Factor of all rows so far; ``duplicate`` stays empty, for a Gram matrix cannot tell equal from nearly so.

        Raises:
            SpectrumError: If squares overflowed.
        """
        d = self.n_features
        none = np.zeros(d, dtype=bool)
        if self._bank is None or self.n_rows == 0:
            zero = np.zeros((d, d))
            return Factor(zero, zero, 0, d, ~none, ~none, none, GRAM_RESOLUTION)
        gram, shift, _ = (part.cpu().numpy() for part in self.tensors())
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


def update_together(accumulators: Sequence[GramAccumulator], blocks: Tensor) -> None:
    """Give each accumulator its rows, in one batched product and without waiting for the device.

    Args:
        accumulators: L of them, of one width d.
        blocks: Shape (L, b, d, p), floating point, the rows of each.

    Raises:
        ShapeError: If d is not their width.
    """
    d = accumulators[0].n_features
    if blocks.ndim != 4 or blocks.shape[2] != d:
        raise ShapeError(f"rows of shape {tuple(blocks.shape[1:])} do not fit (b, {d}, p)")
    if blocks.numel():
        bank = _bank_of(accumulators, blocks.device)
        if accumulators[0].count_nonfinite:
            bank.note(blocks)
        bank.take(blocks)


class _Bank:
    """The state of L accumulators: Gram matrices (L, d + 1, d + 1), shifts (L, d), notes (L, 3), on one device."""

    def __init__(self, gram: Tensor, shift: Tensor, notes: Tensor) -> None:
        self.gram, self.shift, self.notes = gram, shift, notes

    @property
    def parts(self) -> tuple[Tensor, Tensor, Tensor]:
        """All of it."""
        return self.gram, self.shift, self.notes

    def take(self, blocks: Tensor) -> None:
        """Add the products of rows, shape (L, b, d, p); where a value is not finite, nothing."""
        count, b, d, p = blocks.shape
        started = self.gram[:, :1, 0] > 0
        shift = torch.where(started, self.shift, blocks[:, 0, :, 0].double())
        product = torch.zeros_like(self.gram)
        step = max(1, min(b, _MOST_NUMBERS // (count * p * (d + 1))))
        for start in range(0, b, step):
            part = blocks[:, start : start + step]
            rows = product.new_empty(count, part.shape[1], p, d + 1)
            rows[..., 0] = 1.0
            torch.sub(part.transpose(2, 3), shift[:, None, None], out=rows[..., 1:])
            flat = rows.view(count, -1, d + 1)
            product.baddbmm_(flat.transpose(1, 2), flat)
        finite = torch.isfinite(product[:, 0]).all(dim=1)  # the sums of all columns
        self.shift.copy_(torch.where(finite[:, None], shift, self.shift))
        self.gram += torch.where(finite[:, None, None], product, 0.0)
        self.notes[:, 0] += ~finite

    def note(self, blocks: Tensor) -> None:
        """Count what is not finite, and keep the first unit that held such a value."""
        counts, first = nonfinite_units(blocks)
        self.notes[:, 2] = torch.where(self.notes[:, 2] < 0, first, self.notes[:, 2])
        self.notes[:, 1] += counts

    def add(self, gram: Tensor, shift: Tensor, notes: Tensor) -> None:
        """Add the rows of another accumulator to the only one here."""
        if not self.gram[0, 0, 0]:
            self.shift[0] = shift
        move = torch.eye(len(shift) + 1, dtype=torch.float64, device=self.gram.device)
        move[0, 1:] = shift - self.shift[0]
        self.gram[0] += move.T @ gram @ move
        if self.notes[0, 2] < 0:
            self.notes[0, 2] = notes[2]
        self.notes[0, :2] += notes[:2]


def nonfinite_units(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """Values that are not finite, shape (L,), and the first unit that holds one, or -1; for blocks (L, b, d, p)."""
    counts = torch.isfinite(blocks).logical_not().sum(dim=(1, 3))
    units = torch.arange(counts.shape[1], device=blocks.device)
    first = torch.where(counts > 0, units, counts.shape[1]).amin(dim=1)
    return counts.sum(dim=1), torch.where(first < counts.shape[1], first, -1)


def _bank_of(accumulators: Sequence[GramAccumulator], device: torch.device) -> _Bank:
    """The bank that holds these accumulators, all of them and in this order; a new one if there is none yet."""
    bank = accumulators[0]._bank
    in_place = all(a._bank is bank and a._place == i for i, a in enumerate(accumulators))
    if bank is not None and in_place and len(bank.gram) == len(accumulators):
        return bank
    states = [a.tensors() or _nothing(a.n_features, device) for a in accumulators]
    bank = _Bank(*(torch.stack(parts) for parts in zip(*states, strict=True)))
    for place, accumulator in enumerate(accumulators):
        accumulator._bank, accumulator._place = bank, place
    return bank


def _nothing(d: int, device: torch.device) -> list[Tensor]:
    """The state before the first rows."""
    zeros = torch.zeros(d + 1, d + 1, dtype=torch.float64, device=device)
    notes = torch.zeros(3, dtype=torch.int64, device=device)
    notes[2].fill_(-1)
    return [zeros, torch.zeros(d, dtype=torch.float64, device=device), notes]


def _root(gram: NDArray[np.float64]) -> NDArray[np.float64]:
    """A matrix of which this is the Gram matrix; columns are scaled first, eigenvalues below zero taken for zero."""
    scale = np.sqrt(np.maximum(np.diag(gram), 0))
    unit = np.where(scale > 0, scale, 1.0)
    values, vectors = np.linalg.eigh(gram / np.outer(unit, unit))
    return np.asarray(np.sqrt(np.maximum(values, 0))[:, None] * vectors.T * scale)
