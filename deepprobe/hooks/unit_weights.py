"""The weights that make a unit, or that read it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
    from torch import Tensor


def unit_weights(module: nn.Module | None, tap: str) -> Tensor | None:
    """Weights of each unit of a linear layer or convolution.

    Units are channels of maps and features of vectors or tokens; biases are left out.

    Args:
        module: The layer.
        tap: ``output``: the weights that make a unit, one filter a row; ``input``: those that read it.

    Returns:
        Shape (units, weights of each), float64 on the CPU; None where the layer is neither, or the tap another.
    """
    if tap not in {"input", "output"} or not isinstance(module, nn.Linear | nn.modules.conv._ConvNd):
        return None
    weight = module.weight.detach().cpu().double()
    groups = 1 if isinstance(module, nn.Linear) else module.groups
    parts = weight.reshape(groups, len(weight) // groups, weight.shape[1], -1)  # groups, outputs, inputs, positions
    if getattr(module, "transposed", False):
        parts = parts.transpose(1, 2)
    if tap == "input":
        parts = parts.transpose(1, 2)
    return parts.reshape(parts.shape[0] * parts.shape[1], -1)
