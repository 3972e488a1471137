"""Streaming QR in float64: the default accumulator, accurate to κ = 1e14.

The state is the triangle R of ``[1, X - c]``, with c the first row that came. Rows fold in by LAPACK's structured
update ``tpqrt`` (sequential TSQR: Demmel, Grigori, Hoemmen & Langou 2012); nothing is squared, so that where a Gram
matrix turns to noise at κ = 1e8 this does not. Taking the first row out costs nothing and keeps the centred spectrum
accurate under means that dwarf the spread; constant and dead columns come out as exact zeros.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import cache
from threading import local
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.linalg.lapack import dtpqrt

from deepprobe.errors import ShapeError
from deepprobe.linalg.factor import Factor, shifted_resolution
from deepprobe.records.spectrum import ARITHMETIC_ROUNDOFF, frobenius_norm

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

LANES = 4
"""Independent triangles over which a large update is spread; fixed, so that results do not depend on the machine."""

_scratch = local()


@cache
def _pool() -> ThreadPoolExecutor:
    """Threads for the lanes; LAPACK runs outside the interpreter lock."""
    import os

    return ThreadPoolExecutor(max_workers=min(LANES, os.cpu_count() or 1), thread_name_prefix="deepprobe-qr")


class StreamingQR:
    """Accumulates the R factor of all rows.

    Args:
        n_features: Columns d, at least 1.

    Example:
        >>> qr = StreamingQR(2)
        >>> qr.update(np.array([[3.0, 0.0], [0.0, 4.0], [0.0, 0.0]]).T[None])
        >>> np.linalg.svd(qr.result().raw, compute_uv=False).round(12)
        array([4., 3.])
    """

    def __init__(self, n_features: int) -> None:
        self.n_features = n_features
        self.n_rows = 0
        self._block = max(
            1024, 4 * n_features
        )  # rows folded at a time: large enough for LAPACK, small enough for cache
        self._shift: NDArray[np.float64] | None = None
        self._lanes = [_Lane(n_features)]
        self._pending: list[NDArray[np.floating]] = []
        self._n_pending = 0

    def update(self, blocks: NDArray[np.floating]) -> None:
        """Take rows.

        Args:
            blocks: Shape (b, d, p), finite, any real dtype; b · p rows. Copied where it is kept.

        Raises:
            ShapeError: If d is not ``n_features``.
        """
        if blocks.ndim != 3 or blocks.shape[1] != self.n_features:
            raise ShapeError(
                f"rows of shape {blocks.shape} do not fit (b, {self.n_features}, p), d = {self.n_features}"
            )
        n = blocks.shape[0] * blocks.shape[2]
        if n == 0:
            return
        if self._shift is None:
            self._start(blocks[0, :, 0].astype(np.float64))
        self.n_rows += n
        if n < self._block:
            self._pending.append(blocks.copy())
            self._n_pending += n
            if self._n_pending >= self._block:
                self._flush()
        else:
            self._fold([blocks])

    def merge(self, other: StreamingQR) -> None:
        """Take all rows of another accumulator, which is left as it was; associative to rounding.

        Raises:
            ShapeError: If the numbers of columns differ.
        """
        if other.n_features != self.n_features:
            raise ShapeError(f"cannot merge {other.n_features} columns into {self.n_features}")
        if other._shift is None:
            return
        if self._shift is None:
            self._start(other._shift.copy())
        assert self._shift is not None
        self._flush()
        other._flush()
        for lane in other._lanes:
            self._lanes[0].absorb(lane, lane_shift=other._shift, shift=self._shift)
        self.n_rows += other.n_rows

    def result(self) -> Factor:
        """Factor of all rows so far.

        Returns:
            ``raw`` (d + 1, d) and ``centred`` (d, d).
        """
        self._flush()
        d = self.n_features
        shift = np.zeros(d) if self._shift is None else self._shift
        total = _Lane(d)
        for lane in self._lanes:
            total.absorb(lane, lane_shift=shift, shift=shift)
        triangle = np.triu(total.triangle)
        raw = triangle[:, 1:].copy()
        raw[0] += triangle[0, 0] * shift
        constant = np.logical_not(triangle[:, 1:].any(axis=0))
        dead = constant & (shift == 0)
        duplicate = _later_twins(total.twins, d) & ~dead
        return Factor(
            raw=raw,
            centred=triangle[1:, 1:].copy(),
            n_rows=self.n_rows,
            n_features=d,
            dead=dead,
            constant=constant,
            duplicate=duplicate,
            resolution=shifted_resolution(
                ARITHMETIC_ROUNDOFF, shifted=frobenius_norm(triangle[:, 1:]), frobenius=frobenius_norm(raw)
            ),
        )

    def __getstate__(self) -> dict[str, Any]:
        """One triangle in place of the lanes and of the rows that wait."""
        self._flush()
        for lane in self._lanes[1:]:
            assert self._shift is not None
            self._lanes[0].absorb(lane, lane_shift=self._shift, shift=self._shift)
        del self._lanes[1:]
        return vars(self)

    def _start(self, shift: NDArray[np.float64]) -> None:
        """Fix the row that is taken out of every other."""
        self._shift = shift

    def _flush(self) -> None:
        """Fold in the rows that wait."""
        pending, self._pending, self._n_pending = self._pending, [], 0
        if pending:
            self._fold(pending)

    def _fold(self, portions: list[NDArray[np.floating]]) -> None:
        """Fold portions in, a large one spread over the lanes."""
        assert self._shift is not None
        chunks = [chunk for blocks in portions for chunk in _chunks(blocks, self._block)]
        if len(portions) > 1 or len(chunks) < LANES:
            if len(portions) > 1 and len({p.shape[2] for p in portions}) == 1:
                chunks = list(_chunks(np.concatenate(portions), self._block))
            self._lanes[0].fold(chunks, self._shift)
            return
        while len(self._lanes) < LANES:
            self._lanes.append(_Lane(self.n_features))
        jobs = [_pool().submit(lane.fold, chunks[i::LANES], self._shift) for i, lane in enumerate(self._lanes)]
        for job in jobs:
            job.result()


def triangle_of(rows: NDArray[np.floating]) -> NDArray[np.float64]:
    """R of ``[c, Hᵀ - c]`` for a wide H: its units streamed as rows, its samples as columns.

    Args:
        rows: H, shape (n, d), d ≥ n, finite.

    Returns:
        Shape (n + 1, n + 1), float64, upper triangular; c is the first sample, and stands in the first column.
    """
    lane, step = _Lane(len(rows)), max(1024, 4 * len(rows))
    for start in range(0, rows.shape[1], step):
        part = np.empty((len(rows) + 1, min(step, rows.shape[1] - start)))
        part[1:] = rows[:, start : start + step]
        part[0] = part[1]
        part[1:] -= part[0]
        lane.fold_rows(part.T)
    return np.triu(lane.triangle)


class _Lane:
    """One triangle of ``[1, X - c]`` and the groups of columns that have been equal so far."""

    def __init__(self, n_features: int) -> None:
        self.triangle = np.zeros((n_features + 1, n_features + 1), order="F")
        self.twins: NDArray[np.intp] | None = None

    def fold(self, chunks: list[NDArray[np.floating]], shift: NDArray[np.float64]) -> None:
        """Fold chunks of shape (b, d, p) in, one after the other."""
        for chunk in chunks:
            b, d, p = chunk.shape
            rows = _scratch_array((d + 1) * b * p).reshape(d + 1, b * p)
            rows[0] = 1.0
            target = rows[1:].reshape(d, b, p)
            target[...] = chunk.transpose(1, 0, 2)
            self.twins = _refine(self.twins, rows[1:])  # before the shift, under which small differences would vanish
            target -= shift[:, None, None]
            self.fold_rows(rows.T)

    def absorb(self, other: _Lane, *, lane_shift: NDArray[np.float64], shift: NDArray[np.float64]) -> None:
        """Fold another lane's triangle in, moved from its shift to this one."""
        rows = np.triu(other.triangle)
        rows[0, 1:] += rows[0, 0] * (lane_shift - shift)
        if other.twins is not None:
            self.twins = other.twins if self.twins is None else _labels(self.twins, other.twins)
        self.fold_rows(np.asfortranarray(rows))

    def fold_rows(self, rows: NDArray[np.float64]) -> None:
        """R of [R; rows], rows of shape (m, d + 1) in Fortran order; both are overwritten."""
        width = rows.shape[1]
        block = min(8 if width <= 65 else 16, width)
        self.triangle, _, _, info = dtpqrt(0, block, self.triangle, rows, overwrite_a=1, overwrite_b=1)
        assert info == 0


def _scratch_array(size: int) -> NDArray[np.float64]:
    """Room for one chunk, kept by each thread."""
    room: NDArray[np.float64] | None = getattr(_scratch, "room", None)
    if room is None or room.size < size:
        room = _scratch.room = np.empty(size)
    return room[:size]


def _chunks(blocks: NDArray[np.floating], rows: int) -> Iterator[NDArray[np.floating]]:
    """Cut (b, d, p) into views of about ``rows`` rows: whole blocks where they are small, parts where large."""
    b, _, p = blocks.shape
    if p <= rows:
        step = max(1, rows // p)
        yield from (blocks[i : i + step] for i in range(0, b, step))
    else:
        yield from (blocks[i : i + 1, :, j : j + rows] for i in range(b) for j in range(0, p, rows))


def _labels(*keys: NDArray[np.intp]) -> NDArray[np.intp]:
    """One label for each distinct combination of keys."""
    return np.unique(np.stack(keys), axis=1, return_inverse=True)[1].reshape(-1)


def _refine(twins: NDArray[np.intp] | None, columns: NDArray[np.float64]) -> NDArray[np.intp]:
    """Split the groups of equal columns by the rows just seen; exact, and nearly free once every group is single."""
    d = len(columns)
    if twins is None:
        twins = np.zeros(d, dtype=np.intp)
    sizes = np.bincount(twins, minlength=d)
    suspects = np.flatnonzero(sizes[twins] > 1)
    if len(suspects) == 0:
        return twins
    seen: dict[tuple[int, bytes], int] = {}
    refined = twins.copy()
    free = iter(np.flatnonzero(sizes == 0))
    kept: set[int] = set()
    for i in suspects:
        old = int(twins[i])
        key = (old, (columns[i] + 0.0).tobytes())  # + 0.0 makes -0.0 and 0.0 alike
        if key not in seen:
            seen[key] = int(next(free)) if old in kept else old
            kept.add(old)
        refined[i] = seen[key]
    return refined


def _later_twins(twins: NDArray[np.intp] | None, d: int) -> NDArray[np.bool_]:
    """Columns equal to one before them; none before there are rows."""
    later = np.full(d, twins is not None)
    if twins is not None:
        later[np.unique(twins, return_index=True)[1]] = False
    return later
