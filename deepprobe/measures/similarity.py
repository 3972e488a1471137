"""How alike representations of the same samples are: linear CKA and angles between leading directions, streaming.

Let X (n × d₁) and Y (n × d₂) hold the same n samples, centred, K = X Xᵀ and L = Y Yᵀ.

    CKA(X, Y)   = ‖Yᵀ X‖²_F / (‖Xᵀ X‖_F ‖Yᵀ Y‖_F) = ⟨K, L⟩ / (‖K‖_F ‖L‖_F)

(Kornblith et al. 2019, "Similarity of neural network representations revisited", equations 3 and 5.) It is 1 for a
rotation and an isotropic scaling, and does not see which units carry what. ``Covariances`` sums up Xᵀ Y over batches
and gives it exactly. ``Grams`` holds n × n matrices of one batch, exactly too, or of many batches: then ⟨K, L⟩ is the
mean over batches of the unbiased estimate (Nguyen et al. 2021, "Do wide and deep networks learn the same things?",
equations 2 to 4; Song et al. 2012)

    HSIC₁(K, L) = [tr K̃L̃ + (1ᵀK̃1)(1ᵀL̃1) / ((n−1)(n−2)) − 2 (1ᵀK̃L̃1) / (n−2)] / (n (n−3))

with K̃ = K without its diagonal. It equals the inner product of U-centred matrices (Székely & Rizzo 2014, equation 2.2),
which is how it is computed: CKA stays within −1 … 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from deepprobe.linalg.precision import wide_dtype

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor

STATUSES = ("nonfinite", "constant", "finite")
"""What can be said of a layer, or of a pair: the first that holds of either."""

FEWEST_UNBIASED = 4
"""Samples that the unbiased estimate needs."""


@dataclass(frozen=True, eq=False)
class Products:
    """What similarities are computed from, of L layers on the host, float64.

    Attributes:
        inner: ⟨K_i, K_j⟩, shape (L, L).
        variation: ‖X‖²_F of the centred features, shape (L,).
        total: ‖X‖²_F of the features as they are, shape (L,).
        n_rows: Samples.
    """

    inner: NDArray[np.float64]
    variation: NDArray[np.float64]
    total: NDArray[np.float64]
    n_rows: int

    def statuses(self, roundoff: Sequence[float]) -> list[str]:
        """Status of each layer: ``constant`` where its samples differ by no more than the dtype's own rounding."""
        with np.errstate(invalid="ignore"):
            constant = self.variation <= np.square(roundoff) * self.total
        found = np.where(constant, "constant", "finite")
        return list(np.where(np.isfinite(self.inner.diagonal()), found, "nonfinite"))


class Covariances:
    """Σ (x − x̄)(y − ȳ)ᵀ over rows between all features of all layers, merged over batches (Chan et al. 1979).

    Memory: (Σd)² + 2 Σd numbers of float64 on the features' device; a batch takes 2 n (Σd)² operations. A value that is
    not finite makes the pairs of its own layer NaN and no other.

    Args:
        widths: Features d of each layer.
    """

    def __init__(self, widths: Sequence[int]) -> None:
        self.widths, self.n_rows = tuple(widths), 0
        self._state: list[Tensor] = []

    def update(self, parts: Sequence[Tensor]) -> None:
        """Take the features of the same rows in every layer, each (n, d)."""
        rows = torch.cat([part.to(wide_dtype(part.device)) for part in parts], dim=1)
        n, total = len(rows), self.n_rows + len(rows)
        if not self._state:
            self._state = [rows.new_zeros(rows.shape[1]), rows.new_zeros(rows.shape[1], rows.shape[1])]
        mean, products = self._state
        own = rows.mean(0)
        off = own - mean
        rows -= own
        products.addmm_(rows.T, rows).addr_(off, off, alpha=self.n_rows * n / total)
        mean += off * (n / total)
        self.n_rows = total

    def tensors(self) -> list[Tensor]:
        """Means and products, on their device."""
        return self._state

    def products(self, tensors: Sequence[Tensor]) -> Products:
        """What CKA is made of, from a copy of ``tensors`` on the host."""
        mean, between = (t.double().numpy() for t in tensors)
        starts = self._starts()
        with np.errstate(invalid="ignore", over="ignore"):
            inner = np.add.reduceat(np.add.reduceat(between**2, starts, axis=0), starts, axis=1)
            variation = np.add.reduceat(between.diagonal(), starts)
            total = variation + self.n_rows * np.add.reduceat(mean**2, starts)
        return Products(inner, variation, total, self.n_rows)

    def directions(self, tensors: Sequence[Tensor], count: int) -> Directions:
        """Leading directions of each layer's samples and what they have in common."""
        between = tensors[1].double().numpy()
        size = len(between)
        map_, values = np.zeros((len(self.widths), count, size)), np.zeros((len(self.widths), count))
        for i, (start, width) in enumerate(zip(self._starts(), self.widths, strict=True)):
            part = slice(start, start + width)
            found, vectors = _leading(between[part, part], count)
            scale = np.divide(1.0, np.sqrt(found), out=np.zeros_like(found), where=found > 0)
            map_[i, : len(found), part], values[i, : len(found)] = (vectors * scale).T, found
        flat = map_.reshape(-1, size)
        finite = np.where(np.isfinite(between), between, 0.0)
        common = (flat @ finite @ flat.T).reshape(len(self.widths), count, len(self.widths), count)
        return Directions(values, common)

    def _starts(self) -> NDArray[np.intp]:
        """Where each layer's features begin."""
        return np.cumsum([0, *self.widths[:-1]])


class Grams:
    """n × n products between the samples of a batch, of all layers, and their inner products.

    Memory: 2 L n² + L² numbers of float64, n the samples of the largest batch.

    Args:
        unbiased: Whether to average the unbiased estimate over batches; else all samples must come in one batch.
    """

    def __init__(self, *, unbiased: bool) -> None:
        self.unbiased, self.n_rows = unbiased, 0
        self._state: list[Tensor] = []
        self._kept: Tensor | None = None

    def update(self, parts: Sequence[tuple[Tensor, Tensor]]) -> None:
        """Take what ``gram`` gave of the same samples in every layer; fewer than four count for nothing if unbiased."""
        n = len(parts[0][0])
        if self.unbiased and n < FEWEST_UNBIASED:
            return
        centred = torch.stack([gram for gram, _ in parts])
        variation = centred.diagonal(dim1=1, dim2=2).sum(1)
        if self.unbiased:
            u_centre_(centred)
        flat = centred.flatten(1)
        inner = flat @ flat.T
        inner *= 1 / (n - 3) if self.unbiased else 1.0  # a mean weighted by n, of sums over n (n − 3)
        new = [inner, variation, torch.stack([total for _, total in parts])]
        self._state = [old + more for old, more in zip(self._state, new, strict=True)] if self._state else new
        self._kept = None if self.unbiased else centred
        self.n_rows += n

    def tensors(self) -> list[Tensor]:
        """Sums so far, on their device."""
        return self._state

    def products(self, tensors: Sequence[Tensor]) -> Products:
        """What CKA is made of, from a copy of ``tensors`` on the host."""
        inner, variation, total = (t.double().numpy() for t in tensors)
        return Products(inner, variation, total, self.n_rows)

    def directions(self, count: int) -> Directions:
        """Leading directions of each layer's samples and what they have in common; of one batch only."""
        assert self._kept is not None
        grams = self._kept.cpu().double().numpy()
        vectors, values = np.zeros((len(grams), count, grams.shape[1])), np.zeros((len(grams), count))
        for i, gram in enumerate(grams):
            found, columns = _leading(gram, count)
            vectors[i, : len(found)], values[i, : len(found)] = columns.T, found
        flat = vectors.reshape(-1, grams.shape[1])
        return Directions(values, (flat @ flat.T).reshape(len(grams), count, len(grams), count))


@dataclass(frozen=True, eq=False)
class Directions:
    """The leading left singular vectors of L centred layers.

    Attributes:
        values: σ², descending, shape (L, k); 0 where a layer has fewer.
        common: Inner products of the vectors, shape (L, k, L, k).
    """

    values: NDArray[np.float64]
    common: NDArray[np.float64]


def gram(features: Tensor) -> tuple[Tensor, Tensor]:
    """Products X Xᵀ of centred rows, (n, n), and ‖·‖²_F of the rows as they are, (), both float64, for ``Grams``."""
    rows = features.to(wide_dtype(features.device))
    total = (rows**2).sum()
    rows = rows - rows.mean(0)
    return rows @ rows.T, total


def u_centre_(grams: Tensor) -> Tensor:
    """U-centre symmetric matrices (…, n, n) in place: off the diagonal rows and columns sum to 0, on it stands 0."""
    n = grams.shape[-1]
    grams.diagonal(dim1=-2, dim2=-1).zero_()
    sums = grams.sum(-1, keepdim=True) / (n - 2)
    whole = sums.sum(-2, keepdim=True) / (n - 1)
    grams -= sums
    grams -= sums.transpose(-1, -2)
    grams += whole
    grams.diagonal(dim1=-2, dim2=-1).zero_()
    return grams


def linear_cka(products: Products) -> NDArray[np.float64]:
    """CKA of every pair of layers, shape (L, L): symmetric, NaN where a layer has no variation or is not finite."""
    with np.errstate(invalid="ignore", divide="ignore"):
        own = np.sqrt(np.where(products.inner.diagonal() > 0, products.inner.diagonal(), np.nan))
        found = products.inner / own[:, None] / own
    upper = np.triu(found)
    return np.where(np.tri(len(found), k=-1, dtype=bool), upper.T, upper).clip(-1.0, 1.0)


def principal_angles(found: Directions, i: int, j: int, *, count: int) -> NDArray[np.float64]:
    """Angles between the spans of the ``count`` leading directions of two layers, in radian, ascending.

    Björck & Golub (1973): arccos of the singular values of Uᵢᵀ Uⱼ. Angles below about 1e-7 are lost in the cosine's
    rounding.
    """
    cosines = np.linalg.svd(found.common[i, :count, j, :count], compute_uv=False)
    return np.asarray(np.arccos(np.clip(cosines, 0.0, 1.0)))


def _leading(matrix: NDArray[np.float64], count: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Largest eigenvalues, descending, none below 0, and their vectors as columns; none of a matrix with NaN."""
    if not np.isfinite(matrix).all():
        return np.zeros(0), np.zeros((len(matrix), 0))
    values, vectors = np.linalg.eigh(matrix)
    kept = slice(len(values) - 1, max(len(values) - count, 0) - 1 if len(values) > count else None, -1)
    return np.maximum(values[kept], 0.0), vectors[:, kept]
