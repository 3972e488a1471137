"""From the device to the host in one copy: each waits for all work before it, so that many small ones cost most."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


def fetched(tensors: Sequence[Sequence[Tensor]]) -> list[list[Tensor]]:
    """Copies of tensors on the CPU in float64, with one transfer a device.

    Args:
        tensors: Lists of tensors of any shape and device; integers below 2⁵³ and booleans survive exactly.

    Returns:
        As many lists, of tensors of the same shapes.
    """
    flat = [t for part in tensors for t in part]
    found: dict[int, Tensor] = {}
    for device in dict.fromkeys(t.device for t in flat):
        here = [i for i, t in enumerate(flat) if t.device == device]
        together = torch.cat([flat[i].detach().reshape(-1).double() for i in here]).cpu()
        start = 0
        for i in here:
            found[i] = together[start : start + flat[i].numel()].view(flat[i].shape)
            start += flat[i].numel()
    pieces = iter(range(len(flat)))
    return [[found[next(pieces)] for _ in part] for part in tensors]
