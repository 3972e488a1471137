"""Non-linearities by name. None works in place: a probe's tensors must stay what they were."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Literal

from torch import nn

Activation = Literal["relu", "leaky_relu", "elu", "selu", "gelu", "silu", "softplus", "tanh", "sigmoid", "identity"]

ACTIVATIONS: Mapping[str, Callable[[], nn.Module]] = MappingProxyType(
    {
        "relu": nn.ReLU,
        "leaky_relu": nn.LeakyReLU,
        "elu": nn.ELU,
        "selu": nn.SELU,
        "gelu": nn.GELU,
        "silu": nn.SiLU,
        "softplus": nn.Softplus,
        "tanh": nn.Tanh,
        "sigmoid": nn.Sigmoid,
        "identity": nn.Identity,
    }
)
"""Modules by name; a new one for each use, so that each has a name of its own in the network."""


def activation_gain(name: str) -> float:
    """Factor that He-type initialisation uses for an activation.

    As in :func:`torch.nn.init.calculate_gain`; smooth relatives of ReLU, which it does not list, get ReLU's √2.

    Args:
        name: Name of the activation.

    Returns:
        Factor on the standard deviation of the weights.
    """
    if name == "identity":
        return 1.0
    known = name if name in {"leaky_relu", "tanh", "sigmoid", "selu"} else "relu"
    return nn.init.calculate_gain(known)  # type: ignore[arg-type]
