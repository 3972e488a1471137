"""From a network to the masks of a round."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deepprobe.pruning.criteria import Subject
from deepprobe.pruning.removal import removed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor, nn

    from deepprobe.pruning.config import LotteryConfig
    from deepprobe.pruning.masks import Masks


def masks_after(
    network: nn.Module,
    before: Masks,
    config: LotteryConfig,
    number: int,
    *,
    initial: Mapping[str, Tensor],
    batches: Sequence[tuple[Tensor, Tensor]],
    seed: int,
) -> Masks:
    """Masks of a round: exactly as many weights as its density says, those of the lowest score gone."""
    sizes = {name: mask.numel() for name, mask in before.items()}
    kept = config.kept(sizes, number)
    subject = Subject(network, before, initial=initial, batches=batches, seed=seed)
    return removed(subject, config.criterion, kept)
