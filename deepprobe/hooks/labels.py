"""Where a batch holds the classes of its samples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from deepprobe.hooks.passes import n_samples

LABEL_KEYS = ("labels", "label", "targets", "target", "y")
"""Where a dict batch holds its labels."""


def labels_of(batch: Any) -> Tensor | None:
    """One integer a sample, shape (n,), or None: the second of a pair, or what a dict holds under a label key."""
    if isinstance(batch, Mapping):
        found = next((batch[key] for key in LABEL_KEYS if key in batch), None)
    else:
        found = batch[1] if isinstance(batch, tuple | list) and len(batch) == 2 else None
    if not isinstance(found, Tensor) or found.is_floating_point() or found.is_complex():
        return None
    return found.reshape(-1) if found.numel() == n_samples(batch) else None
