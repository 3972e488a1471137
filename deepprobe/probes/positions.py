"""Random positions, drawn where the activations are: one draw a resolution and forward pass."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from deepprobe.linalg.matricize import at_positions

if TYPE_CHECKING:
    from torch import Tensor


class Positions:
    """Positions of each sample, drawn anew for every sample and forward pass; layers of one resolution share them.

    Sharing changes no layer's rows but only how the errors of drawing hang together from layer to layer. Drawing on the
    activations' own device spares the wait for a copy; a CPU and a GPU draw different positions from one seed.

    Args:
        count: Positions a sample, drawn with replacement.
        seed: Of the draws.
    """

    def __init__(self, count: int, seed: int) -> None:
        self.count = count
        self._seed = seed
        self._generators: dict[torch.device, torch.Generator] = {}
        self._drawn: dict[tuple[torch.device, int, int], Tensor] = {}

    def renew(self) -> None:
        """Draw anew from here on: another forward pass begins."""
        self._drawn.clear()

    def drawn(self, blocks: Tensor) -> Tensor:
        """Blocks (b, d, p) at ``count`` positions of every sample, (b, d, count), new; as they are where p ≤ count."""
        index = self.index(blocks)
        return blocks if index is None else at_positions(blocks, index)

    def index(self, blocks: Tensor) -> Tensor | None:
        """The positions of this forward pass for blocks (b, d, p), shape (b, count); None where all are used."""
        b, _, p = blocks.shape
        if p <= self.count:
            return None
        if (blocks.device, b, p) not in self._drawn:
            generator = generator_for(blocks.device, self._seed, known=self._generators)
            drawn = torch.randint(p, (b, self.count), generator=generator, device=blocks.device)
            self._drawn[blocks.device, b, p] = drawn
        return self._drawn[blocks.device, b, p]


def generator_for(device: torch.device, seed: int, *, known: dict[torch.device, torch.Generator]) -> torch.Generator:
    """The generator on a device among those known, made of the seed where there is none yet."""
    if device not in known:
        known[device] = torch.Generator(device=device).manual_seed(seed)
    return known[device]
