"""Masks to compare a ticket with: the same counts, other places."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from deepprobe.hooks.kernels import kernels
from deepprobe.pruning.masks import Masks
from deepprobe.seeding import derive_seed

if TYPE_CHECKING:
    from torch import Tensor, nn

    from deepprobe.hooks.kernels import Kernel


def random_masks(masks: Masks, *, seed: int) -> Masks:
    """Masks that keep as many weights of each tensor, anywhere in it.

    Frankle & Carbin (2019), appendix F; Frankle et al. (2021) call it the mask shuffled within its layer. What a layer
    keeps is left of the ticket, which weights they are is not.

    Args:
        masks: The ticket.
        seed: Draws the places; the same on every device and machine, whatever else is masked.

    Returns:
        Masks of the same shapes and counts, on the same devices, each choice of places as probable as any other.

    Example:
        >>> ticket = Masks({"weight": torch.arange(12).reshape(3, 4) < 5})
        >>> random_masks(ticket, seed=0).counts
        {'weight': 5}
    """
    counts = masks.counts
    return Masks({name: _anywhere(mask, counts[name], seed=derive_seed(seed, name)) for name, mask in masks.items()})


def shuffled_masks(masks: Masks, model: nn.Module, *, seed: int) -> Masks:
    """Masks in which each output unit keeps as many connections, from anywhere that it reads.

    Stricter than ``random_masks``: beside what a layer keeps, how much each of its units reads is left of the ticket –
    units that the ticket cut off stay cut off. A unit is a row of a weight matrix or an output channel of a
    convolution, which reads its group's channels at every place of the kernel.

    Args:
        masks: The ticket.
        model: The network, whose layers tell which axis is the output; wrappers are looked through.
        seed: Draws the places; the same on every device and machine, whatever else is masked.

    Returns:
        Masks of the same shapes and counts, on the same devices.

    Raises:
        ShapeError: If the masks are not of this model.

    Example:
        >>> net = torch.nn.Linear(4, 2)
        >>> ticket = Masks({"weight": torch.tensor([[True, True, True, False], [True, False, False, False]])})
        >>> shuffled_masks(ticket, net, seed=0)["weight"].sum(dim=1).tolist()
        [3, 1]
    """
    parameters = masks.parameters_of(model)
    layers = {id(kernel.parameter): kernel for kernel in kernels(model)}
    return Masks(
        {
            name: _within_units(mask, layers[id(parameters[name])], seed=derive_seed(seed, name))
            for name, mask in masks.items()
        }
    )


def _anywhere(mask: Tensor, n_kept: int, *, seed: int) -> Tensor:
    """A mask of that shape with so many kept."""
    chosen = torch.randperm(mask.numel(), generator=torch.Generator().manual_seed(seed))[:n_kept]
    drawn = torch.zeros(mask.numel(), dtype=torch.bool)
    drawn[chosen] = True
    return drawn.reshape(mask.shape).to(mask.device)


def _within_units(mask: Tensor, kernel: Kernel, *, seed: int) -> Tensor:
    """The mask with the connections of each output unit in another order."""
    if not mask.numel():
        return mask
    units = _by_unit(mask.cpu(), kernel)
    rows = units.reshape(units.shape[0] * units.shape[1], -1)
    keys = torch.randint(2**62, rows.shape, generator=torch.Generator().manual_seed(seed))
    shuffled = torch.empty_like(mask, device="cpu", memory_format=torch.contiguous_format)
    _by_unit(shuffled, kernel).copy_(rows.gather(1, keys.argsort(dim=1)).reshape(units.shape))
    return shuffled.to(mask.device)


def _by_unit(mask: Tensor, kernel: Kernel) -> Tensor:
    """The mask with axes (groups, outputs a group, what each of them reads …); a view."""
    if kernel.is_transposed:
        return mask.reshape(kernel.groups, -1, *mask.shape[1:]).transpose(1, 2)
    return mask.reshape(kernel.groups, -1, *mask.shape[1:])
