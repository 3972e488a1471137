"""Masks of one network in one safetensors file, a bit a weight.

Each mask lies in the file as bytes of eight entries, in the order of ``mask.ravel()``, the first entry in a byte's
highest bit, zeros after the last.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from deepprobe.errors import RunError
from deepprobe.runs.arrays import reading_arrays, write_arrays

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

MASKS = "masks.safetensors"
"""Name of the masks' file in a run."""
MAX_BYTES = 2**30
"""8 thousand million weights."""


def write_masks(path: Path, masks: Mapping[str, NDArray[np.bool_]]) -> None:
    """Write masks aside and rename the file.

    Args:
        path: The file; its folder must be there.
        masks: Parameter name to mask, dtype bool, of the parameter's shape, True where the weight is kept.

    Raises:
        RunError: If a mask is not of dtype bool, the file cannot be written, or is more than can be read back.
    """
    for name, mask in masks.items():
        if mask.dtype != np.bool_:
            raise RunError(f"cannot write {path}: the mask of {name!r} is of {mask.dtype}, expected bool")
    packed = [np.packbits(mask, axis=None) for mask in masks.values()]
    entries = [[name, list(mask.shape)] for name, mask in masks.items()]
    write_arrays(path, packed, entries, what="masks", under="masks", max_bytes=MAX_BYTES)


def read_masks(path: Path) -> dict[str, NDArray[np.bool_]]:
    """Read what ``write_masks`` wrote.

    Args:
        path: The file.

    Returns:
        Parameter name to mask, dtype bool, True where the weight is kept, in the order in which they were written.

    Raises:
        RunError: If the file is missing, or is not of this form in every byte.
    """
    with reading_arrays(path, what="masks", under="masks", max_bytes=MAX_BYTES) as found:
        masks = {name: _unpacked(packed, name, shape) for (name, shape), packed in found}
        if len(masks) != len(found):
            raise ValueError(f"{len(masks)} names for {len(found)} masks")
    return masks


def _unpacked(packed: NDArray[Any], name: Any, shape: Any) -> NDArray[np.bool_]:
    """The mask that lies in bytes; ValueError if these are not bytes of that shape with zeros after the last entry."""
    if not isinstance(name, str) or not isinstance(shape, list) or any(type(d) is not int or d < 0 for d in shape):
        raise ValueError(f"a name and a shape like {str(name)[:100]!r}, {str(shape)[:100]}")
    n_entries = math.prod(shape)
    if packed.dtype != np.uint8 or packed.shape != (-(-n_entries // 8),):
        raise ValueError(f"{packed.dtype} of shape {packed.shape} for the mask {name[:100]!r} of shape {shape[:8]}")
    if n_entries % 8 and packed[-1] & (0xFF >> n_entries % 8):
        raise ValueError(f"bits after the last entry of the mask {name[:100]!r}")
    return np.unpackbits(packed, count=n_entries).reshape(shape).view(np.bool_)
