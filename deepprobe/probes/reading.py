"""How layers are read: what a probe is asked for, and the tensor as an array or as what its dtype allows to know."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from deepprobe.errors import ShapeError
from deepprobe.linalg.matricize import ROW_VIEWS
from deepprobe.linalg.rows import WIDEST_TRIANGLE
from deepprobe.records.spectrum import UNIT_ROUNDOFF

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

METHODS = ("auto", "qr", "gram", "whitened")
"""How rows are accumulated."""


@dataclass(frozen=True)
class Reading:
    """How layers are read.

    Attributes:
        view: How a tensor becomes rows.
        positions: Random positions a sample, or None for all.
        method: ``qr`` (float64, on the CPU, accurate to κ = 1e14), ``gram`` (float64, on the model's device, blind
            below 4e-8), ``whitened`` (the same, but nearly as accurate as ``qr``; waits for the device once a layer) or
            ``auto``.
        count_units: Whether dead, constant and rare units are counted over all rows.
        certify: Whether exact ranks are gathered for layers that come out singular at precision.
        error_groups: Groups of samples for the standard error, or 0.
        shuffled_null: Whether rows of maps permuted over samples are gathered too.
    """

    view: str = "channels"
    positions: int | None = None
    method: str = "auto"
    count_units: bool = True
    certify: bool = False
    error_groups: int = 0
    shuffled_null: bool = False

    def settled(self, tensor: Tensor, n_features: int) -> Reading:
        """The same with the method that a layer's tensor and its units d ask for.

        ``auto`` is ``gram`` on CUDA, where a triangle would take as many launches as it has columns, for the dtypes
        whose rounding lies above its floor, and ``whitened`` there for float64; ``qr`` for the views that ask about
        rows, and on other devices.
        Layers of more units than a d × d matrix is kept for (4,096) are gathered as rows, whatever the method.
        """
        method = self.method
        if n_features > WIDEST_TRIANGLE:
            method = "qr"
        elif method == "auto":
            on_device = tensor.device.type == "cuda" and self.view not in ROW_VIEWS
            method = ("whitened" if tensor.dtype == torch.float64 else "gram") if on_device else "qr"
        return replace(self, method=method)


def as_array(tensor: Tensor) -> NDArray[np.floating]:
    """The tensor as an array, without a copy for float32 and float64 on the CPU; halves widen to float32, exactly."""
    if tensor.dtype not in {torch.float32, torch.float64}:
        tensor = tensor.float()
    array: NDArray[np.floating] = tensor.detach().cpu().resolve_neg().numpy()
    return array


def coarser(name: str, dtype: torch.dtype) -> str:
    """Name of the coarser of two dtypes: the one that sets what can be known."""
    new = str(dtype).removeprefix("torch.")
    if new not in UNIT_ROUNDOFF:
        raise ShapeError(f"activations of dtype {new} have no spectrum: there are {', '.join(UNIT_ROUNDOFF)}")
    return coarser_name(name, new)


def coarser_name(a: str, b: str) -> str:
    """The coarser of two dtypes' names; an empty one is none yet."""
    return max((name for name in (a, b) if name), key=UNIT_ROUNDOFF.__getitem__, default="")
