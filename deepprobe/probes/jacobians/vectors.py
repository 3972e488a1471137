"""Vectors that Jacobians are multiplied by."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from deepprobe.probes.jacobians.graph import Point


def unit_vector(point: Point, index: int) -> Tensor:
    """The unit vector of that index for every sample of a point of shape (n, k)."""
    vector = point.zeros()
    vector[:, index] = 1
    return vector


def signs(point: Point, generator: torch.Generator) -> Tensor:
    """Independent ±1 in a point's shape; drawn on the CPU, so the same on every device."""
    drawn = torch.randint(0, 2, point.shape, generator=generator, dtype=torch.int8)
    return drawn.to(point.device).to(point.dtype) * 2 - 1
