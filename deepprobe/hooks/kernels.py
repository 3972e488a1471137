"""A network's kernels by depth: the weight matrices and convolution kernels, not biases or scales."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import nn

from deepprobe.errors import UnknownNameError
from deepprobe.hooks.select import is_weighted, on_shortcut, select_layers, unwrapped
from deepprobe.records.layer import LayerCall

if TYPE_CHECKING:
    from deepprobe.hooks.select import LayerSelection


@dataclass(frozen=True, eq=False)
class Kernel:
    """One parameter of two or more axes and the layer that it belongs to.

    Attributes:
        call: Depth, position, name and class of the layer; its tap is ``weight``. A layer with several kernels names
            each by its parameter, ``lstm.weight_hh_l0``.
        parameter: The kernel, a floating-point tensor.
        module: The layer.
    """

    call: LayerCall
    parameter: nn.Parameter
    module: nn.Module

    @property
    def matrix_shape(self) -> tuple[int, int]:
        """Rows n and columns d of the kernel as a matrix, n the larger of the outputs and what each of them reads."""
        outputs = self.parameter.shape[0]
        if self.is_transposed:
            outputs = self.parameter.shape[1] * self.groups
        reads = self.parameter.numel() * self.groups // max(outputs, 1)
        return (max(outputs, reads), min(outputs, reads))

    @property
    def groups(self) -> int:
        """Groups of a grouped convolution, else 1."""
        groups = getattr(self.module, "groups", 1) if self.is_convolution else 1
        return int(groups)

    @property
    def is_convolution(self) -> bool:
        """Whether the layer is one of torch's convolutions, transposed or not."""
        return isinstance(self.module, nn.modules.conv._ConvNd)

    @property
    def is_transposed(self) -> bool:
        """Whether the kernel's first axis is the layer's input: transposed convolutions."""
        return self.is_convolution and bool(getattr(self.module, "transposed", False))

    def columns(self, *, tap: str) -> dict[str, Any]:
        """What the tidy frame says of where a number was taken, for the view ``kernel``."""
        n, d = self.matrix_shape
        call, dtype = self.call, str(self.parameter.dtype).removeprefix("torch.")
        return {
            "layer": call.layer, "depth": call.depth, "call": 1, "tap": tap, "view": "kernel", "type": call.type,
            "dtype": dtype, "n_rows": n, "n_features": d, "sketched": False,
        }  # fmt: skip


def kernels(model: nn.Module, layers: LayerSelection = None) -> list[Kernel]:
    """The kernels of the chosen layers, in order of registration; a parameter that layers share once, at the first.

    Depth counts the weighted layers registered so far, those of shortcuts not counted. In every network of the zoo
    that is the order in which they run (but for the shortcuts of pre-activation blocks, which run before the block).

    Args:
        model: Any module; wrappers are looked through.
        layers: As in ``select_layers``; by default every layer with weights.

    Returns:
        At least one kernel.

    Raises:
        UnknownNameError: If ``layers`` matches nothing, or nothing that has a kernel.
    """
    chosen = select_layers(model, layers)
    found: list[Kernel] = []
    seen: set[int] = set()
    depth = 0
    for name, module in unwrapped(model).named_modules():
        depth += is_weighted(module) and not on_shortcut(name)
        own = {key: p for key, p in module.named_parameters(recurse=False) if p.ndim >= 2 and p.is_floating_point()}
        for key, parameter in own.items() if name in chosen else ():
            if id(parameter) in seen:
                continue
            seen.add(id(parameter))
            layer = name if len(own) == 1 else f"{name}.{key}".lstrip(".")
            call = LayerCall(depth, len(found), layer, 1, type(module).__name__, "weight")
            found.append(Kernel(call, parameter, module))
    if not found:
        raise UnknownNameError(f"none of the {len(chosen)} chosen layers has a kernel: a parameter of two or more axes")
    return found
