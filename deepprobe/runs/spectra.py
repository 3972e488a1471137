"""Singular spectra of one step in one safetensors file."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np

from deepprobe.runs.arrays import reading_arrays, write_arrays

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import ArrayLike, NDArray

FOLDER = "spectra"
MAX_BYTES = 64 * 2**20
"""8 million singular values of one step."""
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
    rows = [np.ascontiguousarray(values, dtype=np.float64) for values in spectra.values()]
    write_arrays(path, rows, list(spectra), what="spectra", under="keys", max_bytes=MAX_BYTES)


def read_spectra(path: Path) -> dict[str, NDArray[np.float64]]:
    """Read what ``write_spectra`` wrote.

    Args:
        path: The file.

    Returns:
        Key to singular values, in the order in which they were written.

    Raises:
        RunError: If the file is not of this form.
    """
    with reading_arrays(path, what="spectra", under="keys", max_bytes=MAX_BYTES) as found:
        for key, values in found:
            if not isinstance(key, str) or values.ndim != 1 or values.dtype != np.float64:
                raise ValueError(f"{str(key)[:100]!r}, which is no row of float64")
        return dict(found)
