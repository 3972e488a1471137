"""What is known of each kernel on one batch: its scale against the usual initialisations, its gradient, its update."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from deepprobe.diagnosis.roles import NORM, WEIGHTED
from deepprobe.errors import UnknownNameError
from deepprobe.hooks.kernels import Kernel, kernels
from deepprobe.linalg.precision import wide_dtype

if TYPE_CHECKING:
    from collections.abc import Mapping

COLUMNS = (
    "layer", "depth", "call", "tap", "view", "type", "dtype", "n_rows", "n_features", "sketched", "fan_in", "fan_out",
    "weight_rms", "weight_norm", "he_gain", "glorot_gain", "n_zero_units", "n_twin_units", "normalised", "module",
    "gradient_norm", "update_ratio",
)  # fmt: skip


def kernel_table(
    network: nn.Module,
    gradients: Mapping[int, Tensor | None],
    watched: Mapping[str, str],
    layers: pd.DataFrame,
    *,
    lr: float | None,
) -> pd.DataFrame:
    """One row a kernel of the watched layers.

    ``he_gain`` is rms(W) √(fan_in / 2), 1 where activations behind a ReLU keep their second moment (He et al. 2015,
    eq. 10); ``glorot_gain`` rms(W) √((fan_in + fan_out) / 2) (Glorot & Bengio 2010, eq. 12). ``n_zero_units`` counts
    outputs whose weights are all zero, ``n_twin_units`` others whose weights equal an earlier output's. ``normalised``:
    a normalisation comes before the next layer with weights. ``update_ratio`` is lr ‖∂L/∂W‖ / ‖W‖, the first step of
    plain SGD; NaN without ``lr``, inf for zero weights.

    Args:
        network: Unwrapped.
        gradients: By id of the parameter; None where the loss does not reach it.
        watched: Role by name.
        layers: What ``Watch.tables`` gave, in the order of execution.
        lr: Learning rate.
    """
    try:
        found = kernels(network)
    except UnknownNameError:
        return pd.DataFrame(columns=list(COLUMNS))
    names = {id(module): name for name, module in network.named_modules()}
    normalised = _normalised(layers)
    chosen = [k for k in found if names[id(k.module)] in watched]
    rows = [_row(k, names[id(k.module)], gradients, names[id(k.module)] in normalised, lr) for k in chosen]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _normalised(layers: pd.DataFrame) -> set[str]:
    """Layers whose output, straight or through a non-linearity, goes into a normalisation, by order of execution."""
    found: set[str] = set()
    last = ""
    for layer, role in zip(layers["layer"], layers["role"], strict=True):
        if role == NORM:
            found.add(last)
        if role == WEIGHTED:
            last = layer
    return found


def _row(
    kernel: Kernel, module: str, gradients: Mapping[int, Tensor | None], normalised: bool, lr: float | None
) -> dict[str, Any]:
    """The numbers of one kernel."""
    weight = kernel.parameter.detach()
    wide = wide_dtype(weight.device)
    outputs, reads = _fans(kernel)
    norm = float(torch.linalg.vector_norm(weight, dtype=wide))
    rms = norm / weight.numel() ** 0.5
    units = weight.transpose(0, 1).reshape(weight.shape[1], -1) if kernel.is_transposed else weight.flatten(1)
    zero = int((units == 0).all(1).sum())
    gradient = gradients.get(id(kernel.parameter))
    known = id(kernel.parameter) in gradients
    size = float(torch.linalg.vector_norm(gradient.detach(), dtype=wide)) if gradient is not None else 0.0
    size = size if known else float("nan")
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = float(np.float64(size) * lr / norm) if lr is not None else float("nan")
    return kernel.columns(tap="gradient") | {
        "fan_in": reads, "fan_out": outputs, "weight_rms": rms, "weight_norm": norm,
        "he_gain": rms * (reads / 2) ** 0.5, "glorot_gain": rms * ((reads + outputs) / 2) ** 0.5,
        "n_zero_units": zero, "n_twin_units": len(units) - zero - _n_distinct(units),
        "normalised": normalised, "module": module, "gradient_norm": size, "update_ratio": ratio,
    }  # fmt: skip


def _fans(kernel: Kernel) -> tuple[int, int]:
    """Inputs of one output times positions for both ends: fan_out and fan_in, within one group."""
    weight = kernel.parameter
    positions = weight[0, 0].numel() if weight.ndim > 2 else 1
    outputs, inputs = weight.shape[0], weight.shape[1]
    if kernel.is_transposed:
        outputs, inputs = inputs, outputs // kernel.groups
    elif kernel.is_convolution:
        outputs //= kernel.groups
    return outputs * positions, inputs * positions


def _n_distinct(units: Tensor) -> int:
    """Different rows that are not zero, NaN-safe."""
    rows = units[(units != 0).any(1)].cpu()
    known = torch.isfinite(rows).all(1)
    return len({row.tobytes() for row in rows[known].float().numpy()}) + int((~known).sum())
