"""Dead, constant and rarely firing units, counted over every row: one sum and one thin sample a tensor, no copies."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from deepprobe.records.spectrum import Units

if TYPE_CHECKING:
    from torch import Tensor

RARE = 50
"""A unit is rare where it is not zero in fewer rows than this."""

_THIN = 1024  # rows of the thin sample that clears most units of suspicion
_CLEARED = 3  # units that fire at least this often in it are not counted one by one


class UnitCounter:
    """Counts, over all rows, how often each unit is not zero and whether it ever changes.

    Whether a unit is dead or constant is exact. Firing counts are exact for units that fire in less than about 0.3 % of
    the rows; for the others a thin sample's count is taken, scaled up.

    Args:
        n_features: Units d.
        firings: False to watch for non-finite values only, at the cost of one sum.
    """

    def __init__(self, n_features: int, *, firings: bool = True) -> None:
        self.n_features = n_features
        self._firings = firings
        self.n_rows = 0
        self.n_nonfinite = 0
        self.first_nonfinite = -1
        self._first: Tensor | None = None
        self._fired: Tensor | None = None
        self._constant: Tensor | None = None

    def update(self, blocks: Tensor) -> bool:
        """Take rows.

        Args:
            blocks: Shape (b, d, p), floating point, on any device.

        Returns:
            False if a value was NaN or infinite: it is counted, and the whole batch left out.
        """
        if blocks.numel() == 0:
            return True
        if not torch.isfinite(blocks.sum(dtype=_sum_dtype(blocks))) and self._count_nonfinite(blocks):
            return False
        if not self._firings:
            return True
        if self._first is None or self._fired is None or self._constant is None:
            self._first = blocks[0, :, 0].clone()
            self._fired = torch.zeros(self.n_features, dtype=torch.float64, device=blocks.device)
            self._constant = torch.ones(self.n_features, dtype=torch.bool, device=blocks.device)
        b, _, p = blocks.shape
        self.n_rows += b * p
        thin = blocks[:: max(1, b // _THIN), :, :: max(1, b * p // _THIN)] if b * p > 2 * _THIN else blocks
        share = thin.shape[0] * thin.shape[2] / (b * p)
        fired = (thin != 0).sum((0, 2), dtype=torch.float64)
        self._constant &= (thin == self._first[:, None]).all(2).all(0)
        self._fired += self._over_all_rows(blocks, fired, share) if share < 1 else fired
        return True

    def _over_all_rows(self, blocks: Tensor, thin: Tensor, share: float) -> Tensor:
        """Firing counts over all rows: exact for the few units the thin sample leaves under suspicion, else scaled."""
        assert self._first is not None
        assert self._constant is not None
        fired = thin / share
        quiet = (thin < _CLEARED).nonzero().squeeze(1)
        if len(quiet):
            fired[quiet] = (blocks[:, quiet] != 0).sum((0, 2), dtype=torch.float64)
        still = self._constant.nonzero().squeeze(1)
        if len(still):
            self._constant[still] = (blocks[:, still] == self._first[still][:, None]).all(2).all(0)
        return fired

    def _count_nonfinite(self, blocks: Tensor) -> bool:
        """Count NaN and infinite values; False if it was only the sum that overflowed."""
        bad = ~torch.isfinite(blocks)
        count = int(bad.sum())
        if count:
            self.n_nonfinite += count
            if self.first_nonfinite < 0:
                self.first_nonfinite = int(bad.any(2).any(0).nonzero()[0])
        return count > 0

    def result(self, *, n_duplicate: int = 0) -> Units:
        """Counts so far, with the duplicates that the accumulator found."""
        if self._first is None or self._fired is None or self._constant is None:
            return Units(n_nonfinite=self.n_nonfinite, first_nonfinite=self.first_nonfinite)
        dead = self._fired == 0
        return Units(
            n_dead=int(dead.sum()),
            n_constant=int(self._constant.sum()),
            n_duplicate=n_duplicate,
            n_rare=int(((self._fired < RARE) & ~dead).sum()),
            n_nonfinite=self.n_nonfinite,
            first_nonfinite=self.first_nonfinite,
        )


def _sum_dtype(blocks: Tensor) -> torch.dtype | None:
    """Half-precision sums overflow at once: form them in float32."""
    return torch.float32 if blocks.dtype in {torch.float16, torch.bfloat16} else None
