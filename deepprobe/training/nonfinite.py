"""Where NaN or infinity first stands in a network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from deepprobe.seeding import preserved_random_states

if TYPE_CHECKING:
    from torch import Tensor, nn


def first_nonfinite(model: nn.Module, x: Tensor) -> str:
    """The first parameter, or else the first layer's output in a forward pass, that holds NaN or infinity, in words.

    Args:
        model: In the mode in which it is to be asked; buffers and random states are as before afterwards.
        x: A batch.

    Returns:
        "the weights of 'stem.conv.weight'", "the output of 'stage1.0.conv1'" or "the loss".
    """
    for name, parameter in model.named_parameters():
        if not _is_finite(parameter):
            return f"the weights of {name!r}"
    found: list[str] = []
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    handles = [m.register_forward_hook(_Note(found, n)) for n, m in model.named_modules() if not list(m.children())]
    try:
        with torch.no_grad(), preserved_random_states():
            model(x)
    finally:
        for handle in handles:
            handle.remove()
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                buffer.copy_(buffers[name])
    return f"the output of {found[0]!r}" if found else "the loss"


def all_finite(model: nn.Module) -> bool:
    """Whether no parameter holds NaN or infinity; one synchronisation."""
    flags = [torch.isfinite(p.detach()).all() for p in model.parameters()]
    return not flags or bool(torch.stack(flags).all())


class _Note:
    """Hook that notes a layer whose output is not finite."""

    def __init__(self, found: list[str], name: str) -> None:
        self.found, self.name = found, name

    def __call__(self, module: nn.Module, args: Any, output: Any) -> None:
        if not self.found and isinstance(output, torch.Tensor) and not _is_finite(output):
            self.found.append(self.name)


def _is_finite(tensor: Tensor) -> bool:
    """Whether every number of a tensor is finite."""
    return bool(torch.isfinite(tensor.detach()).all())
