"""The dtype that sums are kept in on a device."""

from __future__ import annotations

import torch


def wide_dtype(device: torch.device) -> torch.dtype:
    """float64, or float32 on a device that has none (MPS)."""
    return torch.float32 if device.type == "mps" else torch.float64
