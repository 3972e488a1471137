"""Evaluation mode with the statistics of a batch, as a network that trains has them."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
    from collections.abc import Iterator

BatchNorm = nn.modules.batchnorm._BatchNorm


@contextmanager
def batch_statistics(network: nn.Module) -> Iterator[None]:
    """Evaluation mode, but for batch normalisation, which uses a batch's statistics and keeps them for later passes.

    Nothing drops out, and what is frozen stays so. Inside ``differentiating``, which puts modes and statistics back.
    """
    norms = [m for m in network.modules() if isinstance(m, BatchNorm) and m.training]
    momenta = [norm.momentum for norm in norms]
    network.eval()
    try:
        for norm in norms:
            norm.train()
            norm.momentum = 1.0
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        network.eval()
