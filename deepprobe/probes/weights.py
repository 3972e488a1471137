"""Spectra of the weights themselves: every kernel as the matrix that it multiplies patches by."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import scipy.linalg
from tqdm.auto import tqdm

from deepprobe.hooks.kernels import Kernel, kernels
from deepprobe.linalg.factor import Factor
from deepprobe.linalg.threads import one_blas_thread
from deepprobe.measures.conditioning import Subject, spectrum
from deepprobe.records.spectrum import ARITHMETIC_ROUNDOFF, Spectrum, Units

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import nn

    from deepprobe.hooks.select import LayerSelection


def weight_spectra(model: nn.Module, layers: LayerSelection = None, *, progress: bool = True) -> dict[str, Spectrum]:
    """Singular spectrum of each kernel as a matrix, outputs × inputs · kernel positions.

    A convolution multiplies every patch of its input by this matrix (Sedghi et al. 2019 treat the larger matrix of
    the whole map, whose spectrum also depends on stride, padding and the map's size). The matrix of a grouped
    convolution is block-diagonal, one block a group: its singular values are those of all blocks together. The larger
    side is taken as rows, so that κ = σ₁ / σ_min is over all min(outputs, inputs · positions) values, and a unit is
    one column: mostly one filter; where there are more outputs than inputs · positions, one input.

    Args:
        model: Any module; its parameters are read where they are and left as they are.
        layers: Which layers, as in ``deepprobe.spectra``.
        progress: Show a bar once it takes more than two seconds, on a terminal or in a notebook.

    Returns:
        From layer name (``lstm.weight_hh_l0`` where a layer has several kernels) to ``Spectrum``, in order of
        registration; ``tap="weight"``, ``view="kernel"``, nothing centred. Status, interval and ranks mean what they
        mean for activations, with δ = u ‖W‖_F the rounding of the weights' dtype. Its ``frobenius`` is the weight
        norm ‖W‖_F, its ``sigma_max`` the spectral norm ‖W‖₂.

    Raises:
        UnknownNameError: If ``layers`` matches nothing, or nothing that has a kernel.

    Example:
        >>> import torch
        >>> layer = torch.nn.Linear(2, 2)
        >>> _ = layer.weight.data.copy_(torch.diag(torch.tensor([3.0, 1.0])))
        >>> round(weight_spectra(layer)[""].condition_number, 6)
        3.0
    """
    chosen = kernels(model, layers)
    with one_blas_thread(), ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        found = tqdm(
            pool.map(_spectrum, chosen), desc="weights", unit="kernel", total=len(chosen), delay=2, leave=False,
            disable=None if progress else True,
        )  # fmt: skip
        return {kernel.call.layer: s for kernel, s in zip(chosen, found, strict=True)}


def weight_table(model: nn.Module, layers: LayerSelection = None, *, progress: bool = True) -> pd.DataFrame:
    """Norms, condition numbers and ranks of a model's weights: one row a kernel, by depth.

    Args:
        model: Any module.
        layers: Which layers, as in ``deepprobe.spectra``.
        progress: Show a bar once it takes more than two seconds.

    Returns:
        The columns of ``condition_numbers`` (``sigma_max`` is the spectral norm ‖W‖₂) and ``weight_norm``, ‖W‖_F.

    Raises:
        UnknownNameError: If ``layers`` matches nothing, or nothing that has a kernel.

    Example:
        >>> import torch
        >>> weight_table(torch.nn.Conv2d(2, 4, 3))[["n_rows", "n_features", "status"]].values.tolist()
        [[18, 4, 'finite']]
    """
    return table_of(weight_spectra(model, layers, progress=progress))


def table_of(found: dict[str, Spectrum]) -> pd.DataFrame:
    """One row a kernel, with its norm."""
    return pd.DataFrame([s.row() | {"weight_norm": s.frobenius} for s in found.values()])


def _spectrum(kernel: Kernel) -> Spectrum:
    """Spectrum of one kernel."""
    n, d = kernel.matrix_shape
    parts = matrices(kernel)
    dtype = str(kernel.parameter.dtype).removeprefix("torch.")
    bad = ~np.isfinite(parts)
    if bad.any():
        units = Units(n_nonfinite=int(bad.sum()), first_nonfinite=int(np.flatnonzero(bad.any(axis=1))[0]))
        return Spectrum(
            singular_values=np.zeros(0), n_rows=n, n_features=d, dtype=dtype, frobenius=float("nan"), call=kernel.call,
            view="kernel", rank_bound=d, units=units,
        )  # fmt: skip
    subject = Subject(dtype=dtype, view="kernel", call=kernel.call)
    found = spectrum(_factor(parts, n, d), subject, with_centred=False)
    return found if kernel.groups == 1 else replace(found, condition_number_null=float("nan"))


def matrices(kernel: Kernel) -> NDArray[np.float64]:
    """A kernel's diagonal blocks, shape (groups, n / groups, d / groups) with n ≥ d, float64."""
    weight, groups = kernel.parameter.detach(), kernel.groups
    if kernel.is_transposed:
        blocks = weight.reshape(groups, len(weight) // groups, weight.shape[1], -1).transpose(1, 2)
        outputs = weight.shape[1]
    else:
        outputs = len(weight) // groups
        blocks = weight
    array = blocks.reshape(groups, outputs, -1).cpu().double().numpy()  # not every device has float64
    return array.transpose(0, 2, 1) if array.shape[2] >= array.shape[1] else array


def _factor(parts: NDArray[np.float64], n: int, d: int) -> Factor:
    """Factor of the block-diagonal matrix: the blocks' triangles, for the blocks may be tall."""
    raw = scipy.linalg.block_diag(*(_triangle(part) for part in parts))
    dead = ~parts.any(axis=1).reshape(-1)
    duplicate = np.concatenate([_repeated(part) for part in parts]) & ~dead
    return Factor(
        raw=raw, centred=raw, n_rows=n, n_features=d, dead=dead, constant=dead, duplicate=duplicate,
        resolution=ARITHMETIC_ROUNDOFF,
    )  # fmt: skip


def _triangle(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """The triangular factor R of a tall matrix, shape (d, d), with its singular values."""
    n, d = matrix.shape
    return matrix if n <= d else np.asarray(scipy.linalg.qr(matrix, mode="r", check_finite=False)[0][:d])


def _repeated(matrix: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Columns that equal an earlier one, shape (d,)."""
    _, first = np.unique(matrix + 0.0, axis=1, return_index=True)  # + 0.0 makes -0.0 the same as 0.0
    later = np.ones(matrix.shape[1], dtype=bool)
    later[first] = False
    return later
