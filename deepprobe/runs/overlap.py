"""How much of two masks is the same, and how much would be by chance."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray


def mask_overlap(one: Mapping[str, NDArray[np.bool_]], other: Mapping[str, NDArray[np.bool_]]) -> tuple[float, float]:
    """Intersection over union of the kept weights of two masks of one network, and what chance would give.

    Chance knows how many weights each mask keeps in each tensor, but not which: of n weights, masks that keep a and b
    at random share a·b/n in the mean (hypergeometric distribution). So an overlap above chance is one of positions, not
    of how the density is laid out over the layers.

    Args:
        one: Parameter name to mask.
        other: The same names and shapes.

    Returns:
        (overlap, chance), each between 0 and 1: Σ|A∩B| / Σ|A∪B| over all tensors, and Σ ab/n / Σ (a + b - ab/n). NaN
        where neither keeps anything, or the masks are of different networks.
    """
    if {k: m.shape for k, m in one.items()} != {k: m.shape for k, m in other.items()}:
        return float("nan"), float("nan")
    shared = kept = 0
    expected = 0.0
    for name, a in one.items():
        b = other[name]
        n_a, n_b = int(np.count_nonzero(a)), int(np.count_nonzero(b))
        shared += int(np.count_nonzero(a & b))
        kept += n_a + n_b
        expected += n_a * n_b / a.size if a.size else 0.0
    return (shared / (kept - shared), expected / (kept - expected)) if kept else (float("nan"), float("nan"))
