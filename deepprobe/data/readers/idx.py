"""IDX, the format of MNIST: big-endian magic number, sizes, then unsigned bytes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from deepprobe.data.readers.bounded import read_bounded
from deepprobe.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray


def read_idx(path: Path, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Array of unsigned bytes from an IDX file, plain or gzip-compressed.

    The format is described on the MNIST page of Y. LeCun: two zero bytes, 0x08 for unsigned bytes, the number of
    dimensions, each size as a 32-bit big-endian integer, the values in C order.

    Args:
        path: The file.
        shape: Expected shape; of the first size fewer, but at least one, are accepted.

    Returns:
        uint8, read-only, of that shape.

    Raises:
        DataError: If magic number, sizes or length are not those expected.
    """
    header = 4 + 4 * len(shape)
    content = read_bounded(path, limit=header + math.prod(shape))
    magic = bytes((0, 0, 8, len(shape)))
    if content[:4] != magic:
        raise DataError(
            f"{path}: expected an IDX file of {len(shape)} dimensions, magic 0x{magic.hex()}, "
            f"found 0x{content[:4].hex()}"
        )
    if len(content) < header:
        raise DataError(f"{path}: the IDX header is truncated, {len(content)} of {header} bytes")
    sizes = tuple(int.from_bytes(content[i : i + 4], "big") for i in range(4, header, 4))
    if not 1 <= sizes[0] <= shape[0] or sizes[1:] != shape[1:]:
        raise DataError(f"{path}: expected sizes {_times(shape)} (or fewer items), found {_times(sizes)}")
    if len(content) - header != math.prod(sizes):
        raise DataError(
            f"{path}: expected {math.prod(sizes)} bytes after the header for sizes {_times(sizes)}, "
            f"found {'more' if len(content) - header > math.prod(sizes) else len(content) - header}"
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(sizes)


def read_idx_labels(path: Path, n: int, n_classes: int) -> NDArray[np.int64]:
    """Labels from an IDX file.

    Args:
        path: The file.
        n: Largest number of labels.
        n_classes: Labels must be 0 … n_classes − 1.

    Returns:
        int64, shape (m,), 1 ≤ m ≤ n.

    Raises:
        DataError: If the file is not such an IDX file, or a label is out of range.
    """
    labels = read_idx(path, (n,)).astype(np.int64)
    if labels.max() >= n_classes:
        raise DataError(f"{path}: expected labels 0 … {n_classes - 1}, found {labels.max()}")
    return labels


def _times(sizes: tuple[int, ...]) -> str:
    """Sizes as 60000×28×28."""
    return "×".join(str(size) for size in sizes)
