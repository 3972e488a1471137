"""Random crops and flips in whole batches on the device, as a function of (seed, epoch, sample).

The draws of an epoch are made at once, a row a sample, so that what happens to a sample depends neither on the batch
it falls into nor on the device, and any step can be replayed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from deepprobe.seeding import derive_seed

if TYPE_CHECKING:
    from torch import Tensor

PAD_SHARE = 8
"""Images are padded by size / PAD_SHARE: 4 pixels of 32, 3 of 28, 1 of 8."""


def draw_augmentation(seed: int, epoch: int, *, n_samples: int) -> Tensor:
    """Random numbers of one epoch.

    Args:
        seed: Seed of the run.
        epoch: Epoch from 0.
        n_samples: Samples in the training set.

    Returns:
        Shape (n_samples, 3), float32 in [0, 1), on the CPU: vertical place, horizontal place, flip.
    """
    generator = torch.Generator().manual_seed(derive_seed(seed, "augmentation", epoch))
    return torch.rand(n_samples, 3, generator=generator)


def augment(images: Tensor, draws: Tensor, *, flip: bool) -> Tensor:
    """Pad with zeros, crop at random to the same size, and flip half of the images left to right.

    He et al. (2016), section 4.2. Zero is the mean pixel of normalised images.

    Args:
        images: Shape (n, c, h, w), any dtype.
        draws: Shape (n, 3), numbers in [0, 1) as from ``draw_augmentation``, on the device of the images.
        flip: Whether to flip.

    Returns:
        New tensor of the same shape, dtype and memory format.
    """
    n, c, h, w = images.shape
    pad_h, pad_w = h // PAD_SHARE, w // PAD_SHARE
    padded = F.pad(images, (pad_w, pad_w, pad_h, pad_h))
    rows = (draws[:, 0] * (2 * pad_h + 1)).long()[:, None] + torch.arange(h, device=images.device)
    columns = (draws[:, 1] * (2 * pad_w + 1)).long()[:, None] + torch.arange(w, device=images.device)
    if flip:
        columns = torch.where(draws[:, 2:] < 0.5, columns.flip(1), columns)
    sample = torch.arange(n, device=images.device)[:, None, None, None]
    channel = torch.arange(c, device=images.device)[None, :, None, None]
    cropped = padded[sample, channel, rows[:, None, :, None], columns[:, None, None, :]]
    last = images.is_contiguous(memory_format=torch.channels_last) and not images.is_contiguous()
    return cropped.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)
