"""How large the weights are that lead into a unit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor


def weight_magnitudes(module: nn.Module) -> NDArray[np.float64] | None:
    """L2 norm of the weights that lead into each unit of a fully connected or convolutional layer.

    Biases are left out. The magnitude of a unit is the oldest score of its importance (Li et al. 2017, "Pruning filters
    for efficient convnets", with L1).

    Returns:
        Shape (units,), float64; None for every other layer.
    """
    by_unit = weights_by_unit(module, getattr(module, "weight", None))
    return None if by_unit is None else by_unit.detach().double().norm(dim=1).cpu().numpy()


def weights_by_unit(module: nn.Module, weights: Tensor | None) -> Tensor | None:
    """A layer's weights, or a mask of them, as (units, weights that lead into each); None where units have none.

    Args:
        module: The layer, which says how its kernel lies: a transposed convolution has its outputs on axis 1.
        weights: Tensor of the shape of its kernel.
    """
    if weights is None or not isinstance(module, (nn.Linear, nn.modules.conv._ConvNd)):
        return None
    if isinstance(module, nn.modules.conv._ConvTransposeNd):
        n_in, per_group = weights.shape[:2]
        grouped = weights.reshape(module.groups, n_in // module.groups, per_group, -1)
        return grouped.transpose(1, 2).reshape(module.groups * per_group, -1)
    return torch.flatten(weights, start_dim=1)
