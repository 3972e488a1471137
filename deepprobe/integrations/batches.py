"""Parts of what a person passes as batches: the first samples, and a rank's share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from deepprobe.distributed import Ranks


def first(batches: Iterable[Any], n_samples: int) -> Iterator[Any]:
    """Batches cut after so many samples."""
    for batch in batches:
        if n_samples <= 0:
            return
        yield _cut(batch, slice(n_samples))
        n_samples -= _length(batch)


def shared(batches: Iterable[Any], ranks: Ranks) -> Iterator[Any]:
    """Of each batch the samples that this rank is to look at; empty where there are fewer samples than ranks."""
    return (_cut(batch, ranks.share(_length(batch))) for batch in batches)


def _cut(batch: Any, samples: slice) -> Any:
    """Some samples of a tensor, a pair or a dict of tensors."""
    if isinstance(batch, Mapping):
        return {key: _cut(value, samples) for key, value in batch.items()}
    if isinstance(batch, tuple | list):
        return type(batch)(_cut(value, samples) for value in batch)
    return batch[samples] if hasattr(batch, "shape") and len(batch.shape) else batch


def _length(batch: Any) -> int:
    """Number of samples in a batch."""
    if isinstance(batch, Mapping):
        return _length(next(iter(batch.values())))
    if isinstance(batch, tuple | list):
        return _length(batch[0])
    return len(batch)
