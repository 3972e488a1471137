"""Masks of one network in one safetensors file, a bit a weight.

Each mask lies in the file as bytes of eight entries, in the order of ``mask.ravel()``, the first entry in a byte's
highest bit, zeros after the last. The tensors are named by index; names and shapes stand as JSON in the metadata.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as tensors_to_bytes

from deepprobe.errors import RunError
from deepprobe.runs.atomic import write_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

MASKS = "masks.safetensors"
"""Name of the masks' file in a run."""
MAX_BYTES = 2**30
"""8 thousand million weights."""
MAX_HEADER_BYTES = 4 * 2**20


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
    tensors = {str(i): np.packbits(mask, axis=None) for i, mask in enumerate(masks.values())}
    entries = json.dumps([[name, list(mask.shape)] for name, mask in masks.items()], separators=(",", ":"))
    content = tensors_to_bytes(tensors, metadata={"masks": entries})
    if len(content) > MAX_BYTES or int.from_bytes(content[:8], "little") > MAX_HEADER_BYTES:
        raise RunError(f"cannot write {path}: {len(masks):,} masks in {len(content):,} bytes are too many to read")
    write_bytes(path, content)


def read_masks(path: Path) -> dict[str, NDArray[np.bool_]]:
    """Read what ``write_masks`` wrote.

    Args:
        path: The file.

    Returns:
        Parameter name to mask, dtype bool, True where the weight is kept, in the order in which they were written.

    Raises:
        RunError: If the file is missing, or is not of this form in every byte.
    """
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise RunError(f"{path} has {size:,} bytes; at most {MAX_BYTES:,} were expected")
        content = path.read_bytes()
        header = json.loads(content[8 : 8 + min(int.from_bytes(content[:8], "little"), MAX_HEADER_BYTES)])
        entries = json.loads(header["__metadata__"]["masks"])
        tensors = load_tensors(content)
        masks = {name: _unpacked(tensors.pop(str(i)), name, shape) for i, (name, shape) in enumerate(entries)}
        if tensors or len(masks) != len(entries):
            raise ValueError(f"{len(masks)} masks under names of their own, {len(entries)} names, and more tensors")
    except RunError:
        raise
    except FileNotFoundError:
        raise RunError(f"there is no file {path}; masks are written by deepprobe lottery") from None
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError, SafetensorError) as error:
        raise RunError(f"{path} is damaged: expected masks in safetensors, found {error}") from error
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
