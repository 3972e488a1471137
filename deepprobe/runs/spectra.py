"""Singular spectra of one step in one safetensors file.

Names of layers may hold anything; the tensors are named by index, and the keys stand as JSON in the file's metadata.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as tensors_to_bytes

from deepprobe.errors import RunError
from deepprobe.runs.atomic import write_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import ArrayLike, NDArray

FOLDER = "spectra"
MAX_BYTES = 64 * 2**20
"""8 million singular values of one step."""
MAX_HEADER_BYTES = 4 * 2**20
_FILE = re.compile(rf"{FOLDER}/step-(\d{{8,12}})\.safetensors\Z")


def file_of_step(step: int) -> str:
    """Path of a step's spectra, relative to the run."""
    return f"{FOLDER}/step-{step:08d}.safetensors"


def step_of_file(name: str) -> int | None:
    """The step whose spectra a file of a run holds, or None if it holds something else."""
    match = _FILE.match(name)
    return int(match[1]) if match else None


def write_spectra(path: Path, spectra: Mapping[str, ArrayLike]) -> None:
    """Write arrays aside and rename the file.

    Args:
        path: The file; its folder must be there.
        spectra: Key of a layer call (``tap/view/layer``) to its singular values, stored as float64.

    Raises:
        RunError: If it cannot be written, or is more than can be read back.
    """
    tensors = {str(i): np.ascontiguousarray(v, dtype=np.float64) for i, v in enumerate(spectra.values())}
    content = tensors_to_bytes(tensors, metadata={"keys": json.dumps(list(spectra))})
    if len(content) > MAX_BYTES or int.from_bytes(content[:8], "little") > MAX_HEADER_BYTES:
        raise RunError(f"cannot write {path}: {len(spectra):,} spectra in {len(content):,} bytes are too many to read")
    write_bytes(path, content)


def read_spectra(path: Path) -> dict[str, NDArray[np.float64]]:
    """Read what ``write_spectra`` wrote.

    Args:
        path: The file.

    Returns:
        Key to singular values, in the order in which they were written.

    Raises:
        RunError: If the file is not of this form.
    """
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise RunError(f"{path} has {size:,} bytes; at most {MAX_BYTES:,} were expected")
        content = path.read_bytes()
        header = json.loads(content[8 : 8 + min(int.from_bytes(content[:8], "little"), MAX_HEADER_BYTES)])
        keys = json.loads(header["__metadata__"]["keys"])
        tensors = load_tensors(content)
        strange = [name for name, tensor in tensors.items() if tensor.ndim != 1 or tensor.dtype != np.float64]
        if strange:
            raise ValueError(f"{strange[0][:100]!r}, which is no row of float64")
        return {key: tensors[str(i)] for i, key in enumerate(keys)}
    except RunError:
        raise
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError, SafetensorError) as error:
        raise RunError(f"{path} is damaged: expected spectra in safetensors, found {error}") from error
