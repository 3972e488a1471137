"""Initial weights: what each scheme draws, and in which order.

``he`` draws convolutions from N(0, gain²/fan_out) and fully connected layers from N(0, gain²/fan_in), He et al. (2015),
with the gain of the network's activation; ``he_uniform`` has the same variance. ``glorot`` and ``glorot_uniform`` are
Glorot & Bengio (2010). ``orthogonal`` makes the kernel, as a matrix out × (in · k · k), (semi-)orthogonal, Saxe et al.
(2014); ``delta_orthogonal`` does so for the kernel's centre alone and leaves the rest zero, Xiao et al. (2018).
The orthogonal schemes have gain 1 whatever the activation; ``init_gain`` changes that.
Fans of a grouped convolution are those of one group. Biases are zero.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor, nn

from deepprobe.errors import ConfigError
from deepprobe.models.activations import activation_gain

Scheme = Literal["he", "he_uniform", "glorot", "glorot_uniform", "orthogonal", "delta_orthogonal"]
Weighted = nn.Conv2d | nn.Linear


def weighted_layers(model: nn.Module, *, shortcuts: bool = False) -> Iterator[tuple[str, Weighted]]:
    """Convolutions and fully connected layers of the main path in the order of their definition.

    Args:
        model: The network.
        shortcuts: Give those on shortcuts instead (a part of the dotted name is ``shortcut``).

    Yields:
        Dotted name and layer.
    """
    for name, module in model.named_modules():
        if isinstance(module, Weighted) and ("shortcut" in name.split(".")) == shortcuts:
            yield name, module


@torch.no_grad()
def initialise(
    model: nn.Module,
    scheme: Scheme,
    *,
    activation: str = "relu",
    gain: float = 1.0,
    generator: torch.Generator | None = None,
) -> None:
    """Draw all weights anew, the main path first.

    Shortcuts come last so that networks which differ only in them start from the same main path.

    Args:
        model: The network, changed in place. Normalisation layers are left alone.
        scheme: Name of the scheme.
        activation: Name of the network's activation, for the gain of ``he`` and ``he_uniform``.
        gain: Factor on all weights, over what the scheme gives.
        generator: Source of random numbers; the global one if None.

    Raises:
        ConfigError: If there is no such scheme.
    """
    for shortcuts in (False, True):
        for _, layer in weighted_layers(model, shortcuts=shortcuts):
            _draw(layer, scheme, activation_gain(activation), generator)
            layer.weight.mul_(gain)
            if layer.bias is not None:
                layer.bias.zero_()


@torch.no_grad()
def lsuv(model: nn.Module, images: Tensor, *, generator: torch.Generator | None = None) -> None:
    """Layer-sequential unit variance: orthogonal weights, scaled so that each layer's output has variance 1.

    Mishkin & Matas (2016). As all biases are zero an output scales with its weights, so that one forward pass in
    evaluation mode settles all layers exactly. A layer whose output is constant keeps its orthogonal weights.

    Args:
        model: The network, changed in place.
        images: A batch of typical inputs.
        generator: Source of random numbers; the global one if None.
    """
    initialise(model, "orthogonal", generator=generator)

    def normalise(layer: nn.Module, _inputs: object, output: Tensor) -> Tensor:
        deviation = output.double().std(correction=0)
        if not (deviation > 0 and deviation.isfinite()) or not isinstance(layer, Weighted):
            return output
        layer.weight.div_(deviation)
        return output / deviation.to(output.dtype)

    layers = [layer for shortcuts in (False, True) for _, layer in weighted_layers(model, shortcuts=shortcuts)]
    handles = [layer.register_forward_hook(normalise) for layer in layers]
    modes = {module: module.training for module in model.modules()}
    try:
        model.eval()
        model(images)
    finally:
        for handle in handles:
            handle.remove()
        for module, training in modes.items():
            module.training = training


def _draw(layer: Weighted, scheme: Scheme, gain: float, generator: torch.Generator | None) -> None:
    """Fill one layer's weight."""
    fan_in, fan_out = _fans(layer)
    he = gain / math.sqrt(fan_out if isinstance(layer, nn.Conv2d) else fan_in)
    glorot = math.sqrt(2.0 / (fan_in + fan_out))
    match scheme:
        case "he":
            layer.weight.normal_(0.0, he, generator=generator)
        case "he_uniform":
            layer.weight.uniform_(-math.sqrt(3.0) * he, math.sqrt(3.0) * he, generator=generator)
        case "glorot":
            layer.weight.normal_(0.0, glorot, generator=generator)
        case "glorot_uniform":
            layer.weight.uniform_(-math.sqrt(3.0) * glorot, math.sqrt(3.0) * glorot, generator=generator)
        case "orthogonal":
            for kernel in _groups(layer):
                nn.init.orthogonal_(kernel, generator=generator)
        case "delta_orthogonal":
            for kernel in _groups(layer):
                _delta_orthogonal(kernel, generator)
        case _:
            raise ConfigError(f"no initialisation {scheme!r}; there are {', '.join(Scheme.__args__)}")


def _fans(layer: Weighted) -> tuple[int, int]:
    """Inputs of one output and outputs of one input, within one group."""
    if isinstance(layer, nn.Linear):
        return layer.in_features, layer.out_features
    positions = math.prod(layer.kernel_size)
    return layer.in_channels // layer.groups * positions, layer.out_channels // layer.groups * positions


def _groups(layer: Weighted) -> tuple[Tensor, ...]:
    """The kernels of the groups, as views of the weight."""
    return layer.weight.chunk(layer.groups) if isinstance(layer, nn.Conv2d) else (layer.weight,)


def _delta_orthogonal(kernel: Tensor, generator: torch.Generator | None) -> None:
    """Orthogonal matrix at the kernel's centre, zero elsewhere."""
    if kernel.dim() == 2:
        nn.init.orthogonal_(kernel, generator=generator)
        return
    centre = nn.init.orthogonal_(kernel.new_empty(kernel.shape[:2]), generator=generator)
    kernel.zero_()
    kernel[:, :, kernel.shape[2] // 2, kernel.shape[3] // 2] = centre
