"""How a layer's tensor becomes the rows of a matrix. Every view is a stride trick: nothing is copied.

Rows come as *blocks* of shape (b, d, p): b · p rows of d units, with the units in the middle as in an image batch, so
that both memory formats of an image batch are taken as they lie.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from deepprobe.errors import ConfigError, ShapeError, nearest

if TYPE_CHECKING:
    from torch import Tensor

VIEWS = ("samples", "channels", "pooled", "hosvd1", "hosvd2", "hosvd3", "tokens")
"""Names of the views, as in ``condition_numbers(view=…)``."""

POSITION_VIEWS = ("channels", "tokens")
"""Views with a row a position, of which some can be drawn."""

RESAMPLED_VIEWS = ("channels", "pooled", "tokens")
"""Views whose κ has a standard error: rows are drawn from a population, and fewer of them ask the same question."""

SHUFFLED_VIEWS = ("channels", "pooled")
"""Views with units whose maps can change places between samples."""

ROW_VIEWS = ("samples", "hosvd1", "hosvd2", "hosvd3")
"""Views that ask whether rows can be told apart: κ is over the min(n, d) values, and n < d is no defect."""


def check_view(view: str) -> str:
    """The view's name, if there is such a view.

    Raises:
        ConfigError: If there is none; the nearest names are given.
    """
    if view not in VIEWS:
        raise ConfigError(f"view={view!r} is not a view: {nearest(view, VIEWS)}")
    return view


def blocks(tensor: Tensor, view: str) -> Tensor:
    """A layer's tensor as blocks of rows.

    ====================  ===============================  ==========================================================
    view                  (N, C, *positions) becomes       a row is
    ====================  ===============================  ==========================================================
    ``samples``           (N, C · positions, 1)            a sample, all its units
    ``channels``          (N, C, positions)                a sample at a position, its channels
    ``pooled``            (N, C, 1)                        a sample, its channels averaged over positions
    ``tokens``            (N, D, T) of (N, T…, D)          a sample at a token; units last
    ====================  ===============================  ==========================================================

    A 2-D tensor is rows × units in every view; a 1-D one is a single column of one unit.

    Args:
        tensor: Shape (N, …), floating point.
        view: One of ``samples``, ``channels``, ``pooled``, ``tokens``; for ``hosvd`` see ``unfoldings``.

    Returns:
        A view of the tensor (``pooled``: a new one), shape (b, d, p).

    Raises:
        ShapeError: If the tensor has no sample axis.
    """
    if tensor.ndim == 0:
        raise ShapeError("a single number has no rows: the layer's tensor has shape ()")
    if tensor.ndim == 1:
        tensor = tensor[:, None]
    if tensor.ndim == 2:
        return tensor[:, :, None]
    if view == "samples":
        return tensor.reshape(len(tensor), -1)[:, :, None]
    if view == "tokens":
        return tensor.flatten(1, -2).transpose(1, 2)
    positions = tensor.flatten(2)
    return positions.mean(2, dtype=_mean_dtype(tensor), keepdim=True) if view == "pooled" else positions


def unfoldings(tensor: Tensor, view: str) -> Tensor:
    """The mode-k unfolding of each sample (De Lathauwer, De Moor & Vandewalle 2000), fibres as rows.

    Args:
        tensor: Shape (N, C, H, W).
        view: ``hosvd1`` (C × HW), ``hosvd2`` (H × CW) or ``hosvd3`` (W × CH).

    Returns:
        Shape (N, rows, units): the transposed unfolding, so that units of the mode are columns.

    Raises:
        ShapeError: If the tensor is not 4-D.
    """
    if tensor.ndim != 4:
        raise ShapeError(
            f"view={view!r} unfolds samples of shape (C, H, W); this tensor has shape {tuple(tensor.shape)}"
        )
    mode = int(view[-1])
    return tensor.movedim(mode, -1).flatten(1, -2)


def random_positions(blocks: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """``count`` positions of every sample, drawn anew for each: never a fixed grid, which was off by 0.24 dex.

    Args:
        blocks: Shape (b, d, p).
        count: Positions a sample, drawn with replacement.
        generator: On the blocks' device: positions from elsewhere would have to be waited for.

    Returns:
        Shape (b, d, count), a new tensor; the blocks themselves where p ≤ count.
    """
    b, _, p = blocks.shape
    if p <= count:
        return blocks
    return at_positions(blocks, torch.randint(p, (b, count), generator=generator, device=blocks.device))


def at_positions(blocks: Tensor, index: Tensor) -> Tensor:
    """Blocks (b, d, p) at the positions of an index (b, count), a row of it for each sample: (b, d, count), new."""
    return blocks.gather(2, index[:, None, :].expand(-1, blocks.shape[1], -1))


def shuffled_samples(blocks: Tensor, generator: torch.Generator) -> Tensor:
    """Each unit's maps permuted over the samples, independently of the other units' (Horn 1965, with whole maps).

    Every unit keeps its values and their arrangement in space; what units have in common within a sample is gone.

    Args:
        blocks: Shape (b, d, p).
        generator: On the blocks' device.

    Returns:
        Shape (b, d, p), a new tensor.
    """
    order = torch.rand(blocks.shape[:2], generator=generator, device=blocks.device).argsort(0)
    return blocks.gather(0, order[:, :, None].expand(blocks.shape))


def _mean_dtype(tensor: Tensor) -> torch.dtype:
    """Half-precision means are formed in float32."""
    return torch.float32 if tensor.dtype in {torch.float16, torch.bfloat16} else tensor.dtype
