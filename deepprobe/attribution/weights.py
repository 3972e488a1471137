"""How large the weights are that lead into a unit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

if TYPE_CHECKING:
    from numpy.typing import NDArray


def weight_magnitudes(module: nn.Module) -> NDArray[np.float64] | None:
    """L2 norm of the weights that lead into each unit of a fully connected or convolutional layer.

    Biases are left out. The magnitude of a unit is the oldest score of its importance (Li et al. 2017, "Pruning filters
    for efficient convnets", with L1).

    Returns:
        Shape (units,), float64; None for every other layer.
    """
    if not isinstance(module, (nn.Linear, nn.modules.conv._ConvNd)):
        return None
    weights = module.weight.detach().double()
    if isinstance(module, nn.modules.conv._ConvTransposeNd):  # (in, out / groups, …)
        n_in, per_group = weights.shape[:2]
        grouped = weights.reshape(module.groups, n_in // module.groups, per_group, -1)
        weights = grouped.transpose(1, 2).reshape(module.groups * per_group, -1)
    return np.asarray(torch.flatten(weights, start_dim=1).norm(dim=1).cpu().numpy())
