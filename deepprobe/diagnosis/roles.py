"""What a module is to a diagnosis: a block, a layer with weights, a non-linearity, a normalisation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from deepprobe.errors import UnknownNameError
from deepprobe.hooks.select import is_weighted, select_layers

if TYPE_CHECKING:
    from torch import Tensor

BLOCK, ACTIVATION, WEIGHTED, NORM = "block", "activation", "weighted", "norm"
"""Roles; where a module could have two, the first counts."""

BATCH_NORMS = (nn.modules.batchnorm._BatchNorm,)
"""Normalisations by statistics of the batch."""

NORMS = (
    *BATCH_NORMS,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.modules.instancenorm._InstanceNorm,
    nn.RMSNorm,
    nn.LocalResponseNorm,
)
"""All normalisations of torch."""

GATES = (nn.ReLU, nn.ReLU6, nn.Threshold, nn.Hardshrink, nn.Softshrink)
"""Non-linearities that give exactly zero, with slope zero, over a range of their input: their units can die."""


def roles(network: nn.Module) -> dict[str, str]:
    """Role of each module that has one, by dotted name, in order of registration."""
    try:
        blocks = set(select_layers(network, tap="block"))
    except UnknownNameError:
        blocks = set()
    found: dict[str, str] = {}
    for name, module in network.named_modules():
        if not name and any(network.children()):
            continue
        if name in blocks:
            found[name] = BLOCK
        elif isinstance(module, NORMS):
            found[name] = NORM
        elif is_weighted(module):
            found[name] = WEIGHTED
        elif is_activation(module):
            found[name] = ACTIVATION
    return found


def is_activation(module: nn.Module) -> bool:
    """Whether a module is one of torch's element-wise non-linearities; softmaxes and attention are none."""
    softmaxes = (nn.Softmax, nn.Softmax2d, nn.LogSoftmax, nn.Softmin, nn.MultiheadAttention)
    return type(module).__module__ == "torch.nn.modules.activation" and not isinstance(module, softmaxes)


def unit_axis(tensor: Tensor, *, has_1d_convolutions: bool) -> int:
    """Axis of the units: 1 for maps of channels, else the last (features of a matrix or of a sequence)."""
    return 1 if tensor.ndim > 3 or (tensor.ndim == 3 and has_1d_convolutions) else max(tensor.ndim - 1, 0)
