"""One file of CIFAR-10 or CIFAR-100 in either of the official formats, Python and binary."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from deepprobe.data.readers.arraypickle import read_array_pickle
from deepprobe.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

Batch: TypeAlias = "tuple[NDArray[np.uint8], NDArray[np.int64]]"

_PIXELS = 3 * 32 * 32


def python_limit(n: int) -> int:
    """Largest length in bytes of a Python file of n images: Python 3 may write a pixel as two bytes of UTF-8."""
    return n * (2 * _PIXELS + 256) + 2**16


def binary_limit(n: int) -> int:
    """Largest length in bytes of a binary file of n images."""
    return n * (_PIXELS + 2)


def decode_python(content: bytes, origin: str, *, key: str, n: int, n_classes: int) -> Batch:
    """Images and labels of one file of ``cifar-10-batches-py`` or ``cifar-100-python``; no pickle is executed.

    Args:
        content: The file.
        origin: Its name, for error messages.
        key: Where the labels are: ``"labels"`` (CIFAR-10) or ``"fine_labels"`` (CIFAR-100).
        n: Largest number of images.
        n_classes: Labels must be 0 … n_classes − 1.

    Returns:
        Images, uint8, shape (m, 32, 32, 3); labels, int64, shape (m,); 1 ≤ m ≤ n.

    Raises:
        DataError: If the file is not such a batch.
    """
    batch = read_array_pickle(content, origin)
    for wanted in ("data", key):
        if wanted not in batch:
            raise DataError(f"{origin}: expected the keys 'data' and {key!r}, found {_keys(batch)}")
    data, labels = batch["data"], batch[key]
    if not isinstance(data, np.ndarray) or data.ndim != 2 or data.shape[1] != _PIXELS or not 1 <= len(data) <= n:
        found = f"shape {data.shape}" if isinstance(data, np.ndarray) else f"a {type(data).__name__}"
        raise DataError(f"{origin}: expected 'data' of shape 1 … {n} × {_PIXELS}, found {found}")
    if not isinstance(labels, list) or len(labels) != len(data):
        found = f"{len(labels)}" if isinstance(labels, list) else f"a {type(labels).__name__}"
        raise DataError(f"{origin}: expected a list of {len(data)} labels, one an image, found {found}")
    if not all(type(label) is int and 0 <= label < n_classes for label in labels):
        raise DataError(f"{origin}: expected labels 0 … {n_classes - 1}, found others")
    return _channels_last(data), np.asarray(labels, np.int64)


def decode_binary(content: bytes, origin: str, *, n_label_bytes: int, n: int, n_classes: int) -> Batch:
    """Images and labels of one file of ``cifar-10-batches-bin`` or ``cifar-100-binary``.

    Args:
        content: The file: for each image its label bytes, then 1,024 red, green and blue values.
        origin: Its name, for error messages.
        n_label_bytes: 1 (CIFAR-10), or 2 (CIFAR-100: superclass, then class).
        n: Largest number of images.
        n_classes: Labels must be 0 … n_classes − 1.

    Returns:
        Images, uint8, shape (m, 32, 32, 3); labels, int64, shape (m,); 1 ≤ m ≤ n.

    Raises:
        DataError: If the length is not a whole number of images, or a label is out of range.
    """
    width = n_label_bytes + _PIXELS
    if len(content) % width or not 1 <= len(content) // width <= n:
        raise DataError(f"{origin}: expected 1 … {n} images of {width} bytes, found {len(content)} bytes")
    rows = np.frombuffer(content, np.uint8).reshape(-1, width)
    labels = rows[:, n_label_bytes - 1].astype(np.int64)
    if labels.max() >= n_classes:
        raise DataError(f"{origin}: expected labels 0 … {n_classes - 1}, found {labels.max()}")
    return _channels_last(rows[:, n_label_bytes:]), labels


def _channels_last(rows: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Rows of red, green and blue planes as images."""
    return np.ascontiguousarray(rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))


def _keys(batch: dict[str, object]) -> str:
    """The first keys of a dictionary, for an error message."""
    return ", ".join(repr(key[:40]) for key in list(batch)[:8]) or "none"
