"""Chance: what any other criterion has to beat."""

from __future__ import annotations

import torch
from torch import Tensor

from deepprobe.pruning.criteria.subject import Subject
from deepprobe.seeding import derive_seed


def random(subject: Subject) -> dict[str, Tensor]:
    """A number between 0 and 1 for each weight: of the seed and the parameter's name alone, whatever the device."""
    return {
        name: torch.rand(
            mask.shape, generator=torch.Generator().manual_seed(derive_seed(subject.seed, "random criterion", name))
        ).to(mask.device)
        for name, mask in subject.masks.items()
    }
