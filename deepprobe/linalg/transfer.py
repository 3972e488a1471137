"""From the device to the host in one copy: each waits for all work before it, so that many small ones cost most."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


def fetched(tensors: Sequence[Sequence[Tensor]]) -> list[list[Tensor]]:
    """Copies of tensors on the CPU, with one transfer a device.

    Args:
        tensors: Lists of tensors of any shape, dtype and device.

    Returns:
        As many lists, of tensors of the same shapes and dtypes; those of one device lie in one piece of memory.
    """
    flat = [t.detach() for part in tensors for t in part]
    found: dict[int, Tensor] = {}
    for device in dict.fromkeys(t.device for t in flat):
        here = [i for i, t in enumerate(flat) if t.device == device]
        here.sort(key=lambda i: -flat[i].dtype.itemsize)  # large numbers first: every piece is aligned
        together = torch.cat([flat[i].reshape(-1).contiguous().view(torch.uint8) for i in here]).cpu()
        start = 0
        for i in here:
            size = flat[i].numel() * flat[i].dtype.itemsize
            found[i] = together[start : start + size].view(flat[i].dtype).view(flat[i].shape)
            start += size
    pieces = iter(range(len(flat)))
    return [[found[next(pieces)] for _ in part] for part in tensors]
