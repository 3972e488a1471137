"""Largest singular values of a matrix that is only known by its products, for many matrices at once.

Golub & Kahan (1965, section 3); with short recurrences Paige (1974). After k steps and half a one more,

    Aᵀ U_k = V_{k+1} B_kᵀ,    A V_{k+1} = U_k B_k + α_{k+1} u_{k+1} e_{k+1}ᵀ

with B_k of k rows and k + 1 columns, α_j on its diagonal, β_j beside it. Every vector is orthogonalised twice against
all before it, so that no value appears more than once ("twice is enough": Parlett 1998, section 6.9). With
B_k = P Σ Qᵀ each σ_i is off a singular value of A by no more than its residual α_{k+1} |Q_{k+1,i}|, and as
B_k B_kᵀ = U_kᵀ A Aᵀ U_k, none is above the true one of its rank.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

Product: TypeAlias = Callable[[Tensor], Tensor]
"""From one vector a matrix, shape (matrices, columns), to the products, shape (matrices, rows)."""

NEGLIGIBLE = 1e-14
"""Share of the largest number so far below which a new direction is rounding: there is none left."""


@dataclass(frozen=True, eq=False)
class LargestValues:
    """Approximations from below to the largest singular values of several matrices.

    Attributes:
        values: Shape (matrices, k), float64, descending; NaN where a product was not finite.
        residuals: Shape (matrices, k): a singular value lies within this of each positive value, rounding aside.
    """

    values: NDArray[np.float64]
    residuals: NDArray[np.float64]


def golub_kahan(matvec: Product, rmatvec: Product, start: Tensor, *, steps: int) -> LargestValues:
    """Bidiagonalise matrices that share a shape, a product with each and its transpose a step, and one more.

    Args:
        matvec: ``A v`` of each matrix, from (matrices, d) to (matrices, n).
        rmatvec: ``Aᵀ u`` of each, from (matrices, n) to (matrices, d).
        start: Starting vectors, shape (matrices, d), random; their dtype, normally float64, is that of the iteration.
        steps: How many, at most min(n, d); the largest value needs 10 to 20, the i-th several times i.

    Returns:
        ``steps`` values of each matrix, of equal ones the first; zeros, with residuals of 0, once there is no direction
        left that the start leads to.

    Example:
        >>> a = torch.diag(torch.tensor([3.0, 2.0, 1.0], dtype=torch.float64))
        >>> found = golub_kahan(lambda v: v @ a.T, lambda u: u @ a, torch.ones(1, 3, dtype=torch.float64), steps=3)
        >>> found.values.round(12).tolist()
        [[3.0, 2.0, 1.0]]
    """
    scale = torch.zeros(len(start), dtype=start.dtype, device=start.device)
    right, left = [_normalised(start, scale)[0]], list[Tensor]()
    alphas, betas = list[Tensor](), list[Tensor]()
    for _ in range(steps):
        u, alpha = _normalised(_orthogonal(matvec(right[-1]).to(start.dtype), left), scale)
        scale = torch.maximum(scale, alpha)
        left.append(u)
        v, beta = _normalised(_orthogonal(rmatvec(u).to(start.dtype), right), scale)
        scale = torch.maximum(scale, beta)
        right.append(v)
        alphas.append(alpha)
        betas.append(beta)
    _, rest = _normalised(_orthogonal(matvec(right[-1]).to(start.dtype), left), scale)
    diagonal, beside, rest = (x.cpu().double() for x in (torch.stack(alphas, 1), torch.stack(betas, 1), rest))
    return _read(diagonal, beside, rest)


def _orthogonal(vectors: Tensor, basis: list[Tensor]) -> Tensor:
    """The vectors without their parts along a basis, shape (matrices, n) each: Gram–Schmidt, twice."""
    if not basis:
        return vectors
    known = torch.stack(basis, dim=1)
    for _ in range(2):
        shares = torch.einsum("bkn,bn->bk", known, vectors)
        vectors = vectors - torch.einsum("bkn,bk->bn", known, shares)
    return vectors


def _normalised(vectors: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Unit vectors and their lengths; zeros for what is negligible beside the scale."""
    largest = vectors.abs().amax(1).clamp_min(torch.finfo(vectors.dtype).tiny)
    length = largest * torch.linalg.vector_norm(vectors / largest[:, None], dim=1)
    kept = ~(length <= NEGLIGIBLE * scale) & (length != 0)  # NaN stays
    unit = torch.where(kept[:, None], vectors / torch.where(kept, length, 1)[:, None], 0)
    return unit, torch.where(kept, length, 0)


def _read(diagonal: Tensor, beside: Tensor, rest: Tensor) -> LargestValues:
    """Values and residuals of bidiagonal matrices from α and β, shape (matrices, k) both, and the last α."""
    bidiagonal = F.pad(torch.diag_embed(diagonal), (0, 1)) + F.pad(torch.diag_embed(beside), (1, 0))
    lost = ~(torch.isfinite(bidiagonal).flatten(1).all(1) & torch.isfinite(rest))[:, None]
    _, values, right = torch.linalg.svd(torch.where(lost[..., None], 0, bidiagonal), full_matrices=False)
    residuals = rest[:, None] * right[:, :, -1].abs()
    return LargestValues(values.masked_fill(lost, torch.nan).numpy(), residuals.masked_fill(lost, torch.nan).numpy())
