"""All layers as one layer of captum's, so that one pass through the network serves every one of them.

captum's conductance, internal influence and Grad-CAM take one layer a call, and run the network forward and backward
for each: 164 times over for 164 layers. But all they ask of the network is, at some inputs, a layer's output y and the
gradient g of the score with respect to it. A layer may give a tuple of tensors. So here is a network for captum whose
one layer gives the outputs y₁ … y_L of all layers, recorded in one pass of the real network, and whose score is

    Σ_l ⟨g_l, y_l⟩        so that its gradient with respect to y_l is g_l, to the bit

captum does the rest, on the same numbers that it would find by itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from captum.attr import LayerGradientXActivation
from torch import Tensor, nn

from deepprobe.hooks.attach import attached

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from deepprobe.attribution.network import Layer
    from deepprobe.records.layer import LayerCall

UNUSED_IS_ZERO = {"allow_unused": True, "materialize_grads": True}
"""For ``torch.autograd.grad``: a layer that the score does not depend on has gradient zero."""


class AllLayers(nn.Module):
    """The layers of a network as one.

    Args:
        scores: From positional tensors to scores, through the network.
        network: The network.
        layers: Its layers that are explained.
        n_inputs: How many of the tensors are inputs; those after them are not attributed to.

    Attributes:
        outputs: The one layer; its output is a tuple, of each layer units on axis 1.
    """

    def __init__(
        self, scores: Callable[..., Tensor], network: nn.Module, *, layers: Sequence[Layer], n_inputs: int
    ) -> None:
        super().__init__()
        self.outputs = nn.Identity()
        self._layers = {layer.call.layer: layer for layer in layers}
        self._n_inputs = n_inputs
        self._network = (network,)  # in a tuple, so that it does not become a part of this module
        modules = [layer.module for layer in layers]
        self._gradients = LayerGradientXActivation(scores, modules, multiply_by_inputs=False)

    def forward(self, *tensors: Tensor) -> Tensor:
        """``Σ_l ⟨g_l, y_l⟩`` of each sample, shape (n,); the last tensor is the target, empty where there is none."""
        *given, target = tensors
        outputs, gradients = self._recorded([t.detach() for t in given], target if target.numel() else None)
        found = self.outputs(outputs)
        products = [(y * g).reshape(len(y), -1).sum(dim=1) for y, g in zip(found, gradients, strict=True)]
        return torch.stack([p.double() for p in products]).sum(dim=0)

    def _recorded(self, given: list[Tensor], target: Tensor | None) -> tuple[tuple[Tensor, ...], list[Tensor]]:
        """Outputs and gradients of all layers, from one pass forward and backward."""
        kept: dict[str, Tensor] = {}

        def keep(call: LayerCall, tensor: Tensor) -> None:
            kept[call.layer] = tensor.detach()  # captum gives a copy on, so that nothing overwrites it

        modules = {name: layer.module for name, layer in self._layers.items()}
        with attached(self._network[0], modules, tap="output", on_tensor=keep):
            gradients = self._gradients.attribute(
                tuple(given[: self._n_inputs]),
                target=target,
                additional_forward_args=tuple(given[self._n_inputs :]) or None,
                grad_kwargs=UNUSED_IS_ZERO,
            )
        layers = self._layers.values()
        outputs = tuple(_units_second(layer, kept[name]) for name, layer in self._layers.items())
        return outputs, [_units_second(layer, g.detach()) for layer, g in zip(layers, gradients, strict=True)]


def _units_second(layer: Layer, values: Tensor) -> Tensor:
    """A tensor of the shape of a layer's output, with its units on axis 1 as captum expects of maps."""
    return values[:, None] if values.ndim == 1 else values.movedim(layer.axis, 1)
