"""SNIP: the sensitivity of the loss to each connection, before training.

Lee, Ajanthan & Torr (2019), "SNIP: single-shot network pruning based on connection sensitivity". The
derivative with respect to a switch c on the weight, at c = 1, is w · ∂L/∂w: the order is that of ``gradient-weight``,
and what makes it SNIP is that untrained weights are scored, and at once. Lee et al. take one batch.
"""

from __future__ import annotations

from torch import Tensor

from deepprobe.linalg.precision import wide_dtype
from deepprobe.pruning.criteria.gradient_weight import sensitivities
from deepprobe.pruning.criteria.subject import Subject


def snip(subject: Subject) -> dict[str, Tensor]:
    """Share of each weight in the sum of |w · ∂L/∂w| over the kept weights of all layers.

    Raises:
        ConfigError: If the subject has no batches, or there is no loss that fits them.
    """
    found = sensitivities(subject, "snip")
    sums = [(score * subject.masks[name]).sum(dtype=wide_dtype(score.device)).item() for name, score in found.items()]
    total = sum(sums) or 1.0
    return {name: score / total for name, score in found.items()}
