"""Batches of anything: an image set, tensors, a Dataset, or an iterable that already yields batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from deepprobe.data.imageset import ImageSet
from deepprobe.errors import ConfigError, ShapeError


def batches(images: torch.Tensor, labels: torch.Tensor, batch_size: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Consecutive (images, labels) batches, in order; the last may be smaller.

    Args:
        images: Shape (n, …).
        labels: Shape (n, …), one row an image.
        batch_size: Images a batch, at least 1.

    Returns:
        Iterator of views, not copies.

    Raises:
        ConfigError: If batch_size is below 1.
        ShapeError: If there are not as many labels as images.
    """
    _check_size(batch_size)
    if len(images) != len(labels):
        raise ShapeError(f"{len(images)} images but {len(labels)} labels; give one label an image")
    return ((images[i : i + batch_size], labels[i : i + batch_size]) for i in range(0, len(images), batch_size))


def as_batches(source: Any, *, batch_size: int = 128) -> Iterator[Any]:
    """Iterator of batches of whatever holds data.

    Args:
        source: An ImageSet; a tensor, shape (n, …); a tuple (inputs, labels) of two tensors; a torch Dataset;
            or an iterable of batches such as a DataLoader, a list of tensors or a generator (passed on as it is).
        batch_size: Samples a batch, for the sources that are not batched yet.

    Returns:
        Iterator of (x, y) pairs, or of x for a bare tensor; of whatever it yields for an iterable.

    Raises:
        ConfigError: If the source is none of these, or batch_size is below 1.
        ShapeError: If there are not as many labels as images.
    """
    _check_size(batch_size)
    if isinstance(source, ImageSet):
        return batches(*source.tensors(), batch_size=batch_size)
    if isinstance(source, torch.Tensor):
        if source.ndim == 0:
            raise ShapeError("a single number has no batches; give a tensor of shape (n, …)")
        return (source[i : i + batch_size] for i in range(0, len(source), batch_size))
    if isinstance(source, tuple) and len(source) == 2 and all(isinstance(part, torch.Tensor) for part in source):
        return batches(*source, batch_size=batch_size)
    if isinstance(source, Dataset):
        return iter(DataLoader(source, batch_size=batch_size))
    if isinstance(source, Iterable) and not isinstance(source, str | bytes):
        return iter(source)
    raise ConfigError(
        f"no batches in a {type(source).__name__}; give an ImageSet, a tensor, a pair of tensors, "
        "a Dataset, a DataLoader or any iterable of batches"
    )


def _check_size(batch_size: int) -> None:
    """Refuse a batch size below 1."""
    if batch_size < 1:
        raise ConfigError(f"batch_size={batch_size} must be at least 1")
